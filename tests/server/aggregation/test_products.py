"""Averages of products against a plain loop over dense matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter.adapter import Adapter, at_rank, initial, truncate_rank
from server.aggregation.mean import weighted_mean
from server.aggregation.products import mean_of_changes, mean_of_products, recompress, stack

A, B, HEAD = "q_proj.lora_A.weight", "q_proj.lora_B.weight", "head.weight"
Factors = list[tuple[np.ndarray, np.ndarray]]


def random_factors(seed: int, ranks: list[int], out: int, into: int) -> Factors:
    random = np.random.default_rng(seed)
    return [
        (random.normal(size=(out, rank)).astype(np.float32), random.normal(size=(rank, into)).astype(np.float32))
        for rank in ranks
    ]


def dense_mean(factors: Factors, shares: list[float]) -> np.ndarray:
    total = np.zeros((len(factors[0][0]), factors[0][1].shape[1]))
    for (b, a), share in zip(factors, shares, strict=True):
        total += share * (b.astype(np.float64) @ a.astype(np.float64))
    return total


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@st.composite
def federations(draw: st.DrawFn) -> tuple[Factors, list[float]]:
    """2 to 50 organizations, ranks from 1 to 64, even or uneven, weights of any size."""
    count = draw(st.integers(2, 50))
    rank = st.sampled_from([1, 2, 3, 4, 8, 16, 33, 64])
    ranks = [draw(rank)] * count if draw(st.booleans()) else draw(st.lists(rank, min_size=count, max_size=count))
    # Of fewer numbers the mean may happen to cancel to almost nothing, and be small beside its own rounding.
    out, into = draw(st.integers(8, 40)), draw(st.integers(8, 40))
    weights = draw(st.lists(st.floats(0.01, 100), min_size=count, max_size=count))
    return random_factors(draw(st.integers(0, 2**32)), ranks, out, into), [w / sum(weights) for w in weights]


@settings(deadline=None, max_examples=40)
@given(federations())
def test_stacked_factors_are_the_mean_of_the_products_in_float32(federation: tuple[Factors, list[float]]) -> None:
    factors, shares = federation
    left, right = stack(factors, shares)
    assert left.shape[1] == right.shape[0] == sum(b.shape[1] for b, _ in factors)
    sent = left.astype(np.float32).astype(np.float64) @ right.astype(np.float32).astype(np.float64)
    assert relative_error(sent, dense_mean(factors, shares)) <= 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 50), st.integers(1, 64), st.integers(0, 2**32))
def test_ffa_is_the_mean_of_the_products_in_float32(count: int, rank: int, seed: int) -> None:
    factors = random_factors(seed, [rank] * count, 20, 30)
    shared = factors[0][1]
    weights = np.random.default_rng(seed).uniform(0.01, 100, count).tolist()
    mean = weighted_mean([{B: b} for b, _ in factors], weights)[B]
    wanted = dense_mean([(b, shared) for b, _ in factors], [weight / sum(weights) for weight in weights])
    assert relative_error(mean.astype(np.float64) @ shared.astype(np.float64), wanted) <= 1e-6


@settings(deadline=None, max_examples=40)
@given(federations(), st.integers(1, 40))
def test_what_is_cut_off_is_what_the_best_approximation_cuts_off(
    federation: tuple[Factors, list[float]], rank: int
) -> None:
    """Eckart and Young: the error is the norm of the singular values that are left out, from a dense SVD."""
    factors, shares = federation
    wanted = dense_mean(factors, shares)
    b, a = recompress(*stack(factors, shares), np.ones((rank, wanted.shape[1]), np.float32))
    assert (b.shape, a.shape) == ((len(wanted), rank), (rank, wanted.shape[1]))
    left_out = np.linalg.norm(np.linalg.svd(wanted, compute_uv=False)[rank:]) / np.linalg.norm(wanted)
    assert relative_error(b @ a, wanted) == pytest.approx(left_out, abs=1e-7)


@settings(deadline=None, max_examples=30)
@given(federations(), st.integers(1, 8))
def test_factors_are_balanced_sorted_and_of_one_sign(federation: tuple[Factors, list[float]], rank: int) -> None:
    left, right = stack(*federation)
    fresh = np.zeros((rank, right.shape[1]), np.float32)
    b, a = recompress(left, right, fresh)
    norms = np.linalg.norm(b, axis=0)
    assert np.allclose(norms, np.linalg.norm(a, axis=1), rtol=1e-6, atol=1e-9)
    assert (np.diff(norms) <= 1e-9).all()
    used = norms > 0
    assert (b[np.abs(b).argmax(0), np.arange(rank)][used] > 0).all()
    again = recompress(-left, -right, fresh)
    assert np.allclose(again[0], b, atol=1e-6)
    assert np.allclose(again[1], a, atol=1e-6)


def test_a_direction_without_weight_begins_again_and_can_still_be_trained() -> None:
    """Zero on both sides, it would have no gradient for ever. As in round 0: B is zero, A is drawn."""
    fresh = initial({A: (3, 6)}, 5)[A]
    b, a = recompress(np.zeros((4, 9)), np.ones((9, 6)), fresh)
    assert not b.any()
    assert (a == fresh).all()
    one = np.outer(np.arange(1.0, 5), np.ones(1))
    b, a = recompress(one, np.ones((1, 6)), fresh)
    assert np.allclose(b @ a, one @ np.ones((1, 6)))
    assert not b[:, 1:].any()
    assert (a[1:] == fresh[1:]).all()


def test_a_round_averages_the_products_of_what_the_adapters_have_become_and_the_head_by_itself() -> None:
    random = np.random.default_rng(1)
    shapes = {A: (2, 7), B: (5, 2), HEAD: (3, 4)}

    def made() -> Adapter:
        return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    before, updates = made(), [made(), made()]
    after = mean_of_products(before, [before] * 2, updates, [1.0, 3.0], initial(shapes, 0))
    factors = [(before[B] + update[B], before[A] + update[A]) for update in updates]
    u, weights, v = np.linalg.svd(dense_mean(factors, [0.25, 0.75]))
    np.testing.assert_allclose(after[B] @ after[A], (u[:, :2] * weights[:2]) @ v[:2], atol=1e-5)
    head = before[HEAD] + 0.25 * updates[0][HEAD] + 0.75 * updates[1][HEAD]
    np.testing.assert_allclose(after[HEAD], head, rtol=1e-5)
    assert {name: tensor.shape for name, tensor in after.items()} == shapes
    assert {tensor.dtype for tensor in after.values()} == {np.dtype(np.float32)}
    # Averaged separately, A and B would be something else.
    apart = weighted_mean([{A: a, B: b} for b, a in factors], [1.0, 3.0])
    assert relative_error(apart[B] @ apart[A], dense_mean(factors, [0.25, 0.75])) > 0.3


@st.composite
def uneven(draw: st.DrawFn) -> tuple[Adapter, list[int], list[Adapter], list[float]]:
    """An adapter as it is kept, and 2 to 8 organizations of ranks up to its own: ranks, updates, weights."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    most = draw(st.integers(1, 8))
    shapes = {A: (most, 9), B: (11, most), HEAD: (3, 4)}
    ranks = draw(st.lists(st.integers(1, most), min_size=2, max_size=8))

    def made(rank: int) -> Adapter:
        return {n: random.normal(size=shape).astype(np.float32) for n, shape in at_rank(shapes, rank).items()}

    weights = draw(st.lists(st.floats(0.1, 10), min_size=len(ranks), max_size=len(ranks)))
    return made(most), ranks, [made(rank) for rank in ranks], weights


