"""Screening of updates by their norm: an absolute bound, and comparison with the others of the round.

Names, shapes, types and finite values are always checked, by `common.adapter.adapter.check`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np

from common.adapter.adapter import Adapter
from server.aggregation.mean import norm

# Honest norms differ. With AdamW, all steps have about the same norm, whatever the noise. With SGD, the norm of an
# update is that of its noise, whose multiplier differs threefold at ε = 8 between public sizes that differ
# tenfold, and sevenfold at ε = 1: such a plan may disable the screening. Without privacy, norms depend on the
# records. Five is above the usual differences. A hostile update below it weighs up to five honest ones: `robust`
# covers that.
NORM_FACTOR = 5.0


def outliers(norms: Mapping[str, float]) -> dict[str, str]:
    """Return organization → why its update is refused, for norms far above the others'.

    Of two updates neither is refused: the median does not show which of them is wrong.

    Args:
        norms: organization → norm of its update, finite.

    >>> outliers({"a": 1.0, "b": 1.1, "c": 0.9, "d": 50.0}).keys()
    dict_keys(['d'])
    """
    middle = statistics.median(norms.values()) if norms else 0.0
    if not middle > 0:
        return {}  # most updates are zero, as without privacy if no record was drawn: nothing to compare with
    return {
        name: f"its norm is {value / middle:.3g} times the median; at most {NORM_FACTOR:g} times is accepted"
        for name, value in norms.items()
        if not value <= NORM_FACTOR * middle
    }


def clip(update: Adapter, largest: float) -> Adapter:
    """Scale an update down if its norm is too large.

    Args:
        update: finite.
        largest: the largest norm that is returned.

    Raises:
        ValueError: the norm is not finite, so that scaling cannot bound it.

    >>> clip({"w": np.array([3.0, 4.0])}, largest=2.5)["w"].tolist()
    [1.5, 2.0]
    """
    length = norm(update)
    if not math.isfinite(length):
        raise ValueError("the update is not finite")
    if length <= largest:
        return update
    return {name: (tensor * (largest / length)).astype(np.float32) for name, tensor in update.items()}
