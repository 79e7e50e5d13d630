"""Averaging what LoRA layers compute, B·A, in place of B and A: pure functions on named tensors.

The mean of the products of n organizations has a rank of at most the sum of their ranks. It is written down as two
concatenated factors, exactly: Σ wₖ·Bₖ·Aₖ = [w₁·B₁ … wₙ·Bₙ]·[A₁; …; Aₙ] (FLoRA, Wang et al. 2024,
https://arxiv.org/abs/2409.05976). It is cut to a smaller rank by a truncated SVD (FlexLoRA, Bai et al. 2024,
https://arxiv.org/abs/2402.11505), which here needs the small factors only: the product itself is never formed. All
organizations scale their layers alike, so that products of B and A can be compared as they are.
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

# Relative to the largest singular value: far below what float32 tells apart, far above what float64 rounds.
_NO_WEIGHT = 1e-10


def mean_of_products(
    kept: Adapter, starts: Sequence[Adapter], updates: Sequence[Tensors], weights: Sequence[float], fresh: Adapter
) -> Adapter:
    """FlexLoRA: the adapter after a round is, in each layer, the mean of the organizations' products.

    One layer is held at a time, with the factors of all organizations. An organization of a small rank has nothing
    in the directions that were cut off for it: the mean shrinks there.

    Args:
        kept: the adapter before the round. What is no LoRA layer, a head, is this and the mean of the updates.
        starts: what each organization began with, at its own rank.
        updates: of the same names and shapes, organization by organization: what it has become, minus its start.
        weights: one per update, positive.
        fresh: the adapter of round 0, at the rank of the result.
    """
    shares = [weight / sum(weights) for weight in weights]

    def factors(name_b: str, name_a: str) -> Factors:
        return list(zip(_after(starts, updates, name_b, name_a), shares, strict=True))

    return _by_layer(factors, kept, updates, weights, fresh)


def mean_of_changes(
    kept: Adapter, starts: Sequence[Adapter], updates: Sequence[Tensors], weights: Sequence[float], fresh: Adapter
) -> Adapter:
    """FLoRA: in each layer the product before the round, and stacked onto it the mean of how the products changed.

    With equal ranks, and starts that were sent as they are kept, it is `mean_of_products`. With uneven ranks what
    an organization was not sent stays as it is: it changed nothing there.

    Args:
        kept: the adapter before the round. What is no LoRA layer, a head, is this and the mean of the updates.
        starts: what each organization began with; those of one rank are equal.
        updates: of the same names and shapes, organization by organization: what it has become, minus its start.
        weights: one per update, positive.
        fresh: the adapter of round 0, at the rank of the result.
    """
    shares = [weight / sum(weights) for weight in weights]

    def factors(name_b: str, name_a: str) -> Factors:
        # Organizations of one rank began with the same: it is taken off once.
        begun: dict[int, Adapter] = {}
        taken_off: dict[int, float] = defaultdict(float)
        for start, share in zip(starts, shares, strict=True):
            rank = len(start[name_a])
            begun[rank] = start
            taken_off[rank] -= share
        before: Factors = [((kept[name_b], kept[name_a]), 1.0)]
        before += [((begun[rank][name_b], begun[rank][name_a]), share) for rank, share in taken_off.items()]
        return before + list(zip(_after(starts, updates, name_b, name_a), shares, strict=True))

    return _by_layer(factors, kept, updates, weights, fresh)


def _after(
    starts: Sequence[Adapter], updates: Sequence[Tensors], name_b: str, name_a: str
) -> list[tuple[Matrix, Matrix]]:
    """B and A of each organization after its training."""
    return [
        (start[name_b] + update[name_b], start[name_a] + update[name_a])
        for start, update in zip(starts, updates, strict=True)
    ]


def _by_layer(
    factors: Callable[[str, str], Factors],
    kept: Adapter,
    updates: Sequence[Tensors],
    weights: Sequence[float],
    fresh: Adapter,
) -> Adapter:
    """Each layer's sum of products at the rank of `fresh`, and the head."""
    after: Adapter = {}
    for name_a in filter(is_a, kept):
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        pairs, shares = zip(*factors(name_b, name_a), strict=True)
        b, a = recompressed(*stacked(pairs, shares), fresh[name_a])
        after |= {name_b: b.astype(np.float32), name_a: a.astype(np.float32)}
    head = {name: tensor for name, tensor in kept.items() if not is_lora(name)}
    mean = weighted_mean([{name: update[name] for name in head} for update in updates], weights)
    return after | {name: tensor + mean[name] for name, tensor in head.items()}


def stacked(factors: Sequence[tuple[Matrix, Matrix]], shares: Sequence[float]) -> tuple[_Float64, _Float64]:
    """A weighted sum of products as one pair of factors, exactly.

    Args:
        factors: (B, A) of each organization, shapes (out, rₖ) and (rₖ, in).
        shares: the weight of each; of a mean they add up to 1.

    Returns:
        B and A of shapes (out, Σ rₖ) and (Σ rₖ, in), in float64.
    """
    left = np.concatenate([share * b.astype(np.float64) for share, (b, _) in zip(shares, factors, strict=True)], 1)
    right = np.concatenate([a.astype(np.float64) for _, a in factors], 0)
    return left, right


def recompressed(left: _Float64, right: _Float64, fresh: Matrix) -> tuple[_Float64, _Float64]:
    """The best approximation of a product by one of a smaller rank, in balanced factors (B·√Σ, √Σ·A).

    QR of both factors, SVD of the small core between them; the largest entry of each column of B is positive, so
    that the result does not depend on the signs that LAPACK happens to choose. A direction without weight would be
    zero on both sides and have no gradient for ever: it begins again as in round 0, its B zero, its A fresh.

    Args:
        left: shape (out, R).
        right: shape (R, in).
        fresh: A of round 0, shape (rank, in); says the rank.

    Returns:
        B and A of shapes (out, rank) and (rank, in), sorted by weight: their first r columns and rows are the best
        approximation of rank r.
    """
    rank = len(fresh)
    q_left, r_left = np.linalg.qr(left)
    q_right, r_right = np.linalg.qr(right.T)
    u, weights, v = np.linalg.svd(r_left @ r_right.T, full_matrices=False)
    count = min(rank, int((weights > weights[0] * _NO_WEIGHT).sum()))
    b, a = q_left @ u[:, :count], v[:count] @ q_right.T
    signs = np.sign(b[np.abs(b).argmax(0), np.arange(count)])
    scale = signs * np.sqrt(weights[:count])
    out = np.zeros((len(left), rank))
    out[:, :count] = b * scale
    rows = fresh.astype(np.float64)
    rows[:count] = scale[:, None] * a
    return out, rows
