"""Weighted means and norms of named tensors. Sums are in float64, in the order given by the caller."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.adapter.adapter import Adapter

# An update in memory, or on disk and read tensor by tensor.
Tensors = Mapping[str, npt.NDArray[np.float32]]


class RunningMean:
    """Federated averaging (McMahan et al. 2017, https://arxiv.org/abs/1602.05629), one update at a time.

    Memory does not grow with the number of updates. Floating-point sums depend on the order of the terms: add
    updates in an order that does not depend on their arrival.
    """

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._weight = 0.0

    def fold(self, update: Tensors, weight: float) -> None:
        """Add an update; its weight is positive and derived from public numbers only."""
        if not self._sums:
            self._sums = {name: np.zeros(tensor.shape) for name, tensor in update.items()}
        for name, total in self._sums.items():
            total += weight * update[name].astype(np.float64)
        self._weight += weight

    def result(self) -> Adapter:
        """Return the weighted mean of the added updates, at least one."""
        return {name: (total / self._weight).astype(np.float32) for name, total in self._sums.items()}


def weighted_mean(updates: Sequence[Tensors], weights: Sequence[float]) -> Adapter:
    """Return the federated average of LoRA updates.

    With "ffa" the updates hold B alone and A is the same for all, so that the mean of B·A is the product of
    the means: exact. With "fedavg" A and B are averaged separately, which is not the mean of B·A.

    Args:
        updates: of equal names and shapes, in an order that does not depend on their arrival.
        weights: one per update, positive; derived from public numbers only.

    >>> updates = [{"w": np.array([1.0, 3.0])}, {"w": np.array([3.0, 5.0])}]
    >>> weighted_mean(updates, [3, 1])["w"].tolist()
    [1.5, 3.5]
    """
    mean = RunningMean()
    for update, weight in zip(updates, weights, strict=True):
        mean.fold(update, weight)
    return mean.result()


def add(adapter: Adapter, update: Tensors) -> Adapter:
    """Return the adapter after an update.

    >>> add({"w": np.array([1.0, 2.0])}, {"w": np.array([0.5, -1.0])})["w"].tolist()
    [1.5, 1.0]
    """
    return {name: adapter[name] + update[name] for name in adapter}


def root_mean_square(update: Mapping[str, npt.NDArray[Any]]) -> float:
    """Return the norm of an update per coordinate, which is comparable across ranks.

    >>> root_mean_square({"a": np.array([1.0, 7.0])})
    5.0
    """
    return norm(update) / math.sqrt(max(1, sum(tensor.size for tensor in update.values())))


def norm(update: Mapping[str, npt.NDArray[Any]]) -> float:
    """Return the L2 norm of all tensors together, in float64.

    >>> norm({"a": np.array([3.0]), "b": np.array([4.0])})
    5.0
    """
    return float(np.sqrt(sum(np.square(tensor, dtype=np.float64).sum() for tensor in update.values())))
