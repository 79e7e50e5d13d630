"""The lifetime cap: what is covered, what is not, and that the server cannot steer past it."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from common.privacy.accounting import epsilon, noise_multiplier, renyi_divergence, total
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import ORDERS, Cap, Cost, renyi_epsilon

ANY = Mechanism(0.01, 1.0, 10)


def cost(epsilon_of_run: float, delta: float) -> Cost:
    return Cost(ANY, epsilon_of_run, delta)


def test_a_budget_can_be_spent_to_its_last_digit() -> None:
    cap = Cap(1.0, 1e-5)
    nine = [cost(0.1, 1e-6)] * 9
    assert cap.covers([*nine, cost(0.1, 1e-6)])
    assert not cap.covers([*nine, cost(0.1, 1e-6), cost(0.1, 0.0)])
    assert not cap.covers([*nine, cost(0.1, 1e-6), cost(0.0, 1e-6)])
    assert not cap.covers([*nine, cost(0.1001, 1e-6)])
    assert not cap.covers([*nine, cost(0.1, 1.1e-6)])


def test_a_full_budget_has_no_room_for_the_smallest_delta() -> None:
    assert not Cap(1.0, 1e-5).covers([cost(0.1, 1e-5), cost(0.1, 1e-40)])


SPENDS = st.lists(st.tuples(st.integers(1, 20_000), st.integers(1, 2_000)), min_size=1, max_size=12)


@settings(deadline=None)
@given(SPENDS, st.integers(-2, 2), st.integers(-2, 2))
def test_a_run_is_inside_the_lifetime_just_when_the_exact_sums_are(
    spends: list[tuple[int, int]], over: int, over_delta: int
) -> None:
    # ε counted in 0.0001, δ in 0.00000001, so that the sums are sums of integers.
    runs = [(float(Decimal(e).scaleb(-4)), float(Decimal(d).scaleb(-8))) for e, d in spends]
    cap = max(1, sum(e for e, _ in spends) - over), max(1, sum(d for _, d in spends) - over_delta)
    inside = sum(e for e, _ in spends) <= cap[0] and sum(d for _, d in spends) <= cap[1]
    cap_values = float(Decimal(cap[0]).scaleb(-4)), float(Decimal(cap[1]).scaleb(-8))
    assert Cap(*cap_values).covers([cost(e, d) for e, d in runs]) == inside
    assert total([e for e, _ in runs]) == Decimal(sum(e for e, _ in spends)).scaleb(-4)


# The filter by Rényi divergence


def numeric_divergence(rate: float, sigma: float, order: float) -> float:
    """The larger Rényi divergence of one step, by integration of its definition."""

    def expectation(above: bool) -> float:
        def integrand(x: float) -> float:
            base = stats.norm.pdf(x, 0, sigma)
            mixed = (1 - rate) * base + rate * stats.norm.pdf(x, 1, sigma)
            p, q = (mixed, base) if above else (base, mixed)
            return float(p**order * q ** (1 - order)) if q > 0 else 0.0

        return float(integrate.quad(integrand, -15 * sigma, 15 * sigma + 1, limit=500)[0])

    return max(math.log(expectation(above)) / (order - 1) for above in (True, False))


@pytest.mark.parametrize(("rate", "sigma"), [(0.1, 1.0), (0.5, 2.0), (1.0, 3.0), (0.02, 0.8)])
@pytest.mark.parametrize("order", [2.0, 3.0, 4.0])
def test_the_divergence_of_a_step_is_that_of_its_definition(rate: float, sigma: float, order: float) -> None:
    ours = renyi_divergence(Mechanism(rate, sigma, 1), order)
    assert ours == pytest.approx(numeric_divergence(rate, sigma, order), rel=1e-4)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0.005, 0.5), st.floats(0.6, 4.0), st.integers(1, 200)), min_size=1, max_size=6)
)
def test_many_runs_cost_what_another_library_says(runs: list[tuple[float, float, int]]) -> None:
    accountant = RdpAccountant(list(ORDERS), dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for rate, sigma, steps in runs:
        event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
        accountant.compose(event, steps)
    theirs = accountant.get_epsilon(1e-5 / len(ORDERS))
    ours = renyi_epsilon([Mechanism(*run) for run in runs], 1e-5)
    # Theirs uses a slightly tighter conversion at small ε; ours must never be below the exact cost.
    assert theirs - 1e-4 <= ours <= theirs * 1.02 + 0.25


def test_one_run_costs_no_less_than_its_tight_epsilon() -> None:
    for rate, sigma, steps in itertools.product((0.01, 0.1), (0.7, 1.5), (10, 300)):
        mechanism = Mechanism(rate, sigma, steps)
        assert renyi_epsilon([mechanism], 1e-5) >= epsilon(mechanism, 1e-5) - 0.001


def test_many_small_runs_fit_where_their_epsilons_add_up_to_far_more() -> None:
    sigma = noise_multiplier(1.0, 1e-6, 0.02, 100)
    run = Cost(Mechanism(0.02, sigma, 100), 1.0, 1e-6)
    assert not Cap(8.0, 1e-5, "basic").covers([run] * 16)
    assert Cap(8.0, 1e-5, "renyi").covers([run] * 16)


def test_nothing_spent_costs_nothing() -> None:
    assert Cap(1.0, 1e-5, "renyi").spent([]) == 0.0
    assert Cap(1.0, 1e-5, "basic").spent([]) == 0.0


# A server that chooses the next run after it has seen the last


def exact_delta(eps: float, first: float, after_low: float, after_high: float) -> float:
    """δ at ε of two Gaussian releases whose second noise depends on whether the first release was above 1/2.

    By its definition, ∫ max(0, p − e^ε q), over a grid: the worse of adding and removing the record.
    """
    x = np.linspace(-40, 41, 4001)
    step = x[1] - x[0]

    def joint(mean: float) -> np.ndarray:
        outer = stats.norm.pdf(x, mean, first)
        low, high = (stats.norm.pdf(x, mean, sigma) for sigma in (after_low, after_high))
        return outer[:, None] * np.where((x < 0.5)[:, None], low[None, :], high[None, :])

    with_record, without = joint(1.0), joint(0.0)
    gap = max(
        np.clip(p - math.exp(eps) * q, 0, None).sum() for p, q in ((with_record, without), (without, with_record))
    )
    return float(gap * step * step)


@pytest.mark.parametrize("composition", ["basic", "renyi"])
def test_an_adaptive_server_cannot_pass_the_cap(composition: str) -> None:
    # The server asks for a strong release, and then for whatever the filter still grants on either branch.
    cap = Cap(4.0, 1e-4, composition)  # type: ignore[arg-type]

    def run(sigma: float) -> Cost:
        mechanism = Mechanism(1.0, sigma, 1)
        return Cost(mechanism, epsilon(mechanism, 5e-5), 5e-5)

    first = run(2.5)
    assert cap.covers([first])
    granted = min(sigma for sigma in np.arange(1.0, 12.0, 0.25) if cap.covers([first, run(float(sigma))]))
    for other in (granted, granted + 2, 50.0):
        assert exact_delta(4.0, 2.5, float(granted), float(other)) <= 1e-4
        assert exact_delta(4.0, 2.5, float(other), float(granted)) <= 1e-4
