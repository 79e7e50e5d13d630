"""Aggregation against a plain loop: the mean, and what the mean of LoRA matrices is the mean of."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter.adapter import Adapter
from server.aggregation.mean import add, weighted_mean

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"
TINY = 1.5e-45  # the smallest number of float32
VALUES = st.floats(-1e3, 1e3, width=32)
WEIGHTS = st.floats(1e-3, 1e6) | st.integers(1, 10**9)


@st.composite
def federations(draw: st.DrawFn) -> tuple[list[Adapter], list[float]]:
    """Updates of equal names and shapes, and a weight for each."""
    shapes = draw(
        st.dictionaries(
            st.sampled_from([A, B, "v_proj.lora_B.weight"]),
            st.tuples(st.integers(1, 3), st.integers(1, 3)),
            min_size=1,
            max_size=2,
        )
    )
    count = draw(st.integers(1, 4))
    updates = []
    for _ in range(count):
        flat = {
            name: draw(st.lists(VALUES, min_size=rows * columns, max_size=rows * columns))
            for name, (rows, columns) in shapes.items()
        }
        updates.append({name: np.array(flat[name], np.float32).reshape(shapes[name]) for name in shapes})
    return updates, draw(st.lists(WEIGHTS, min_size=count, max_size=count))


def slow_mean(updates: list[Adapter], weights: list[float], name: str, place: tuple[int, ...]) -> float:
    total, whole = 0.0, 0.0
    for update, weight in zip(updates, weights, strict=True):
        total += float(weight) * float(update[name][place])
        whole += float(weight)
    return total / whole


@settings(deadline=None, max_examples=60)
@given(federations())
def test_the_mean_is_that_of_a_plain_loop(federation: tuple[list[Adapter], list[float]]) -> None:
    updates, weights = federation
    mean = weighted_mean(updates, weights)
    assert set(mean) == set(updates[0])
    for name, tensor in mean.items():
        assert (tensor.dtype, tensor.shape) == (np.float32, updates[0][name].shape)
        for place in np.ndindex(tensor.shape):
            largest = max(abs(float(update[name][place])) for update in updates)
            assert abs(float(tensor[place]) - slow_mean(updates, weights, name, place)) <= 1e-6 * largest + TINY


@settings(deadline=None, max_examples=60)
@given(federations(), st.randoms())
def test_another_order_changes_nothing(federation: tuple[list[Adapter], list[float]], random: Random) -> None:
    updates, weights = federation
    order = list(range(len(updates)))
    random.shuffle(order)
    mean = weighted_mean(updates, weights)
    again = weighted_mean([updates[index] for index in order], [weights[index] for index in order])
    for name in mean:
        largest = max(1.0, *(float(np.abs(update[name]).max()) for update in updates))
        assert np.abs(mean[name].astype(np.float64) - again[name]).max() <= 1e-7 * largest


@settings(deadline=None, max_examples=30)
@given(federations())
def test_the_mean_of_one_update_is_that_update(federation: tuple[list[Adapter], list[float]]) -> None:
    updates, weights = federation
    mean = weighted_mean(updates[:1], weights[:1])
    for name, tensor in updates[0].items():
        assert (mean[name] == tensor).all()


def test_weights_count_in_proportion() -> None:
    updates = [{B: np.array([[value]], np.float32)} for value in (1.0, 5.0)]
    assert weighted_mean(updates, [1, 1])[B].tolist() == [[3.0]]
    assert weighted_mean(updates, [3, 1])[B].tolist() == [[2.0]]
    assert weighted_mean(updates, [30_000, 10_000])[B].tolist() == [[2.0]]


def test_the_sum_is_made_in_double_precision() -> None:
    # In single precision the 1 would vanish beside the large numbers that cancel.
    updates = [{B: np.array([[value]], np.float32)} for value in (1e10, 3.0, -1e10)]
    assert weighted_mean(updates, [1, 1, 1])[B][0, 0] == pytest.approx(1.0, abs=1e-5)


def test_the_updates_are_left_as_they_were() -> None:
    updates = [{B: np.array([[1.0, 2.0]], np.float32)}, {B: np.array([[3.0, 4.0]], np.float32)}]
    weighted_mean(updates, [1, 2])
    assert [update[B].tolist() for update in updates] == [[[1.0, 2.0]], [[3.0, 4.0]]]


def test_a_weight_for_each_update_is_needed() -> None:
    update = {B: np.ones((1, 1), np.float32)}
    with pytest.raises(ValueError):
        weighted_mean([update, update], [1])


def product(adapter: Adapter) -> np.ndarray:
    return adapter[B].astype(np.float64) @ adapter[A].astype(np.float64)


def test_with_one_a_the_mean_of_the_products_is_the_product_of_the_means_and_else_it_is_not() -> None:
    random = np.random.default_rng(0)
    trained = [
        {A: random.normal(size=(2, 5)).astype(np.float32), B: random.normal(size=(4, 2)).astype(np.float32)}
        for _ in range(3)
    ]
    weights = [1.0, 2.0, 5.0]
    shared = trained[0][A]
    wanted = (
        sum(weight * product({A: shared, B: own[B]}) for weight, own in zip(weights, trained, strict=True)) / 8
    )
    ffa = weighted_mean([{B: own[B]} for own in trained], weights)
    np.testing.assert_allclose(product({A: shared, **ffa}), wanted, atol=1e-6)

    apart = sum(weight * product(own) for weight, own in zip(weights, trained, strict=True)) / 8
    assert np.abs(product(weighted_mean(trained, weights)) - apart).max() > 0.1


def test_an_update_is_added_tensor_by_tensor() -> None:
    adapter = {A: np.array([[1.0, 2.0]], np.float32), B: np.array([[0.0]], np.float32)}
    update = {A: np.array([[0.5, -2.0]], np.float32), B: np.array([[4.0]], np.float32)}
    after = add(adapter, update)
    assert (after[A].tolist(), after[B].tolist()) == ([[1.5, 0.0]], [[4.0]])
    assert adapter[A].tolist() == [[1.0, 2.0]]
