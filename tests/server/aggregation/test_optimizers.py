"""Server optimizers against a loop over single numbers as the papers write them, and against torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter.adapter import Adapter, from_bytes, to_bytes
from common.plan.aggregation import Aggregation
from server.aggregation.optimizers import ServerState, initial_state, moving_average, step

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"
ADAPTIVE = ["fedadam", "fedyogi", "fedadagrad"]
VALUES = st.floats(-10, 10, width=32)


def aggregation(**values: Any) -> Aggregation:
    return Aggregation.model_validate(values)


def scalar(value: float) -> Adapter:
    return {B: np.array([[value]], np.float32)}


def after(start: Adapter, updates: list[Adapter], section: Aggregation) -> ServerState:
    state = initial_state(start, section)
    for number, update in enumerate(updates, start=1):
        state = step(state, update, section, number)
    return state


def slow(start: float, deltas: list[float], section: Aggregation) -> float:
    """Algorithm 2 of Reddi et al. 2021, one number at a time; m and v are kept in float32, as the state is."""
    x, m, v = start, 0.0, float(np.float32(section.tau**2))
    for delta in deltas:
        m = section.server_momentum * m + (1 - section.server_momentum) * delta
        if section.server_optimizer == "fedadagrad":
            v = v + delta**2
        elif section.server_optimizer == "fedyogi":
            sign = (v > delta**2) - (v < delta**2)
            v = v - (1 - section.server_beta2) * delta**2 * sign
        else:
            v = section.server_beta2 * v + (1 - section.server_beta2) * delta**2
        m, v = float(np.float32(m)), float(np.float32(v))
        x = x + section.server_learning_rate * m / (math.sqrt(v) + section.tau)
    return x


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(ADAPTIVE),
    VALUES,
    st.lists(VALUES, min_size=1, max_size=6),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.floats(1e-2, 1),
)
def test_the_adaptive_ones_follow_the_paper(
    name: str, start: float, deltas: list[float], beta1: float, beta2: float, tau: float
) -> None:
    section = aggregation(
        server_optimizer=name, server_learning_rate=0.1, server_momentum=beta1, server_beta2=beta2, tau=tau
    )
    found = after(scalar(start), [scalar(delta) for delta in deltas], section)
    assert float(found.adapter[B][0, 0]) == pytest.approx(slow(start, deltas, section), rel=1e-4, abs=1e-4)
    assert (found.variance[B] >= 0).all()


def test_one_step_of_each_by_hand() -> None:
    """τ = 0.5, so that v begins at 0.25; Δ = 1, β₁ = 0.5, β₂ = 0.75, η = 1: m = 0.5."""
    common = {"server_learning_rate": 1.0, "server_momentum": 0.5, "server_beta2": 0.75, "tau": 0.5}
    variances = {"fedadagrad": 1.25, "fedyogi": 0.5, "fedadam": 0.4375}
    for name, variance in variances.items():
        found = after(scalar(2.0), [scalar(1.0)], aggregation(server_optimizer=name, **common))
        assert found.variance[B][0, 0] == variance
        assert found.adapter[B][0, 0] == pytest.approx(2 + 0.5 / (math.sqrt(variance) + 0.5))


@settings(deadline=None, max_examples=50)
@given(VALUES, st.lists(VALUES, min_size=1, max_size=6), st.floats(0, 0.99), st.floats(0.01, 2))
def test_fedavgm_is_sgd_with_momentum_on_the_negated_update(
    start: float, deltas: list[float], momentum: float, rate: float
) -> None:
    section = aggregation(server_optimizer="fedavgm", server_learning_rate=rate, server_momentum=momentum)
    found = after(scalar(start), [scalar(delta) for delta in deltas], section)
    parameter = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=rate, momentum=momentum)
    for delta in deltas:
        parameter.grad = torch.tensor(-delta, dtype=torch.float64)
        optimizer.step()
    assert float(found.adapter[B][0, 0]) == pytest.approx(parameter.item(), rel=1e-4, abs=1e-4)


def test_without_an_optimizer_the_update_is_added_and_nothing_is_kept() -> None:
    found = after(scalar(1.0), [scalar(0.5), scalar(0.25)], aggregation())
    assert found.adapter[B].tolist() == [[1.75]]
    assert found.momentum == found.variance == found.average == {}
    assert found.released is found.adapter


@pytest.mark.parametrize("name", ["fedavgm", *ADAPTIVE])
def test_a_state_that_was_stored_goes_on_to_the_same_bits(name: str) -> None:
    """What lies between two rounds is float32, as it is stored: nothing is lost on disk."""
    random = np.random.default_rng(3)
    updates = [{A: random.normal(size=(3, 5)).astype(np.float32)} for _ in range(4)]
    section = aggregation(server_optimizer=name, server_learning_rate=0.1, average=0.9)
    begun = initial_state({A: np.zeros((3, 5), np.float32)}, section)
    whole = resumed = begun
    for number, update in enumerate(updates, start=1):
        whole = step(whole, update, section, number)
        resumed = step(resumed, update, section, number)
        parts = (resumed.adapter, resumed.momentum, resumed.variance, resumed.average)
        shapes = [{key: tensor.shape for key, tensor in part.items()} for part in parts]
        resumed = ServerState(
            *(from_bytes(to_bytes(part), shape) for part, shape in zip(parts, shapes, strict=True))
        )
    for part in ("adapter", "momentum", "variance", "average"):
        assert to_bytes(getattr(whole, part)) == to_bytes(getattr(resumed, part)), part
    assert not begun.adapter[A].any(), "a state is left as it was"


def test_the_average_forgets_the_beginning_soon_and_then_decays() -> None:
    assert moving_average(scalar(0.0), scalar(1.0), 0.9, 1)[B][0, 0] == pytest.approx(9 / 11)
    assert moving_average(scalar(1.0), scalar(2.0), 0.9, 1000)[B][0, 0] == pytest.approx(1.1)
    assert moving_average(scalar(1.0), scalar(2.0), 0.1, 1)[B][0, 0] == pytest.approx(1.9)
