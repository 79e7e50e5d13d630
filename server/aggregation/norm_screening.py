"""What is looked at before an update is averaged: its norm, by itself and against the round's others.

Names, shapes, type and finite values are looked at by `common.adapter.adapter.check`, in any case.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

import numpy as np

from common.adapter.adapter import Adapter
from server.aggregation.mean import norm

# Honest norms differ. With AdamW a step is about as long for everybody, whatever the noise. With sgd an update is
# as long as its noise, whose multiplier at ε = 8 differs threefold between public sizes that differ tenfold; at
# ε = 1 sevenfold: such a plan may turn the screen off. Without privacy norms follow the records. Five is above
# what is usual. Below it a hostile update still weighs as much as five honest ones: for that there is `robust`.
NORM_FACTOR = 5.0


def outliers(norms: Mapping[str, float]) -> dict[str, str]:
    """Organization → why its update is refused, of those whose norm is far above the others'.

    Of two, neither is: no median tells which of them is wrong.

    Args:
        norms: organization → norm of its update, of all that arrived; each is finite.

    >>> outliers({"a": 1.0, "b": 1.1, "c": 0.9, "d": 50.0}).keys()
    dict_keys(['d'])
    """
    middle = statistics.median(norms.values()) if norms else 0.0
    if not middle > 0:
        return {}  # most updates are zero, as without privacy where nothing was drawn: that measures nothing
    return {
        name: f"its norm is {value / middle:.3g} times the median of the round's; it may be {NORM_FACTOR:g} times"
        for name, value in norms.items()
        if not value <= NORM_FACTOR * middle
    }


def clipped(update: Adapter, largest: float) -> Adapter:
    """The update, scaled down to a norm where its own is larger.

    Args:
        update: finite.
        largest: the norm that it may have.

    Raises:
        ValueError: its norm is not finite: scaled down, NaN would still be NaN.

    >>> clipped({"w": np.array([3.0, 4.0])}, largest=2.5)["w"].tolist()
    [1.5, 2.0]
    """
    own = norm(update)
    if not math.isfinite(own):
        raise ValueError("the update is not finite")
    if own <= largest:
        return update
    return {name: (tensor * (largest / own)).astype(np.float32) for name, tensor in update.items()}
