"""Averages of the products B·A of LoRA layers, instead of A and B separately: pure functions on named tensors.

The mean of the products of n organizations has at most the sum of their ranks. It equals the product of two
concatenated factors: Σ wₖ·Bₖ·Aₖ = [w₁·B₁ … wₙ·Bₙ]·[A₁; …; Aₙ] (FLoRA, Wang et al. 2024,
https://arxiv.org/abs/2409.05976). A truncated SVD reduces its rank (FlexLoRA, Bai et al. 2024,
https://arxiv.org/abs/2402.11505), computed from the small factors: the product itself is never formed. All
organizations scale their layers equally, so that the products are comparable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from common.adapter.adapter import Adapter, is_a, is_lora
from server.aggregation.mean import Tensors, weighted_mean

Matrix = npt.NDArray[np.floating]
# (B, A) and the weight of their product in a sum.
Factors = list[tuple[tuple[Matrix, Matrix], float]]
_Float64 = npt.NDArray[np.float64]

# Relative to the largest singular value: far below the precision of float32, far above that of float64.
_TOLERANCE = 1e-10


def mean_of_products(
    current: Adapter,
    starts: Sequence[Adapter],
    updates: Sequence[Tensors],
    weights: Sequence[float],
    initial: Adapter,
) -> Adapter:
    """Return the adapter after a round of FlexLoRA: in each layer the mean of the organizations' products.

    Only one layer is in memory at a time, with the factors of all organizations. An organization of a small rank
    contributes zero in the directions that were truncated for it, so that the mean shrinks there.

    Args:
        current: the adapter before the round. A head, which is not a LoRA layer, is averaged separately.
        starts: the adapter that each organization started from, at its own rank.
        updates: for each organization its adapter after training minus its start, with the same names and shapes.
        weights: one per update, positive.
        initial: the adapter of round 0, at the rank of the result.
    """
    shares = [weight / sum(weights) for weight in weights]

    def factors(name_b: str, name_a: str) -> Factors:
        return list(zip(_after(starts, updates, name_b, name_a), shares, strict=True))

    return _by_layer(factors, current, updates, weights, initial)


def mean_of_changes(
    current: Adapter,
    starts: Sequence[Adapter],
    updates: Sequence[Tensors],
    weights: Sequence[float],
    initial: Adapter,
) -> Adapter:
    """Return the adapter after a round of FLoRA: in each layer the product plus the mean change of the products.

    With equal ranks and unrounded starts it equals `mean_of_products`. With uneven ranks, directions that an
    organization did not receive stay unchanged: its change is zero there.

    Args:
        current: the adapter before the round. A head, which is not a LoRA layer, is averaged separately.
        starts: the adapter that each organization started from; equal for equal ranks.
        updates: for each organization its adapter after training minus its start, with the same names and shapes.
        weights: one per update, positive.
        initial: the adapter of round 0, at the rank of the result.
    """
    shares = [weight / sum(weights) for weight in weights]

    def factors(name_b: str, name_a: str) -> Factors:
        # Organizations of one rank started from the same adapter: it is subtracted once.
        start_of: dict[int, Adapter] = {}
        subtracted: dict[int, float] = defaultdict(float)
        for start, share in zip(starts, shares, strict=True):
            rank = len(start[name_a])
            start_of[rank] = start
            subtracted[rank] -= share
        before: Factors = [((current[name_b], current[name_a]), 1.0)]
        before += [((start_of[rank][name_b], start_of[rank][name_a]), share) for rank, share in subtracted.items()]
        return before + list(zip(_after(starts, updates, name_b, name_a), shares, strict=True))

    return _by_layer(factors, current, updates, weights, initial)


def _after(
    starts: Sequence[Adapter], updates: Sequence[Tensors], name_b: str, name_a: str
) -> list[tuple[Matrix, Matrix]]:
    """Return B and A of each organization after its training."""
    return [
        (start[name_b] + update[name_b], start[name_a] + update[name_a])
        for start, update in zip(starts, updates, strict=True)
    ]


def _by_layer(
    factors: Callable[[str, str], Factors],
    current: Adapter,
    updates: Sequence[Tensors],
    weights: Sequence[float],
    initial: Adapter,
) -> Adapter:
    """Return each layer's sum of products at the rank of `initial`, and the averaged head."""
    after: Adapter = {}
    for name_a in filter(is_a, current):
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        pairs, shares = zip(*factors(name_b, name_a), strict=True)
        b, a = recompress(*stack(pairs, shares), initial[name_a])
        after |= {name_b: b.astype(np.float32), name_a: a.astype(np.float32)}
    head = {name: tensor for name, tensor in current.items() if not is_lora(name)}
    mean = weighted_mean([{name: update[name] for name in head} for update in updates], weights)
    return after | {name: tensor + mean[name] for name, tensor in head.items()}


def stack(factors: Sequence[tuple[Matrix, Matrix]], shares: Sequence[float]) -> tuple[_Float64, _Float64]:
    """Return a weighted sum of products as one pair of factors, exactly.

    Args:
        factors: (B, A) of each organization, shapes (out, rₖ) and (rₖ, in).
        shares: weight of each; they sum to 1 for a mean.

    Returns:
        B and A of shapes (out, Σ rₖ) and (Σ rₖ, in), in float64.
    """
    left = np.concatenate([share * b.astype(np.float64) for share, (b, _) in zip(shares, factors, strict=True)], 1)
    right = np.concatenate([a.astype(np.float64) for _, a in factors], 0)
    return left, right


def recompress(left: _Float64, right: _Float64, initial_a: Matrix) -> tuple[_Float64, _Float64]:
    """Return the best approximation of a product by one of a smaller rank, in balanced factors (B·√Σ, √Σ·A).

    QR of both factors, then SVD of the small core between them. The largest entry of each column of B is made
    positive, so that the result does not depend on LAPACK's choice of signs. A direction of zero weight would be
    zero in both factors and never get a gradient: it is reset as in round 0, with B zero and A random.

    Args:
        left: shape (out, R).
        right: shape (R, in).
        initial_a: A of round 0, shape (rank, in); determines the rank.

    Returns:
        B and A of shapes (out, rank) and (rank, in), sorted by weight: their first r columns and rows are the best
        approximation of rank r.
    """
    rank = len(initial_a)
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, weights, v = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
    count = min(rank, int((weights > weights[0] * _TOLERANCE).sum()))
    b, a = q_left @ u[:, :count], v[:count] @ q_right.T
    signs = np.sign(b[np.abs(b).argmax(0), np.arange(count)])
    scale = signs * np.sqrt(weights[:count])
    out = np.zeros((len(left), rank))
    out[:, :count] = b * scale
    rows = initial_a.astype(np.float64)
    rows[:count] = scale[:, None] * a
    return out, rows