def product(adapter: Adapter) -> np.ndarray:
    return adapter[B].astype(np.float64) @ adapter[A].astype(np.float64)


@settings(deadline=None, max_examples=60)
@given(uneven(), st.sampled_from(["svd", "stack"]))
def test_uneven_ranks_are_joined_as_a_dense_loop_joins_them(
    federation: tuple[Adapter, list[int], list[Adapter], list[float]], method: str
) -> None:
    """At a rank at which nothing has to be cut off: the sum itself is compared."""
    kept, ranks, updates, weights = federation
    starts = {rank: truncate_rank(kept, rank) for rank in ranks}
    fresh = initial({A: (9, 9), B: (11, 9), HEAD: (3, 4)}, 0)
    joined = mean_of_products if method == "svd" else mean_of_changes
    after = joined(kept, [starts[rank] for rank in ranks], updates, weights, fresh)
    wanted = product(kept) if method == "stack" else np.zeros((11, 9))
    for rank, update, weight in zip(ranks, updates, weights, strict=True):
        start = truncate_rank(kept, rank)
        trained = product({name: start[name] + update[name] for name in start})
        wanted += weight / sum(weights) * (trained - product(start) if method == "stack" else trained)
    assert relative_error(product(after), wanted) <= 1e-5
    head = kept[HEAD] + sum(w * u[HEAD] for w, u in zip(weights, updates, strict=True)) / sum(weights)
    np.testing.assert_allclose(after[HEAD], head, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(uneven())
def test_with_even_ranks_both_methods_are_the_same(
    federation: tuple[Adapter, list[int], list[Adapter], list[float]],
) -> None:
    kept, ranks, _, weights = federation
    random = np.random.default_rng(1)
    updates = [{name: random.normal(size=t.shape).astype(np.float32) for name, t in kept.items()} for _ in ranks]
    arguments = (kept, [kept] * len(ranks), updates, weights, initial({n: t.shape for n, t in kept.items()}, 0))
    one, other = mean_of_products(*arguments), mean_of_changes(*arguments)
    assert relative_error(product(other), product(one)) <= 1e-5


def test_what_nobody_trains_is_kept_by_the_mean_of_changes_and_lost_by_the_mean_of_products() -> None:
    """All organizations have rank 1 of 3, and change nothing: directions 2 and 3 were sent to nobody."""
    left, right = np.linalg.qr(np.random.default_rng(2).normal(size=(6, 3)))[0], np.eye(3, 5)
    kept = {B: (left * [3.0, 2, 1]).astype(np.float32), A: right.astype(np.float32)}
    start = truncate_rank(kept, 1)
    nothing = {name: np.zeros_like(tensor) for name, tensor in start.items()}
    arguments = (kept, [start] * 3, [nothing] * 3, [1.0] * 3, initial({A: (3, 5), B: (6, 3)}, 0))
    assert relative_error(product(mean_of_changes(*arguments)), product(kept)) <= 1e-6
    assert relative_error(product(mean_of_products(*arguments)), product(start)) <= 1e-6
