"""What a mechanism costs, checked against dp_accounting's PLD and the closed form of the Gaussian mechanism."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from common.privacy.accounting import epsilon, noise_multiplier, round_up, sample_rate
from common.privacy.mechanism import Mechanism
from tests.reference import pld_epsilon

MECHANISMS = [
    (Mechanism(0.01, 1.0, 100), 1e-5),
    (Mechanism(0.1, 2.0, 50), 1e-5),
    (Mechanism(0.5, 4.0, 10), 1e-3),
    (Mechanism(0.001, 0.6, 1000), 1e-6),
    (Mechanism(0.2, 0.8, 1), 1e-4),
    (Mechanism(1.0, 5.0, 3), 1e-5),
]


def mechanism_epsilon(mechanism: Mechanism, delta: float) -> float:
    return pld_epsilon(mechanism.sample_rate, mechanism.noise_multiplier, mechanism.steps, delta, interval=1e-4)


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Theorem 8 of Balle and Wang 2018 (https://arxiv.org/abs/1805.06530), sensitivity 1."""

    def excess(value: float) -> float:
        a, b = 1 / (2 * sigma), value * sigma
        return float(norm.cdf(a - b) - math.exp(value) * norm.cdf(-a - b)) - delta

    return float(brentq(excess, 0, 200, xtol=1e-10))


# What a mechanism costs


@pytest.mark.parametrize(("mechanism", "delta"), MECHANISMS, ids=str)
def test_prv_is_never_below_pld_and_at_most_five_thousandths_above(mechanism: Mechanism, delta: float) -> None:
    reference = mechanism_epsilon(mechanism, delta)
    assert reference <= epsilon(mechanism, delta) <= reference + 0.005


@pytest.mark.parametrize(("mechanism", "delta"), MECHANISMS, ids=str)
def test_rdp_is_never_below_prv(mechanism: Mechanism, delta: float) -> None:
    assert epsilon(mechanism, delta, "rdp") >= epsilon(mechanism, delta, "prv")


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"),
    [(1.0, 1, 1e-5), (3.0, 1, 1e-3), (5.0, 3, 1e-5), (20.0, 400, 1e-6), (0.5, 2, 1e-4)],
)
def test_with_everybody_in_every_step_it_is_the_gaussian_mechanism(sigma: float, steps: int, delta: float) -> None:
    # Steps of σ that see every unit are one step of σ / √steps.
    exact = gaussian_epsilon(sigma / math.sqrt(steps), delta)
    assert exact <= epsilon(Mechanism(1.0, sigma, steps), delta) <= exact + 0.005


def test_epsilon_has_four_decimals() -> None:
    value = epsilon(Mechanism(0.1, 2.0, 50), 1e-5)
    assert Decimal(repr(value)) == round(Decimal(repr(value)), 4)


def test_where_the_floats_of_prv_do_not_reach_the_looser_bound_is_given() -> None:
    mechanism = Mechanism(0.01, 1.0, 10)
    assert epsilon(mechanism, 1e-18) == epsilon(mechanism, 1e-18, "rdp") > 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, 2.0, math.nan])
def test_an_impossible_delta_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon(Mechanism(0.1, 2.0, 50), delta)


# The noise that a cost needs


@pytest.mark.parametrize(
    ("target", "delta", "rate", "steps"), [(3.0, 1e-5, 0.01, 30), (4.0, 1e-5, 0.05, 10), (6.0, 1e-5, 1.0, 1)]
)
def test_the_noise_keeps_the_target_and_two_thousandths_less_would_not(
    target: float, delta: float, rate: float, steps: int
) -> None:
    sigma = noise_multiplier(target, delta, rate, steps)
    assert Decimal(repr(sigma)) == round(Decimal(repr(sigma)), 3)
    assert pld_epsilon(rate, sigma, steps, delta) <= target
    assert pld_epsilon(rate, sigma - 0.002, steps, delta) > target


