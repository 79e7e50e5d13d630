"""Aggregation that some hostile organizations cannot steer: pure functions on named tensors.

They look at every update at once, but at a bounded number of coordinates at a time, so that updates may lie on
disk. Every update is finite: what is not was refused before. They are no defence against a majority, nor against
updates that look like honest ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from common.adapter.adapter import Adapter
from server.aggregation.mean import Tensors, weighted_mean

# Numbers that are held at once: 32 MiB in float64, whatever the number of updates.
_BLOCK = 2**22

_Matrix = npt.NDArray[np.float64]


def updates_needed(robust: str, byzantine: int) -> int:
    """The number of updates below which a rule promises nothing, if so many of them are hostile.

    Median and trimmed mean need a majority that is honest, multi-Krum 2f + 3 (Blanchard et al. 2017).

    >>> [updates_needed(rule, byzantine=2) for rule in ("median", "trimmed-mean", "multi-krum")]
    [5, 5, 7]
    """
    return {"none": 1, "multi-krum": 2 * byzantine + 3}.get(robust, 2 * byzantine + 1)


def robust_mean(rule: str, updates: Sequence[Tensors], byzantine: int) -> Adapter:
    """What takes the place of the mean: `aggregation.robust` of the plan.

    Args:
        rule: "median", "trimmed-mean" or "multi-krum".
        updates: of equal names and shapes, at least `updates_needed`, in the order of the names.
        byzantine: so many of them may be hostile.
    """
    if rule == "median":
        return median(updates)
    if rule == "trimmed-mean":
        return trimmed_mean(updates, byzantine)
    chosen = [updates[place] for place in multi_krum(updates, byzantine)]
    return weighted_mean(chosen, [1.0] * len(chosen))


def median(updates: Sequence[Tensors]) -> Adapter:
    """The median of each coordinate (Yin et al. 2018, https://arxiv.org/abs/1803.01498, algorithm 1, option I).

    Args:
        updates: of equal names and shapes; their order does not matter.

    >>> median([{"w": np.array([value])} for value in (1.0, 2.0, 1e9)])["w"].tolist()
    [2.0]
    """
    return _by_coordinate(updates, lambda rows: np.median(rows, axis=0))


def trimmed_mean(updates: Sequence[Tensors], byzantine: int) -> Adapter:
    """The mean of each coordinate without its largest and smallest values (Yin et al. 2018, option II).

    Args:
        updates: of equal names and shapes, more than 2·byzantine; their order does not matter.
        byzantine: values that are left out at each end.

    >>> updates = [{"w": np.array([value])} for value in (-1e9, 1.0, 2.0, 3.0, 1e9)]
    >>> trimmed_mean(updates, byzantine=1)["w"].tolist()
    [2.0]
    """
    kept = slice(byzantine, len(updates) - byzantine)
    return _by_coordinate(updates, lambda rows: np.sort(rows, axis=0)[kept].mean(axis=0))


def multi_krum(updates: Sequence[Tensors], byzantine: int) -> list[int]:
    """Which updates multi-Krum averages (Blanchard et al. 2017, https://arxiv.org/abs/1703.02757, section 4).

    The score of an update is the sum of its squared distances to its n − f − 2 closest others. The n − f − 2 with
    the smallest scores are taken: as many as resilience is proven for (El Mhamdi et al. 2019,
    https://arxiv.org/abs/1905.04374).

    Args:
        updates: of equal names and shapes, at least 2·byzantine + 3.
        byzantine: f.

    Returns:
        Their places, in rising order.

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
    # The smallest of its row, whatever was rounded.
    np.fill_diagonal(distances, -1.0)
    return distances


def _blocks(updates: Sequence[Tensors], name: str) -> Iterator[_Matrix]:
    """A tensor of all updates, flat, some coordinates at a time: shape (updates, coordinates)."""
    size = updates[0][name].size
    width = max(1, _BLOCK // len(updates))
    for start in range(0, size, width):
        rows = np.empty((len(updates), min(width, size - start)))
        for row, update in zip(rows, updates, strict=True):
            row[:] = update[name].reshape(-1)[start : start + width]
        yield rows
