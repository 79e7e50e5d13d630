"""Robust aggregation against slow loops and by hand, and what it is for: hostile organizations in a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import server.aggregation.robust
from common.adapter.adapter import Adapter
from server.aggregation.mean import weighted_mean
from server.aggregation.robust import median, multi_krum, robust_mean, trimmed_mean, updates_needed

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"
VALUES = st.floats(-1e3, 1e3, width=32)


def one(*values: float) -> Adapter:
    return {B: np.array([values], np.float32)}


@st.composite
def rounds(draw: st.DrawFn) -> tuple[list[Adapter], int]:
    """Updates of two tensors, enough of them for the f that comes along."""
    byzantine = draw(st.integers(1, 2))
    count = draw(st.integers(2 * byzantine + 3, 2 * byzantine + 5))
    shapes = {A: (2, draw(st.integers(1, 3))), B: (draw(st.integers(1, 3)), 2)}
    updates = []
    for _ in range(count):
        values = {
            name: draw(st.lists(VALUES, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
            for name, shape in shapes.items()
        }
        updates.append({name: np.array(values[name], np.float32).reshape(shapes[name]) for name in shapes})
    return updates, byzantine


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three numbers of each update at a time at most, so that tensors are cut."""
    monkeypatch.setattr(server.aggregation.robust, "_BLOCK", 15)


@settings(deadline=None, max_examples=60)
@given(rounds())
def test_median_and_trimmed_mean_are_those_of_a_plain_loop(round_: tuple[list[Adapter], int]) -> None:
    updates, byzantine = round_
    middle, trimmed = median(updates), trimmed_mean(updates, byzantine)
    for name, tensor in updates[0].items():
        assert middle[name].shape == trimmed[name].shape == tensor.shape
        assert middle[name].dtype == trimmed[name].dtype == np.float32
        for place in np.ndindex(tensor.shape):
            values = sorted(float(update[name][place]) for update in updates)
            assert middle[name][place] == np.float32(statistics.median(values))
            kept = values[byzantine : len(values) - byzantine]
            assert float(trimmed[name][place]) == pytest.approx(sum(kept) / len(kept), rel=1e-6, abs=1e-4)


def slow_krum(updates: list[Adapter], byzantine: int) -> tuple[list[float], int]:
    """Scores as the paper writes them, and how many updates are taken."""
    flat = [np.concatenate([update[name].ravel() for name in sorted(update)]).astype(float) for update in updates]
    closest = len(updates) - byzantine - 2
    scores = []
    for place, own in enumerate(flat):
        distances = sorted(
            sum(float(difference) ** 2 for difference in own - other)
            for at, other in enumerate(flat)
            if at != place
        )
        scores.append(sum(distances[:closest]))
    return scores, closest


@settings(deadline=None, max_examples=60)
@given(rounds())
def test_multi_krum_takes_the_smallest_scores(round_: tuple[list[Adapter], int]) -> None:
    updates, byzantine = round_
    scores, wanted = slow_krum(updates, byzantine)
    chosen = multi_krum(updates, byzantine)
    assert len(set(chosen)) == len(chosen) == wanted
    assert chosen == sorted(chosen)
    # Scores that are equal but for rounding may be exchanged.
    largest, slack = max(scores[place] for place in chosen), 1e-9 * (1 + max(scores))
    assert all(scores[place] >= largest - slack for place in range(len(updates)) if place not in chosen)


def test_by_hand() -> None:
    updates = [one(1, -9), one(2, 0), one(3, 1), one(4, 2), one(100, 3)]
    assert median(updates)[B].tolist() == [[3, 1]]
    assert trimmed_mean(updates, 1)[B].tolist() == [[3, 1]]
    assert trimmed_mean([one(0), one(2), one(7), one(1000)], 1)[B].tolist() == [[4.5]]
    # f = 1, n = 5: two are taken. Squared distances to the two nearest: 1+4, 1+1, 1+1, 1+4, 96²+97².
    line = [one(1), one(2), one(3), one(4), one(100)]
    assert multi_krum(line, 1) == [1, 2]
    assert robust_mean("multi-krum", line, 1)[B].tolist() == [[2.5]]


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "multi-krum"])
def test_the_largest_numbers_of_float32_do_not_overflow_on_the_way(rule: str) -> None:
    largest = float(np.finfo(np.float32).max)
    updates = [one(1.0), one(1.25), one(0.75), one(largest), one(-largest)]
    assert 0.7 <= robust_mean(rule, updates, 1)[B][0, 0] <= 1.3


def test_how_many_updates_each_rule_needs() -> None:
    wanted = {"none": 1, "median": 5, "trimmed-mean": 5, "multi-krum": 7}
    assert {rule: updates_needed(rule, 2) for rule in wanted} == wanted
    # At these numbers each rule leaves something to average, and the hostile are fewer than what it takes.
    for byzantine in range(1, 4):
        many = [one(float(value)) for value in range(updates_needed("multi-krum", byzantine))]
        assert len(multi_krum(many, byzantine)) == byzantine + 1
        least = [one(float(value)) for value in range(updates_needed("trimmed-mean", byzantine))]
        assert trimmed_mean(least, byzantine)[B].tolist() == [[byzantine]]


# Two of seven are hostile

Attack = Callable[[np.random.Generator, Adapter], Adapter]


def sign_flip(random: np.random.Generator, honest: Adapter) -> Adapter:
    return {name: -10 * tensor for name, tensor in honest.items()}


def large(random: np.random.Generator, honest: Adapter) -> Adapter:
    return {name: random.normal(0, 100, tensor.shape).astype(np.float32) for name, tensor in honest.items()}


def relative_error(found: Adapter, wanted: Adapter) -> float:
    both = [np.concatenate([part[name].ravel() for name in sorted(part)]) for part in (found, wanted)]
    return float(np.linalg.norm(both[0] - both[1]) / np.linalg.norm(both[1]))


@pytest.mark.parametrize("attack", [sign_flip, large])
def test_with_two_hostile_of_seven_the_robust_rules_stay_near_the_honest_mean_and_the_mean_does_not(
    attack: Attack,
) -> None:
    random = np.random.default_rng(7)
    truth = {A: random.normal(size=(4, 50)).astype(np.float32), B: random.normal(size=(50, 4)).astype(np.float32)}
    updates = [
        {name: (tensor + random.normal(0, 0.5, tensor.shape)).astype(np.float32) for name, tensor in truth.items()}
        for _ in range(7)
    ]
    clean = weighted_mean(updates[2:], [1.0] * 5)
    poisoned = [attack(random, update) for update in updates[:2]] + updates[2:]
    for rule in ("median", "trimmed-mean", "multi-krum"):
        assert relative_error(robust_mean(rule, poisoned, 2), clean) < 0.45, rule
    assert relative_error(weighted_mean(poisoned, [1.0] * 7), clean) > 2
    chosen = multi_krum(poisoned, 2)
    assert not {0, 1} & set(chosen)