@pytest.mark.parametrize("target", [0.009, 1e-9, 0.0, -1.0])
def test_a_target_that_the_accountant_cannot_tell_from_zero_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=f"epsilon = {target}"):
        noise_multiplier(target, 1e-5, 0.01, 10)


def test_a_small_target_that_noise_can_reach_is_reached() -> None:
    assert pld_epsilon(0.01, 3.0, 10, 1e-5) < 0.1
    sigma = noise_multiplier(0.1, 1e-5, 0.01, 10)
    assert sigma <= 3.0
    assert pld_epsilon(0.01, sigma, 10, 1e-5) <= 0.1


# The mechanism


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((0.0, 1.0, 1), "sample_rate = 0.0"),
        ((-0.1, 1.0, 1), "sample_rate = -0.1"),
        ((1.0001, 1.0, 1), "sample_rate = 1.0001"),
        ((math.nan, 1.0, 1), "sample_rate = nan"),
        ((0.1, 0.0, 1), "noise_multiplier = 0.0"),
        ((0.1, -1.0, 1), "noise_multiplier = -1.0"),
        ((0.1, math.nan, 1), "noise_multiplier = nan"),
        ((0.1, math.inf, 1), "noise_multiplier = inf"),
        ((0.1, 1.0, 0), "steps = 0"),
        ((0.1, 1.0, -1), "steps = -1"),
        ((0.1, 1.0, 2.0), "steps = 2.0"),
        ((0.1, 1.0, True), "steps = True"),
    ],
)
def test_an_impossible_mechanism_is_refused(values: tuple[Any, Any, Any], named: str) -> None:
    with pytest.raises(ValueError) as caught:
        Mechanism(*values)
    assert named in str(caught.value)


def test_a_mechanism_comes_back_from_its_table() -> None:
    table = {"kind": "poisson-gaussian", "sample_rate": 0.0256, "noise_multiplier": 0.56, "steps": 80}
    assert Mechanism(0.0256, 0.56, 80).to_dict() == table
    assert Mechanism.from_dict(table) == Mechanism(0.0256, 0.56, 80)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "laplace", "sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1},
        {"sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1},
        {"kind": "poisson-gaussian", "sample_rate": 0.1, "noise_multiplier": 1.0},
        {"kind": "poisson-gaussian", "sample_rate": None, "noise_multiplier": 1.0, "steps": 1},
        {"kind": "poisson-gaussian", "sample_rate": 0.1, "noise_multiplier": "1.0", "steps": 1},
        {"kind": "poisson-gaussian", "sample_rate": 0.1, "noise_multiplier": 1.0, "steps": "1"},
        {"kind": "poisson-gaussian", "sample_rate": 2.0, "noise_multiplier": 1.0, "steps": 1},
    ],
)
def test_an_unknown_or_broken_table_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Mechanism.from_dict(values)


def test_the_sample_rate_is_the_quotient_of_public_numbers_and_at_most_one() -> None:
    assert sample_rate(256, 10_000) == 0.0256
    assert sample_rate(7, 7) == 1.0
    with pytest.raises(ValueError, match=r"batch_size = 8 .* public_size = 7"):
        sample_rate(8, 7)


# Rounding and the lifetime


@settings(deadline=None)
@given(st.floats(min_value=0, max_value=1e9))
def test_rounding_goes_up_by_less_than_a_digit(value: float) -> None:
    rounded = round_up(value)
    assert Fraction(rounded) >= Fraction(value)
    assert Fraction(rounded) - Fraction(value) < Fraction(1, 10_000) + Fraction(math.ulp(rounded))
    assert round(rounded, 4) == rounded


def test_rounding_by_hand() -> None:
    assert [round_up(value) for value in (0.0, 1.0, 1.00001, 7.79990001, 0.25)] == [0.0, 1.0, 1.0001, 7.8, 0.25]
