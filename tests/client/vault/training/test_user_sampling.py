"""Who is in a step and with which records: users at the public rate, records afresh, noise of its own."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import Step, choose_examples, poisson_sample, train
from client.vault.training.entropy import Keystream
from common.tasks import Example
from tests.client.vault.training.models import TinyTask, flat, lora_model, trained, users

BOUND = 0.05


def keystream(seed: int = 0) -> Keystream:
    return Keystream(seed.to_bytes(32, "little"))


@pytest.fixture(scope="module")
def llama() -> Any:
    return lora_model("llama")


class Logged(TinyTask):
    """Keeps what it was asked for; each step ends with `end`."""

    def __init__(self) -> None:
        super().__init__("llama")
        self.steps: list[Counter[Example]] = [Counter()]

    def losses(self, model: Any, batch: Any, length: int) -> torch.Tensor:
        # Rows without an example are filled with the first one, at the end.
        count = len(batch)
        while count > 1 and batch[count - 1] is batch[0]:
            count -= 1
        self.steps[-1].update(batch[:count])
        return super().losses(model, batch, length)

    def end(self) -> None:
        self.steps.append(Counter())


def run_steps(model: Any, units: list[Unit], step: Step, steps: int, seed: int = 0) -> tuple[list[Any], Logged]:
    """Train without a learning rate; the noised gradient of each step, and what was used in each."""
    seen: list[torch.Tensor] = []
    task = Logged()

    class Recorder(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            parameters = trained(model)
            seen.append(flat({name: parameter.grad.clone() for name, parameter in parameters.items()}))
            task.end()

    train(
        model, trained(model), task, units, step, steps, Recorder(trained(model).values(), lr=0.0), keystream(seed)
    )
    return seen, task


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("records", [0, 1, 3, 200])
def test_with_the_same_keystream_a_last_user_more_moves_a_step_by_at_most_c_over_the_public_divisor(
    llama: Any, records: int, rate: float
) -> None:
    """Neighbouring data sets; the same draws of everybody else, the same choice of records, the same noise."""
    # With little noise: a released number is rounded to a thousandth of its deviation.
    step = Step(rate, batch_size=3, clipping_norm=BOUND, noise_multiplier=2.0**-9, examples_per_unit=4)
    rest, one = users([1, 30, 0, 2, 9]), users([records], seed=7)
    fewer, _ = run_steps(llama, rest, step, 6)
    more, _ = run_steps(llama, rest + one, step, 6)
    moved = [float((left - right).norm()) for left, right in zip(more, fewer, strict=True)]
    assert max(moved) <= BOUND / 3 * (1 + 1e-3)
    assert (max(moved) > 0.3 * BOUND / 3) == (records > 0)
    if rate < 1 and records:
        assert 1 <= sum(moment == 0 for moment in moved) <= 5, "a user should be drawn in some of the steps only"


# Sampling


def test_each_user_is_drawn_at_the_rate_however_many_records_they_have() -> None:
    units: list[Unit] = [
        tuple(Example((place, 1), (0, 0)) for _ in range(size)) for place, size in enumerate([1, 500, 0, 7])
    ]
    stream, rate, draws = keystream(3), 0.1, 20_000
    counts: Counter[int] = Counter()
    for _ in range(draws):
        counts.update(len(unit) for unit in poisson_sample(units, rate, stream))
    for size in (1, 500, 0, 7):
        assert stats.binomtest(counts[size], draws, rate).pvalue > 1e-4


def test_a_step_draws_users_and_not_records(llama: Any) -> None:
    """At q = 1/2 half of the users are in a step, all of a user's records or none of them."""
    units = users([1, 20, 3, 6, 2, 9])
    step = Step(0.5, batch_size=3, clipping_norm=BOUND, noise_multiplier=1.0)
    _, task = run_steps(llama, units, step, 60)
    drawn = [[sum(used[example] > 0 for example in set(unit)) for unit in units] for used in task.steps[:60]]
    assert all(count in (0, len(set(unit))) for step in drawn for count, unit in zip(step, units, strict=True))
    times = sum(count > 0 for step in drawn for count in step)
    assert stats.binomtest(times, 6 * 60, 0.5).pvalue > 1e-4


# Choosing records


def test_every_choice_of_records_is_equally_likely() -> None:
    unit: Unit = tuple(Example((place, place), (0, 0)) for place in range(5))
    stream, counts = keystream(1), Counter()
    for _ in range(6000):
        chosen = choose_examples(unit, 2, stream)
        counts[tuple(example.input_ids[0] for example in chosen)] += 1
    assert sorted(counts) == list(itertools.combinations(range(5), 2))
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4


@given(st.integers(0, 40), st.none() | st.integers(1, 50) | st.just(10**30), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_as_many_records_are_chosen_as_may_be_and_none_twice(count: int, most: int | None, seed: int) -> None:
    unit: Unit = tuple(Example((place, place), (0, 0)) for place in range(count))
    chosen = choose_examples(unit, most, keystream(seed))
    assert len(set(chosen)) == len(chosen) == (count if most is None else min(count, most))
    assert list(chosen) == [example for example in unit if example in chosen]


@pytest.mark.parametrize("uniform", [0.0, 2.0**-54, 0.5, 1.0])
def test_the_ends_of_the_uniforms_choose_records_that_are_there(uniform: float) -> None:
    class Constant(Keystream):
        def uniforms(self, count: int) -> Any:
            return np.full(count, uniform)

    unit: Unit = tuple(Example((place, place), (0, 0)) for place in range(7))
    assert len(set(choose_examples(unit, 6, Constant(bytes(32))))) == 6


def test_no_more_records_of_a_user_are_used_in_a_step_and_others_in_the_next(llama: Any) -> None:
    units = users([12, 3, 1])
    step = Step(1.0, batch_size=3, clipping_norm=BOUND, noise_multiplier=1.0, examples_per_unit=3)
    _, task = run_steps(llama, units, step, 30)
    for used in task.steps[:30]:
        assert [sum(used[example] for example in set(unit)) for unit in units] == [3, 3, 1]
    assert set().union(*task.steps) == {example for unit in units for example in unit}
    assert len({frozenset(used) for used in task.steps[:30]}) > 20


@pytest.mark.parametrize("other", [0, 1, 4, 300])
def test_the_noise_is_the_same_however_many_users_and_records_there_are(llama: Any, other: int) -> None:
    """At C → 0 only noise is left: if choosing records moved it, its end, a refusal, would tell of the records."""
    loud = Step(1.0, batch_size=3, clipping_norm=1e-9, noise_multiplier=1e9, examples_per_unit=2)
    usual, _ = run_steps(llama, users([2, 3]), loud, 2)
    seen, _ = run_steps(llama, users([2, 3, other]), loud, 2)
    assert all(float((left - right).abs().max()) < 1e-6 for left, right in zip(usual, seen, strict=True))
