"""What another library says: dp_accounting's privacy loss distributions, beside which our figures are held."""

from __future__ import annotations

import dp_accounting
from dp_accounting import pld


def pld_epsilon(rate: float, sigma: float, steps: int, delta: float, interval: float = 1e-3) -> float:
    """The ε of a subsampled Gaussian mechanism at δ.

    Args:
        rate: of the Poisson sampling.
        sigma: noise multiplier.
        steps: how often it is done.
        delta: δ.
        interval: of the discretized losses. At 1e-3 and tens of steps ε differs from that at 1e-4 by 1e-6.
    """
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(sigma))
    accountant.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))
