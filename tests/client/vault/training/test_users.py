"""A user as the unit: drawn as a whole, one gradient, clipped once, however many records they have."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from client.vault.records.encoded import Unit
from client.vault.training import dp_sgd
from client.vault.training.dp_sgd import clipped_sum, mean_gradients
from client.vault.training.micro_batches import groups, micro_batches
from client.vault.training.per_example import PerExampleGradients
from common.tasks import Example
from tests.client.vault.training.models import (
    ARCHITECTURES,
    Poisoned,
    TinyTask,
    examples,
    flat,
    in_float,
    lora_model,
    trained,
    users,
)

BOUND = 0.05


@pytest.fixture(scope="module")
def llama() -> Any:
    return lora_model("llama")


def integers_of(model: Any, sample: list[Unit], task: Any = None, tokens: int = 256) -> torch.Tensor:
    with PerExampleGradients(model, trained(model)) as gradients:
        return clipped_sum(gradients, task or TinyTask("llama"), sample, BOUND, tokens)


def sum_of(model: Any, sample: list[Unit], task: Any = None, tokens: int = 256) -> torch.Tensor:
    return in_float(integers_of(model, sample, task, tokens), BOUND)


def means_of(model: Any, units: list[Unit], task: Any = None) -> list[torch.Tensor]:
    with PerExampleGradients(model, trained(model)) as gradients:
        return list(mean_gradients(gradients, task or TinyTask("llama"), units, 256))


def plain_mean(model: Any, unit: Unit, task: TinyTask) -> torch.Tensor:
    """The slow obvious loop: one example at a time, autograd alone."""
    total = torch.zeros(sum(parameter.numel() for parameter in trained(model).values()), dtype=torch.float64)
    for example in unit:
        loss = task.losses(model, [example], len(example))[0]
        each = torch.autograd.grad(loss, list(trained(model).values()))
        total += flat(dict(zip(trained(model), each, strict=True)))
    return total / max(1, len(unit))


# The gradient of a user


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_users_gradient_is_the_mean_of_a_plain_loop(architecture: str) -> None:
    model, task = lora_model(architecture), TinyTask(architecture)
    units = users([1, 7, 0, 23, 2])
    for unit, mean in zip(units, means_of(model, units, task), strict=True):
        expected = plain_mean(model, unit, task)
        assert float((mean - expected).norm()) <= 1e-4 * float(expected.norm())


def test_the_sum_is_that_of_a_plain_loop_that_clips_each_user_once(llama: Any) -> None:
    units, expected, clipped = users([1, 30, 0, 2, 9, 1, 5]), 0.0, 0
    plain = [plain_mean(llama, unit, TinyTask("llama")) for unit in units]
    bound = sorted(float(mean.norm()) for mean in plain)[3]
    for mean in plain:
        scale = min(1.0, bound / max(float(mean.norm()), 1e-30))
        clipped += scale < 1
        expected = expected + scale * mean
    assert clipped == 3, "some users should be clipped and some not"
    with PerExampleGradients(llama, trained(llama)) as gradients:
        total = in_float(clipped_sum(gradients, TinyTask("llama"), units, bound, 256), bound)
    assert float((total - expected).norm()) < 1e-4 * float(expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_users_gradient_is_the_same_whoever_else_is_drawn(architecture: str, dtype: torch.dtype) -> None:
    model, task = lora_model(architecture, dtype=dtype), TinyTask(architecture)
    one: Unit = tuple(examples(9, seed=5))
    seen = []
    for seed, counts in enumerate([[], [1, 1], [30, 2, 0, 5], [1] * 40, [100]]):
        others, place = users(counts, seed), len(counts) // 2
        seen.append(means_of(model, [*others[:place], one, *others[place:]], task)[place])
    # To the last bit; but on CPUs with AVX-512 and AMX the rounding of BERT follows the row in the batch.
    tolerance = 1e-6 if architecture == "bert" else 0.0
    assert max(float((seen[0] - other).norm()) for other in seen) <= tolerance * float(seen[0].norm())


def test_what_a_user_adds_to_the_sum_is_the_same_whoever_else_is_drawn(llama: Any) -> None:
    one: Unit = tuple(examples(9, seed=5))
    alone = integers_of(llama, [one])
    for counts in ([1, 1], [30, 2, 0, 5], [1] * 40, [100]):
        others = users(counts, seed=2)
        added = integers_of(llama, [*others, one]) - integers_of(llama, others)
        assert torch.equal(added, alone)


def test_the_sum_does_not_depend_on_the_groups(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    units = users([3, 1, 40, 0, 1, 1, 7, 2] * 3)
    whole = sum_of(llama, units)
    held: list[int] = []

    def watched(gradients: Any, task: Any, group: list[Unit], *rest: Any) -> Any:
        held.append(len(group))
        return mean_gradients(gradients, task, group, *rest)

    monkeypatch.setattr(dp_sgd, "mean_gradients", watched)
    monkeypatch.setattr("client.vault.training.micro_batches._GROUP_NUMBERS", 1)
    assert float((sum_of(llama, units, tokens=32) - whole).norm()) < 1e-5 * float(whole.norm())
    assert sum(held) == 4 * 3, "a unit of one example has no mean"
    assert max(held) <= 2, "no more users in memory than a micro-batch has rows"


# Sensitivity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("others", [[], [1], [1, 50, 0, 3, 12]])
@pytest.mark.parametrize("records", [1, 2, 17, 300])
def test_one_user_moves_the_sum_by_at_most_the_clipping_norm(
    records: int, others: list[int], dtype: torch.dtype
) -> None:
    """Records of one user are alike: clipped one by one, they would move the sum by as many C as there are."""
    model = lora_model("llama", dtype=dtype)
    one: Unit = tuple(examples(1, seed=9) * records)
    rest = users(others, seed=3)
    moved = float((sum_of(model, [*rest[:2], one, *rest[2:]]) - sum_of(model, rest)).norm())
    assert 0.99 * BOUND < moved <= BOUND * (1 + 1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=1, max_size=8), st.data())
def test_whoever_is_left_out_the_sum_moves_by_at_most_the_clipping_norm(counts: list[int], data: Any) -> None:
    model = lora_model("llama")
    place = data.draw(st.integers(0, len(counts) - 1))
    units = users(counts, seed=data.draw(st.integers(0, 5)))
    moved = float((sum_of(model, units) - sum_of(model, units[:place] + units[place + 1 :])).norm())
    assert moved <= BOUND * (1 + 1e-6)
    assert (moved == 0) == (counts[place] == 0)


# What cannot contribute


BAD = Example((0, 5, 6, 7), (0, 5, 6, 7))


def sound(count: int) -> Unit:
    return tuple(Example((1, *one.input_ids), (1, *one.labels)) for one in examples(count, seed=4))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_record_whose_gradient_is_not_finite_counts_as_zero_in_its_users_mean(
    llama: Any, place: int, value: float
) -> None:
    good = sound(5)
    (mean,) = means_of(llama, [(*good[:place], BAD, *good[place:])], Poisoned(value))
    (without,) = means_of(llama, [good], Poisoned(value))
    assert float((mean - without * 5 / 6).norm()) < 1e-12


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("one", [(BAD,), (BAD,) * 40, (*sound(3), BAD), (BAD, *sound(30), BAD)], ids=len)
def test_a_user_with_broken_records_moves_the_sum_by_at_most_the_clipping_norm(
    llama: Any, one: Unit, value: float
) -> None:
    rest = [sound(4), (), sound(1)]
    with_it, without = (sum_of(llama, sample, Poisoned(value)) for sample in ([*rest, one], rest))
    moved = float((with_it - without).norm())
    assert moved <= BOUND * (1 + 1e-6)
    if set(one) == {BAD} and not math.isfinite(value):
        assert moved == 0


def test_a_user_without_usable_records_contributes_zero(llama: Any) -> None:
    assert torch.equal(sum_of(llama, [(), *users([4, 2]), ()]), sum_of(llama, users([4, 2])))
    assert not sum_of(llama, [(), ()]).any()


# Memory


@given(
    counts=st.lists(st.integers(0, 70), max_size=30),
    size=st.sampled_from([1, 1000, 2**20, 2**24, 2**27]),
    max_tokens=st.integers(1, 300),
)
@settings(max_examples=100, deadline=None)
def test_groups_hold_each_user_once_and_their_gradients_fit_in_memory(
    counts: list[int], size: int, max_tokens: int
) -> None:
    units = users(counts)
    made = list(groups(units, size, max_tokens))
    assert sorted(map(hash, itertools.chain(*made))) == sorted(hash(unit) for unit in units if unit)
    for group in made:
        rows = max(1, max_tokens // 16)  # of the shortest examples
        assert group
        assert len({len(unit) == 1 for unit in group}) == 1, "of one example each, or of several each"
        assert len(group[0]) == 1 or len(group) * size <= max(2**25, rows * size)
        for batch, owners in micro_batches(group, max_tokens):
            assert len(batch.examples) <= batch.rows == max(1, max_tokens // batch.length)
            assert all(example in group[owner] for example, owner in zip(batch.examples, owners, strict=True))
        placed = Counter((owner, example) for batch, owners in micro_batches(group, max_tokens)
                         for example, owner in zip(batch.examples, owners, strict=True))  # fmt: skip
        assert placed == Counter((owner, example) for owner, unit in enumerate(group) for example in unit)


def test_examples_of_one_record_each_go_through_the_model_as_before_there_were_users() -> None:
    """With units of one example, a group is whole micro-batches: no row is wasted for being grouped."""
    sample: list[Unit] = [(example,) for example in examples(500, longest=15)]
    whole = sum(1 for _ in micro_batches(sample, 256))
    assert whole == math.ceil(500 / 16)
    for size in (1, 2**20, 2**24, 2**27):
        grouped = sum(1 for group in groups(sample, size, 256) for _ in micro_batches(group, 256))
        assert grouped == whole
