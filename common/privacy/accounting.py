"""The ε of a mechanism, and the noise multiplier for an ε. Pure functions; no history is kept here.

Adjacency is adding or removing one unit. Every ε that this module returns is an upper bound and is rounded up;
every noise multiplier is rounded up. The history of an organization is its ledger alone.

Not covered: composition of runs whose parameters were chosen after seeing earlier releases. The PRV
composition here is valid only for parameters fixed beforehand, as within one run. Across runs see
`common.privacy.privacy_filter`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import ROUND_CEILING, Decimal, localcontext
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis import rdp

from common.privacy.mechanism import Mechanism

Accountant = Literal["prv", "rdp"]

# PRV's result is an upper bound; this is the most by which it exceeds the true ε.
_EPSILON_ERROR = 0.001
_COARSE_ERROR = 0.02
# Above this ε, which protects nothing, or this grid size, PRV would need gigabytes: RDP's looser bound is used.
_PRV_LIMIT = 200.0
_PRV_POINTS = 6e7
_SIGMA_GRID = Decimal("0.001")
_EPSILON_DIGITS = Decimal("0.0001")

# Slow; cached, since PRV computes the same divergences twice to find its domain. The function is pure.
rdp._compute_rdp = lru_cache(maxsize=2**16)(rdp._compute_rdp)


def sample_rate(batch_size: int, public_size: int) -> float:
    """The sample rate q = batch_size / public_size, both public.

    Raises:
        ValueError: q would be above 1.

    >>> sample_rate(256, 10_000)
    0.0256
    """
    if batch_size > public_size:
        raise ValueError(f"batch_size = {batch_size} is above public_size = {public_size}")
    return batch_size / public_size


@lru_cache(maxsize=512)
def epsilon(mechanism: Mechanism, delta: float, accountant: Accountant = "prv") -> float:
    """The ε of a mechanism at δ, rounded up to four decimals.

    Args:
        mechanism: fixed before it runs.
        delta: δ in (0, 1).
        accountant: "prv" (Gopi, Lee and Wutschitz 2021, https://arxiv.org/abs/2106.02848), tight to 0.001;
            or "rdp" (Mironov, Talwar and Zhang 2019, https://arxiv.org/abs/1908.10530), looser.

    Returns:
        An upper bound of ε for add-or-remove adjacency.

    Example:
        >>> epsilon(Mechanism(sample_rate=0.0256, noise_multiplier=0.56, steps=80), delta=1e-5)
        7.7999
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta = {delta}: it should be above 0 and below 1")
    if accountant == "rdp":
        return _non_negative(_rdp_epsilon(mechanism, delta))
    return _tight_epsilon(mechanism, delta, _EPSILON_ERROR)


def rough_epsilon(mechanism: Mechanism, delta: float) -> float:
    """An upper bound of ε, at most 0.05 above `epsilon` and much faster: for charts, never for a budget."""
    return _tight_epsilon(mechanism, delta, _COARSE_ERROR)


def _tight_epsilon(mechanism: Mechanism, delta: float, error: float) -> float:
    """ε by PRV, or by RDP where PRV would need gigabytes."""
    loose = _rdp_epsilon(mechanism, delta)
    if loose > _PRV_LIMIT or _prv_points(mechanism, delta, error) > _PRV_POINTS:
        return _non_negative(loose)
    try:
        return _non_negative(_prv_epsilon(mechanism, delta, error))
    except ValueError:  # δ is below the rounding error of PRV's sums
        return _non_negative(loose)


def _non_negative(value: float) -> float:
    """Round up, to 0 at least: where δ alone suffices, both accountants return a negative ε."""
    return round_up(max(value, 0.0))


def round_up(value: float) -> float:
    """Round an ε up to four decimals.

    >>> round_up(0.1234567891)
    0.1235
    """
    return float(Decimal(value).quantize(_EPSILON_DIGITS, rounding=ROUND_CEILING))


@lru_cache(maxsize=512)
def noise_multiplier(target: float, delta: float, rate: float, steps: int) -> float:
    """The smallest σ, in steps of 0.001, whose ε by PRV does not exceed a target. Slow; cached.

    Args:
        target: ε of the run, above 0.
        delta: δ of the run.
        rate: q, in (0, 1].
        steps: rounds × local steps.

    Raises:
        ValueError: the target is below the accountant's resolution.

    Example:
        >>> noise_multiplier(8.0, 1e-5, 0.0256, 80)
        0.555
    """
    if target < 10 * _EPSILON_ERROR:
        raise ValueError(f"epsilon = {target}: it should be at least {10 * _EPSILON_ERROR}")

    def cost(grid: int, error: float) -> float:
        return _prv_epsilon(Mechanism(rate, float(grid * _SIGMA_GRID), steps), delta, error)

    def estimate(grid: int) -> float:
        # PRV adds its error to its estimate; subtract the difference between the two errors.
        return cost(grid, _COARSE_ERROR) - (_COARSE_ERROR - _EPSILON_ERROR)

    def exact(grid: int) -> float:
        return cost(grid, _EPSILON_ERROR)

    # The start affects only the time of the search: PRV is slow where there is far too little noise.
    classic = rate * math.sqrt(steps * 2 * math.log(1.25 / delta)) / target
    start = round(math.hypot(classic, 0.6) / float(_SIGMA_GRID))
    grid = _near(exact, target, _near(estimate, target, start))
    while round_up(exact(grid)) > target:
        grid += 1
    while grid > 1 and round_up(exact(grid - 1)) <= target:
        grid -= 1
    return float(grid * _SIGMA_GRID)


def _near(estimate: Callable[[int], float], target: float, start: int) -> int:
    """Find where a decreasing function crosses a target, by the secant method on a log-log scale.

    Args:
        estimate: roughly a power of its argument.
        target: above 0.
        start: the first argument to try.
    """
    here, value = start, estimate(start)
    slope = -1.5
    for _ in range(20):
        step = math.log(max(value, 1e-9) / target) / -slope
        there = max(1, round(here * math.exp(min(max(step, -0.5), 0.5))))
        if there == here:
            break
        other = estimate(there)
        if other > 0 and value > 0 and other != value:
            slope = min(-0.2, math.log(other / value) / math.log(there / here))
        here, value = there, other
    return here


@lru_cache(maxsize=4096)
def _prv_epsilon(mechanism: Mechanism, delta: float, error: float) -> float:
    with _quiet():
        return float(_with_history(PRVAccountant(), mechanism).get_epsilon(delta, eps_error=error))


def _prv_points(mechanism: Mechanism, delta: float, error: float) -> float:
    """The approximate size of PRV's grid: twice its domain divided by its mesh (Gopi et al. 2021, remark 5.6)."""
    domain = 2 * (max(_rdp_epsilon(mechanism, delta / 4000), 0.0) + 3)
    return domain * math.sqrt(mechanism.steps * math.log(12000 / delta) / 2) / error


def _rdp_epsilon(mechanism: Mechanism, delta: float) -> float:
    with _quiet():
        return float(_with_history(RDPAccountant(), mechanism).get_epsilon(delta))


def _with_history(accountant: Any, mechanism: Mechanism) -> Any:
    accountant.history = [(mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps)]
    return accountant


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(divide="ignore"):  # at q = 1, log(1 − q) is −∞
        # If the best order is outside the fixed ones, the bound is looser, but still valid.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield


@lru_cache(maxsize=4096)
def renyi_divergence(mechanism: Mechanism, order: float) -> float:
    """Rényi divergence ρ(α) of a mechanism, an upper bound for add-or-remove adjacency.

    Args:
        mechanism: fixed before it runs.
        order: α above 1. Mironov, Talwar and Zhang 2019 (https://arxiv.org/abs/1908.10530), section 3.3.

    >>> renyi_divergence(Mechanism(sample_rate=1.0, noise_multiplier=2.0, steps=1), order=4.0)
    0.5
    """
    with _quiet():
        return float(
            rdp.compute_rdp(
                q=mechanism.sample_rate,
                noise_multiplier=mechanism.noise_multiplier,
                steps=mechanism.steps,
                orders=order,
            )
        )


def total(values: Iterable[float]) -> Decimal:
    """The exact decimal sum: ten times 0.1 is 1, so that a budget can be spent to its last digit.

    >>> sum([0.1] * 3), total([0.1] * 3)
    (0.30000000000000004, Decimal('0.3'))
    """
    # Floats span some 650 decimal digits; the usual 28 would round a tiny δ away.
    with localcontext(prec=2000):
        return sum((Decimal(repr(value)) for value in values), Decimal(0))
