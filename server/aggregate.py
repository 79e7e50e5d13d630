"""Aggregation: pure functions on named tensors. Sums are in float64; the order of the updates is the caller's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.adapter import Adapter


def weighted_mean(updates: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """Federated averaging (McMahan et al. 2017, https://arxiv.org/abs/1602.05629) of LoRA updates.

    With "ffa" the updates hold B alone and A is the same for all, so that the mean of B·A is the product of
    the means: exact. With "fedavg" A and B are averaged separately, which is not the mean of B·A.

    Args:
        updates: of equal names and shapes, in an order that does not depend on who answered first.
        weights: one per update, positive; from public numbers only.
    """
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    mean: Adapter = {}
    for name in updates[0]:
        total = np.zeros(updates[0][name].shape)
        for weight, update in zip(share, updates, strict=True):
            total += weight * update[name]
        mean[name] = total.astype(np.float32)
    return mean


def add(adapter: Adapter, update: Adapter) -> Adapter:
    """The adapter after an update."""
    return {name: adapter[name] + update[name] for name in adapter}
