"""The adapter's bytes: exact, of public size, and refused if anything in them is invalid."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from scipy import stats

from common.adapter.adapter import Adapter, AdapterError, from_bytes, initial, subtract, to_bytes, trainable_shapes

A, B = "model.layers.0.q_proj.lora_A.weight", "model.layers.0.q_proj.lora_B.weight"
SHAPES = {A: (2, 6), B: (4, 2)}
# A number that is recognizable in a message.
MARK = np.float32(0.78539816)


def marked() -> Adapter:
    return {name: np.full(shape, MARK, np.float32) for name, shape in SHAPES.items()}


def refusal(data: bytes) -> str:
    with pytest.raises(AdapterError) as caught:
        from_bytes(data, SHAPES)
    text = str(caught.value)
    assert "0.78" not in text
    assert "785" not in text
    return text


def container(header: Any, payload: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + payload


PAYLOAD = np.full(20, MARK, np.float32).tobytes()


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADER = {A: entry([2, 6], 0, 48), B: entry([4, 2], 48, 80)}


# Bytes


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=20, max_size=20))
def test_bytes_hold_every_value_exactly(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    adapter = {A: numbers[:12].reshape(2, 6), B: numbers[12:].reshape(4, 2)}
    data = to_bytes(adapter)
    for read in (from_bytes(data, SHAPES), load(data)):
        assert set(read) == set(adapter)
        for name, tensor in adapter.items():
            assert read[name].dtype == np.float32
            assert read[name].tobytes() == tensor.tobytes()


def test_equal_adapters_have_equal_bytes() -> None:
    one = initial(SHAPES, 0)
    other = {name: np.asfortranarray(one[name]) for name in sorted(one, reverse=True)}
    assert to_bytes(other) == to_bytes(one)


def test_the_size_depends_on_the_shapes_alone() -> None:
    sizes = {
        len(to_bytes({name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}))
        for value in (0.0, -0.0, 1.0, 3.4e38, 1e-45)
    }
    assert sizes == {len(to_bytes(initial(SHAPES, 3)))}


def test_a_container_written_by_hand_is_read() -> None:
    assert all((tensor == MARK).all() for tensor in from_bytes(container(HEADER, PAYLOAD), SHAPES).values())


# Refusals


def test_a_missing_tensor_is_named() -> None:
    # The remaining tensor has as many bytes as both should have together.
    assert A in refusal(save({B: np.full(20, MARK, np.float32)}))
    assert "bytes" in refusal(save({B: marked()[B]}))


def test_an_extra_tensor_is_named() -> None:
    assert "bytes" in refusal(save({**marked(), "more": np.full(1, MARK, np.float32)}))
    assert "'more'" in refusal(save({**marked(), "more": np.zeros(0, np.float32)}))


def test_another_shape_with_as_many_elements_is_refused() -> None:
    text = refusal(save({**marked(), A: np.full((6, 2), MARK, np.float32)}))
    assert all(part in text for part in (A, "(6, 2)", "(2, 6)"))


def test_half_precision_is_refused() -> None:
    assert "bytes" in refusal(save({name: tensor.astype(np.float16) for name, tensor in marked().items()}))
    halves = {A: np.full((4, 6), MARK, np.float16), B: np.full((8, 2), MARK, np.float16)}
    assert "F16" in refusal(save(halves))


def test_integers_of_the_same_size_are_refused() -> None:
    assert "I32" in refusal(container({**HEADER, B: entry([4, 2], 48, 80, "I32")}, PAYLOAD))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [A, B])
def test_a_value_that_is_not_finite_is_refused(name: str, value: float) -> None:
    adapter = marked()
    adapter[name][-1, -1] = value
    assert refusal(to_bytes(adapter)) == f"tensor {name} is not finite"


@pytest.mark.parametrize("cut", [0, 3, 8, 20, 100, -1])
def test_truncated_bytes_are_refused(cut: int) -> None:
    assert refusal(to_bytes(marked())[:cut])


def test_trailing_bytes_are_refused() -> None:
    assert refusal(to_bytes(marked()) + b"\x00")


@pytest.mark.parametrize("length", [2**64 - 1, 2**62, 2**31, 0])
def test_a_header_that_announces_another_length_is_refused(length: int) -> None:
    assert refusal(length.to_bytes(8, "little") + to_bytes(marked())[8:])


@pytest.mark.parametrize(
    "header",
    [
        {**HEADER, B: entry([2**40, 2**40], 48, 80)},
        {**HEADER, B: entry([4, 2], 16, 48)},
        {**HEADER, B: entry([4, 2], 48, 2**62)},
        {**HEADER, B: entry([-4, -2], 48, 80)},
        {**HEADER, B: {"dtype": ["F32"], "shape": [4, 2], "data_offsets": [48, 80]}},
        {**HEADER, B: "F32"},
        {**HEADER, "__metadata__": 5},
        [HEADER],
        5,
        b"[" * 10_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"\\ud800": {"dtype": "F32"}}',
        b"\xff\xfe",
    ],
    ids=str,
)
def test_a_header_that_does_not_describe_the_tensors_is_refused(header: Any) -> None:
    assert refusal(container(header, PAYLOAD))


def test_a_long_dtype_is_truncated_in_the_message() -> None:
    assert len(refusal(container({**HEADER, B: entry([4, 2], 48, 80, "X" * 100_000)}, PAYLOAD))) < 2000


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400) | st.binary(min_size=4, max_size=60).map(lambda head: container(head, PAYLOAD)))
def test_random_bytes_raise_only_an_adapter_error(data: bytes) -> None:
    with pytest.raises(AdapterError):
        from_bytes(data, SHAPES)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(to_bytes(initial(SHAPES, 0))) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_a_finite_adapter_or_an_adapter_error(place: int, change: int) -> None:
    data = bytearray(to_bytes(marked()))
    data[place] ^= change
    try:
        read = from_bytes(bytes(data), SHAPES)
    except AdapterError:
        return
    assert {name: tensor.shape for name, tensor in read.items()} == SHAPES
    assert all(np.isfinite(tensor).all() for tensor in read.values())


# The adapter before any training


def test_b_is_zero_and_a_is_uniform_within_one_over_the_root_of_fan_in() -> None:
    start = initial({A: (64, 1024), B: (48, 64)}, 5)
    assert not start[B].any()
    bound = 1 / 32
    assert start[A].dtype == np.float32
    assert np.abs(start[A]).max() <= bound
    values = start[A].ravel().astype(np.float64)
    # 65,536 draws of variance bound² / 3: five standard deviations of their mean.
    assert abs(values.mean()) < 5 * bound / np.sqrt(3 * values.size)
    assert values.var() == pytest.approx(bound**2 / 3, rel=0.02)
    assert stats.kstest(values, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_a_depends_on_the_seed_and_on_the_name_alone() -> None:
    other = A.replace("q_proj", "v_proj")
    start = initial(SHAPES, 1)
    again = initial({other: (2, 6), B: (4, 2), A: (2, 6)}, 1)
    assert (again[A] == start[A]).all()
    assert not (again[other] == start[A]).any()
    assert not (initial(SHAPES, 2)[A] == start[A]).any()


def test_the_first_values_of_a_are_the_same_in_every_version() -> None:
    # If versions initialized A differently, products of different matrices would be averaged, unnoticed.
    start = initial({A: (2, 4)}, 0)
    assert start[A].tolist() == [
        [-0.13320595026016235, -0.41606655716896057, 0.21599134802818298, 0.16266298294067383],
        [-0.16042041778564453, -0.3446495234966278, 0.30444806814193726, 0.21930229663848877],
    ]


def test_ffa_trains_b_alone_and_the_others_train_both() -> None:
    assert trainable_shapes(SHAPES, "ffa") == {B: (4, 2)}
    assert trainable_shapes(SHAPES, "fedavg") == SHAPES


def test_subtraction_is_left_minus_right() -> None:
    left = {A: np.array([[3.0, 1.0]], np.float32)}
    right = {A: np.array([[1.0, 4.0]], np.float32)}
    assert subtract(left, right)[A].tolist() == [[2.0, -3.0]]
