"""Exact sums, and noise on a grid: against rational arithmetic, and against the Gaussian at high precision."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.vault.training import exact
from client.vault.training.entropy import Keystream, as_uniforms
from client.vault.training.exact import clipped_integers, gaussian_pairs, grid_of, on_grid, precise_pair

UNIT = Fraction(1, 2**40)


def rows_of(seed: int, units: int, numbers: int, spread: float = 1.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    scales = np.exp(random.normal(0, 3, (units, 1)))
    return torch.from_numpy(spread * scales * random.normal(size=(units, numbers)))


# The sum


@given(st.integers(0, 99), st.integers(1, 20), st.integers(1, 50), st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_no_unit_adds_more_than_the_clipping_norm_by_exact_arithmetic(
    seed: int, units: int, numbers: int, bound: float
) -> None:
    rows = rows_of(seed, units, numbers, bound)
    for row in rows:
        total = clipped_integers(row[None].clone(), bound)
        squares = sum(Fraction(int(value)) ** 2 for value in total)
        assert squares <= Fraction(2**40) ** 2, "the length in units of C is at most 1"
        short = float(row.norm()) < 0.99 * bound
        if short:
            wanted = [Fraction(float(value)) / Fraction(bound) / UNIT for value in row]
            assert all(abs(int(value) - want) <= 1 for value, want in zip(total, wanted, strict=True))


@given(st.integers(0, 99), st.integers(1, 40), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_sum_is_the_same_in_any_order_and_any_parts(seed: int, units: int, random: Any) -> None:
    rows = rows_of(seed, units, 33)
    whole = clipped_integers(rows.clone(), 0.7)
    order = list(range(units))
    random.shuffle(order)
    parts = torch.zeros(33, dtype=torch.int64)
    while order:
        size = random.randint(1, len(order))
        parts += clipped_integers(rows[order[:size]].clone(), 0.7)
        order = order[size:]
    assert torch.equal(whole, parts)


def test_as_many_units_as_there_may_be_do_not_overflow() -> None:
    row = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    largest = int(clipped_integers(row, 1.0)[0])
    assert 0.999 * 2**40 < largest <= 2**40
    assert largest * exact.MOST_UNITS < 2**63
    rows = torch.tensor([[3.0, 0.0]], dtype=torch.float64).repeat(exact.MOST_ROWS, 1)
    assert int(clipped_integers(rows, 1.0)[0]) == largest * exact.MOST_ROWS


def test_a_unit_without_a_gradient_adds_nothing() -> None:
    assert clipped_integers(torch.zeros(3, 4, dtype=torch.float64), 0.1).tolist() == [0, 0, 0, 0]


# The grid


@given(st.floats(1e-3, 1e6), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_what_is_released_lies_on_a_grid_that_is_public(sigma: float, seed: int) -> None:
    grid = grid_of(sigma)
    assert math.frexp(grid)[0] == 0.5, "a power of two"
    assert 2.0**-11 < grid / sigma <= 2.0**-10
    random = np.random.default_rng(seed)
    total = random.integers(-(2**50), 2**50, 51)
    released = on_grid(total, sigma, Keystream(random.bytes(32)))
    assert (released / grid == np.rint(released / grid)).all()
    assert np.abs(released - total * 2.0**-40).max() < 12 * sigma


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.9])
def test_the_release_is_the_exact_gaussian_rounded_once(sigma: float) -> None:
    """At 600 bits, with the words as they are: continuing them moves no number across a boundary."""
    key, count = b"e" * 32, 4000
    total = np.random.default_rng(1).integers(-(2**45), 2**45, count)
    released = on_grid(total, sigma, Keystream(key))
    stream, grid = Keystream(key), mpmath.mpf(grid_of(sigma))
    radii, angles = stream.words(count // 2), stream.words(count // 2)
    uniforms = (radii + 0.5) / 2**53
    usual = (uniforms > 2.0**-12) & (uniforms < 1 - 2.0**-12)
    assert count // 2 - usual.sum() < 10, "one in 2,000 is continued"
    checked = 0
    with mpmath.workprec(600):
        for place in np.flatnonzero(usual):
            length = mpmath.sqrt(-2 * mpmath.log((2 * int(radii[place]) + 1) * mpmath.mpf(2) ** -54))
            turn = (2 * int(angles[place]) + 1) * mpmath.mpf(2) ** -54
            for at, wave in ((place, mpmath.cospi(2 * turn)), (place + count // 2, mpmath.sinpi(2 * turn))):
                exact_value = int(total[at]) * mpmath.mpf(2) ** -40 + mpmath.mpf(sigma) * length * wave
                assert released[at] == float(mpmath.nint(exact_value / grid) * grid)
                checked += 1
    assert checked > 3900


def test_a_sum_is_not_betrayed_by_the_numbers_near_zero() -> None:
    """Two sums that differ by C have the same possible releases, also next to zero, where floats are dense."""
    sigma, near = 1.0, 64
    seen = []
    for total in (0, 2**40 - 12345):
        released = on_grid(np.full(400_000, total), sigma, Keystream(bytes([total % 251]) * 32)) / grid_of(sigma)
        seen.append({int(value) for value in released if abs(value) <= near})
    assert seen[0] == seen[1] == set(range(-near, near + 1))


def test_the_rounded_noise_is_normal_and_independent() -> None:
    released = on_grid(np.zeros(300_001, dtype=np.int64), 0.8, Keystream(b"n" * 32)) / 0.8
    assert stats.kstest(released, "norm").pvalue > 1e-4
    assert released.std() == pytest.approx(1.0, rel=0.005)
    assert abs(np.corrcoef(released[:-1], released[1:])[0, 1]) < 0.01
    half = len(released) // 2
    assert abs(np.corrcoef(released[:half], released[half : 2 * half])[0, 1]) < 0.01


def test_a_pair_at_high_precision_continues_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.array([0, 2**30, 2**52, 2**53 - 1], dtype=np.uint64)
    rough = gaussian_pairs(as_uniforms(words), as_uniforms(words))
    for place, word in enumerate(words):
        first, second = precise_pair(int(word), int(word), Keystream(b"c" * 32))
        # The word 0 stands for [0, 2⁻⁵³), whose logarithm is anything below its end's.
        tolerance = 1e-6 if 0 < word < 2**53 - 1 else 3.0
        assert float(first) == pytest.approx(rough[place], abs=tolerance)
        assert float(second) == pytest.approx(rough[place + 4], abs=tolerance)
    other, _ = precise_pair(0, 5, Keystream(b"d" * 32))
    assert other != precise_pair(0, 5, Keystream(b"c" * 32))[0], "by fresh bits"


def test_how_many_are_computed_again_moves_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    total = np.arange(1001)
    usual, stream = on_grid(total, 1.0, Keystream(b"m" * 32)), Keystream(b"m" * 32)
    monkeypatch.setattr(exact, "_ORDINARY", (1.0, 0.0))  # none of them: all
    every = on_grid(total, 1.0, stream)
    assert np.array_equal(usual, every)
    reference = Keystream(b"m" * 32)
    reference.bytes(2 * 8 * 501)
    reference.branch()
    assert stream.bytes(8) == reference.bytes(8), "what is used of a stream is a public number"


def computed_again(total: list[int], key: bytes, monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The radius words of the pairs that are computed again at high precision."""
    seen: set[int] = set()

    def watched(radius: int, angle: int, more: Keystream) -> Any:
        seen.add(radius)
        return precise_pair(radius, angle, more)

    with monkeypatch.context() as patch:
        patch.setattr(exact, "precise_pair", watched)
        on_grid(np.array(total, dtype=np.int64), 1.0, Keystream(key))
    return seen


def test_what_rounding_could_move_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8):
        key = bytes([seed]) * 32
        radius, angle = (int(word) for word in Keystream(key).words(2))
        with mpmath.workprec(200):
            u, v = (mpmath.mpf(2 * word + 1) / 2**54 for word in (radius, angle))
            distance = mpmath.sqrt(-2 * mpmath.log(u)) * mpmath.cospi(2 * v) * 2**10
            # The sum, in multiples of 2⁻³⁰ of the grid, with which it lies between two multiples of the grid.
            between = int(mpmath.nint((mpmath.mpf("0.5") - distance) * 2**30))
        assert computed_again([between], key, monkeypatch) == {radius}
        assert computed_again([between + 64], key, monkeypatch) == set()


def test_radii_from_the_ends_of_the_range_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    half = 100_000
    words = [int(word) for word in Keystream(b"r" * 32).words(half)]
    ends = {word for word in words if 2 * word + 1 < 2**41 or 2 * word + 1 > 2**54 - 2**34}
    assert len(ends) > 4
    assert ends <= computed_again([0] * (2 * half), b"r" * 32, monkeypatch)
