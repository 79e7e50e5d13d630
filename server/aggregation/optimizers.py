"""Server optimizers and the moving average of adapters: pure functions of the state and an update.

The aggregated update of a round is used as a negative gradient (Reddi et al. 2021,
https://arxiv.org/abs/2003.00295, algorithm 2). Everything is post-processing of noised updates. Between rounds the
state is float32, as in checkpoints, so that a resumed run computes the same as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from common.adapter.adapter import Adapter
from common.plan.aggregation import Aggregation
from server.aggregation.mean import Tensors, add


@dataclass(frozen=True)
class ServerState:
    """The state of the server after a round.

    Attributes:
        adapter: start of the next round.
        momentum: m of the optimizer; empty without an optimizer.
        variance: v of an adaptive optimizer, positive; otherwise empty.
        average: moving average of the adapters; empty if the plan uses none.
    """

    adapter: Adapter
    momentum: Adapter = field(default_factory=dict)
    variance: Adapter = field(default_factory=dict)
    average: Adapter = field(default_factory=dict)

    @property
    def released(self) -> Adapter:
        """The adapter that is evaluated, and that is the result after the last round."""
        return self.average or self.adapter


def initial_state(adapter: Adapter, aggregation: Aggregation) -> ServerState:
    """Return the state before the first round: m = 0, v = τ², and the adapter as average.

    Args:
        adapter: of round 0.
        aggregation: of the plan.
    """
    return ServerState(
        adapter=adapter,
        momentum=_filled(adapter, 0.0) if aggregation.server_optimizer != "none" else {},
        variance=_filled(adapter, aggregation.tau**2) if aggregation.server_optimizer in _VARIANCES else {},
        average=adapter if aggregation.average is not None else {},
    )


def step(state: ServerState, update: Tensors, aggregation: Aggregation, round_number: int) -> ServerState:
    """Return the state after a round.

    Args:
        state: before the round.
        update: Δ, the aggregated update.
        aggregation: of the plan.
        round_number: from 1.
    """
    if aggregation.server_optimizer == "none":
        after = replace(state, adapter=add(state.adapter, update))
    elif aggregation.server_optimizer == "fedavgm":
        after = fedavgm(state, update, aggregation.server_learning_rate or 1.0, aggregation.server_momentum)
    else:
        after = adaptive(state, update, aggregation)
    if aggregation.average is None:
        return after
    return replace(after, average=moving_average(state.average, after.adapter, aggregation.average, round_number))


def fedavgm(state: ServerState, update: Tensors, rate: float, momentum: float) -> ServerState:
    """M ← β·m + Δ, x ← x + η·m (Hsu et al. 2019, https://arxiv.org/abs/1909.06335).

    Args:
        state: x and m.
        update: Δ.
        rate: η.
        momentum: β.
    """
    velocity = _map(lambda m, delta: momentum * m + delta, state.momentum, update)
    return replace(state, momentum=velocity, adapter=_map(lambda x, m: x + rate * m, state.adapter, velocity))


_Float64 = npt.NDArray[np.float64]
# v after a round, from v, Δ² and β₂ (algorithm 2 of Reddi et al.).
_VARIANCES: dict[str, Callable[[_Float64, _Float64, float], _Float64]] = {
    "fedadagrad": lambda v, square, _: v + square,
    "fedyogi": lambda v, square, beta2: v - (1 - beta2) * square * np.sign(v - square),
    "fedadam": lambda v, square, beta2: beta2 * v + (1 - beta2) * square,
}


def adaptive(state: ServerState, update: Tensors, aggregation: Aggregation) -> ServerState:
    """M ← β₁·m + (1 − β₁)·Δ, v by the optimizer, x ← x + η·m / (√v + τ) (Reddi et al. 2021, algorithm 2).

    Args:
        state: x, m and v.
        update: Δ.
        aggregation: contains the optimizer, η, β₁, β₂ and τ.
    """
    rate, beta1, tau = aggregation.server_learning_rate, aggregation.server_momentum, aggregation.tau
    assert rate is not None, "plans without it are rejected"
    variance_of = _VARIANCES[aggregation.server_optimizer]
    momentum = _map(lambda m, delta: beta1 * m + (1 - beta1) * delta, state.momentum, update)
    variance = _map(
        lambda v, delta: variance_of(v, np.square(delta), aggregation.server_beta2), state.variance, update
    )
    moves = _map(lambda m, v: rate * m / (np.sqrt(v) + tau), momentum, variance)
    return replace(state, momentum=momentum, variance=variance, adapter=add(state.adapter, moves))


def moving_average(average: Adapter, adapter: Adapter, decay: float, round_number: int) -> Adapter:
    """Return the exponential moving average of the adapters (Polyak averaging, used under DP by De et al. 2022).

    The decay of round t is at most (1 + t) / (10 + t), so that the adapter of round 0, whose B is zero, soon
    has little weight, as in TensorFlow's `ExponentialMovingAverage` with `num_updates`.

    Args:
        average: before the round.
        adapter: after the round.
        decay: β.
        round_number: t, from 1.

    >>> after = moving_average({"w": np.array([0.0])}, {"w": np.array([1.0])}, decay=0.9, round_number=100)
    >>> round(float(after["w"][0]), 3)
    0.1
    """
    beta = min(decay, (1 + round_number) / (10 + round_number))
    return _map(lambda mean, last: beta * mean + (1 - beta) * last, average, adapter)


def _map(function: Callable[[_Float64, _Float64], _Float64], left: Tensors, right: Tensors) -> Adapter:
    """Apply a function to each pair of tensors, in float64; values too large for float32 become infinite."""
    with np.errstate(over="ignore"):
        return {
            name: function(left[name].astype(np.float64), right[name].astype(np.float64)).astype(np.float32)
            for name in left
        }


def _filled(adapter: Adapter, value: float) -> Adapter:
    return {name: np.full(tensor.shape, value, np.float32) for name, tensor in adapter.items()}
