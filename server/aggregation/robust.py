"""Robust aggregation, which a bounded number of hostile organizations cannot control: pure functions on tensors.

The functions need all updates, but read a bounded number of coordinates at a time: updates may be on disk. All
updates must be finite; others are refused before. There is no defence against a hostile majority, nor against
updates that look honest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from common.adapter.adapter import Adapter
from server.aggregation.mean import Tensors, weighted_mean

# Numbers in memory at once: 32 MiB in float64, for any number of updates.
_BLOCK = 2**22

_Matrix = npt.NDArray[np.float64]


def updates_needed(robust: str, byzantine: int) -> int:
    """Return the smallest number of updates for which a rule is resilient to this many hostile ones.

    Median and trimmed mean need an honest majority, multi-Krum 2f + 3 (Blanchard et al. 2017).

    >>> [updates_needed(rule, byzantine=2) for rule in ("median", "trimmed-mean", "multi-krum")]
    [5, 5, 7]
    """
    return {"none": 1, "multi-krum": 2 * byzantine + 3}.get(robust, 2 * byzantine + 1)


def robust_mean(rule: str, updates: Sequence[Tensors], byzantine: int) -> Adapter:
    """Aggregate updates by the rule in `aggregation.robust` of the plan.

    Args:
        rule: "median", "trimmed-mean" or "multi-krum".
        updates: of equal names and shapes, at least `updates_needed`, in the order of names.
        byzantine: number of updates that may be hostile.
    """
    if rule == "median":
        return median(updates)
    if rule == "trimmed-mean":
        return trimmed_mean(updates, byzantine)
    chosen = [updates[place] for place in multi_krum(updates, byzantine)]
    return weighted_mean(chosen, [1.0] * len(chosen))


def median(updates: Sequence[Tensors]) -> Adapter:
    """Return the median of each coordinate.

    Algorithm 1, option I, of Yin et al. 2018, https://arxiv.org/abs/1803.01498.

    Args:
        updates: of equal names and shapes; their order does not matter.

    >>> median([{"w": np.array([value])} for value in (1.0, 2.0, 1e9)])["w"].tolist()
    [2.0]
    """
    return _by_coordinate(updates, lambda rows: np.median(rows, axis=0))


def trimmed_mean(updates: Sequence[Tensors], byzantine: int) -> Adapter:
    """Return the mean of each coordinate without its largest and smallest values (Yin et al. 2018, option II).

    Args:
        updates: of equal names and shapes, more than 2·byzantine; their order does not matter.
        byzantine: number of values that are dropped at each end.

    >>> updates = [{"w": np.array([value])} for value in (-1e9, 1.0, 2.0, 3.0, 1e9)]
    >>> trimmed_mean(updates, byzantine=1)["w"].tolist()
    [2.0]
    """
    kept = slice(byzantine, len(updates) - byzantine)
    return _by_coordinate(updates, lambda rows: np.sort(rows, axis=0)[kept].mean(axis=0))


def multi_krum(updates: Sequence[Tensors], byzantine: int) -> list[int]:
    """Return which updates multi-Krum averages.

    The score of an update is the sum of its squared distances to its n − f − 2 closest others. The n − f − 2
    updates with the smallest scores are selected (Blanchard et al. 2017, section 4,
    https://arxiv.org/abs/1703.02757); for this number resilience is proven (El Mhamdi et al. 2019,
    https://arxiv.org/abs/1905.04374).

    Args:
        updates: of equal names and shapes, at least 2·byzantine + 3.
        byzantine: f.

    Returns:
        Their indices, in ascending order.

    >>> updates = [{"w": np.array([value])} for value in (1.0, 1.1, 0.9, 1.0, 50.0)]
    >>> multi_krum(updates, byzantine=1)
    [0, 3]
    """
    count = len(updates)
    closest = count - byzantine - 2
    distances = _squared_distances(updates)
    # The first is an update's distance to itself.
    scores = np.sort(distances, axis=1)[:, 1 : closest + 1].sum(axis=1)
    return sorted(np.argsort(scores, kind="stable")[:closest].tolist())


def _by_coordinate(updates: Sequence[Tensors], rule: Callable[[_Matrix], _Matrix]) -> Adapter:
    result: Adapter = {}
    for name, tensor in updates[0].items():
        blocks = [rule(rows).astype(np.float32) for rows in _blocks(updates, name)]
        result[name] = np.concatenate(blocks).reshape(tensor.shape)
    return result


def _squared_distances(updates: Sequence[Tensors]) -> _Matrix:
    """Shape (updates, updates), zero on the diagonal."""
    products = np.zeros((len(updates), len(updates)))
    for name in updates[0]:
        for rows in _blocks(updates, name):
            products += rows @ rows.T
    squares = np.diag(products)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
    # The smallest of its row, despite rounding.
    np.fill_diagonal(distances, -1.0)
    return distances


def _blocks(updates: Sequence[Tensors], name: str) -> Iterator[_Matrix]:
    """Yield a tensor of all updates, flattened, in blocks of shape (updates, coordinates)."""
    size = updates[0][name].size
    width = max(1, _BLOCK // len(updates))
    for start in range(0, size, width):
        rows = np.empty((len(updates), min(width, size - start)))
        for row, update in zip(rows, updates, strict=True):
            row[:] = update[name].reshape(-1)[start : start + width]
        yield rows
