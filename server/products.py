"""Averaging what LoRA layers compute, B·A, in place of B and A: pure functions on named tensors.

The mean of the products of n organizations has a rank of at most the sum of their ranks. It is written down as two
concatenated factors, exactly: Σ wₖ·Bₖ·Aₖ = [w₁·B₁ … wₙ·Bₙ]·[A₁; …; Aₙ] (FLoRA, Wang et al. 2024,
https://arxiv.org/abs/2409.05976). It is cut to a smaller rank by a truncated SVD (FlexLoRA, Bai et al. 2024,
https://arxiv.org/abs/2402.11505), which here needs the small factors only: the product itself is never formed. All
organizations scale their layers alike, so that products of B and A can be compared as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.adapter import Adapter, is_a, is_lora
from server.aggregate import Tensors, weighted_mean

Matrix = npt.NDArray[np.floating]
_Float64 = npt.NDArray[np.float64]

# Relative to the largest singular value: far below what float32 tells apart, far above what float64 rounds.
_NO_WEIGHT = 1e-10


def mean_of_products(
    before: Adapter, updates: Sequence[Tensors], weights: Sequence[float], fresh: Adapter
) -> Adapter:
    """The adapter after a round: of each layer the mean of the products, at the rank of the plan.

    One layer is held at a time, with the factors of all organizations. What is no LoRA layer, a head, is averaged.

    Args:
        before: the adapter that each organization began with; an update is what it has become, minus this.
        updates: of equal names and shapes, in the order of the names.
        weights: one per update, positive.
        fresh: the adapter of round 0.
    """
    shares = [weight / sum(weights) for weight in weights]
    after: Adapter = {}
    for name_a in filter(is_a, before):
        name_b = name_a.replace(".lora_A.", ".lora_B.")
        factors = [(before[name_b] + update[name_b], before[name_a] + update[name_a]) for update in updates]
        b, a = recompressed(*stacked(factors, shares), fresh[name_a])
        after |= {name_b: b.astype(np.float32), name_a: a.astype(np.float32)}
    head = {name: tensor for name, tensor in before.items() if not is_lora(name)}
    mean = weighted_mean([{name: update[name] for name in head} for update in updates], weights)
    return after | {name: tensor + mean[name] for name, tensor in head.items()}


def stacked(factors: Sequence[tuple[Matrix, Matrix]], shares: Sequence[float]) -> tuple[_Float64, _Float64]:
    """The mean of the products as one pair of factors, exactly.

    Args:
        factors: (B, A) of each organization, shapes (out, rₖ) and (rₖ, in).
        shares: of each organization; they add up to 1.

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
