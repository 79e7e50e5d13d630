"""Adapters in fewer bits as bytes: read back within a step, of public size, and refused if invalid."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load

from common.adapter.adapter import Adapter, AdapterError, from_bytes, to_bytes, to_wire
from common.adapter.compression import NumberFormat
from common.adapter.rounding import PublicUniforms

A, B, BIAS = "q_proj.lora_A.weight", "q_proj.lora_B.weight", "head.bias"
# Odd widths and a vector: the 4 bits of the last number of int4 have no neighbour.
SHAPES = {A: (2, 7), B: (5, 2), BIAS: (3,)}
NUMBERS, CHANNELS = 27, 2 + 2 + 1
FORMATS: tuple[NumberFormat, ...] = get_args(NumberFormat)
FEWER = FORMATS[1:]
PAYLOAD = {"bfloat16": 2 * NUMBERS, "int8": NUMBERS + 4 * CHANNELS, "int4": 14 + 4 * CHANNELS}
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def random(seed: int = 0) -> Adapter:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def wire(adapter: Adapter, number_format: NumberFormat, seed: int = 0) -> bytes:
    return to_wire(adapter, number_format, PublicUniforms("test", seed))


def step_of(name: str, tensor: np.ndarray, number_format: str) -> np.ndarray:
    """The largest allowed error of a number, computed independently."""
    if number_format == "float32":
        return np.zeros(tensor.shape)
    if number_format == "bfloat16":
        return np.maximum(np.abs(tensor) * 2.0**-7, 2.0**-133)
    levels = {"int8": 127, "int4": 7}[number_format]
    axis = {A: 1, B: 0, BIAS: 0}[name]
    return np.abs(tensor).max(axis=axis, keepdims=True) / levels * (1 + 1e-6) + 2.0**-149


@settings(deadline=None, max_examples=100)
@given(arrays.arrays(np.float32, NUMBERS, elements=finite), st.sampled_from(FORMATS), st.integers(0, 99))
def test_numbers_are_read_back_within_a_step(numbers: np.ndarray, form: NumberFormat, seed: int) -> None:
    adapter = {A: numbers[:14].reshape(2, 7), B: numbers[14:24].reshape(5, 2), BIAS: numbers[24:]}
    read = from_bytes(wire(adapter, form, seed), SHAPES, form)
    assert {name: tensor.shape for name, tensor in read.items()} == SHAPES
    for name, tensor in adapter.items():
        assert read[name].dtype == np.float32
        difference = np.abs(read[name].astype(np.float64) - tensor.astype(np.float64))
        assert (difference <= step_of(name, tensor.astype(np.float64), form)).all()


@settings(deadline=None, max_examples=100)
@given(arrays.arrays(np.float32, NUMBERS, elements=st.floats(width=32)), st.sampled_from(FEWER))
def test_the_size_and_the_header_depend_on_names_and_shapes_alone(numbers: np.ndarray, form: NumberFormat) -> None:
    """For any numbers: zero, huge or NaN."""
    data = wire({A: numbers[:14].reshape(2, 7), B: numbers[14:24].reshape(5, 2), BIAS: numbers[24:]}, form)
    other = wire(random(), form, 1)
    header = 8 + int.from_bytes(other[:8], "little")
    assert len(data) == len(other) == header + PAYLOAD[form]
    assert data[:header] == other[:header]
    if not np.isfinite(numbers).all():
        with pytest.raises(AdapterError, match="not finite"):
            from_bytes(data, SHAPES, form)


def test_float32_is_unchanged() -> None:
    assert wire(random(), "float32") == to_bytes(random())


def test_the_bytes_follow_from_the_tensors_and_the_rounding_alone() -> None:
    for form in FEWER:
        assert wire(random(), form) == wire({name: random()[name] for name in reversed(SHAPES)}, form)
        assert wire(random(), form) == wire({name: np.asfortranarray(t) for name, t in random().items()}, form)
        assert wire(random(), form) != wire(random(), form, seed=1)
        assert len(wire(random(), form)) == len(wire(random(1), form, seed=1))


@pytest.mark.parametrize("form", FEWER)
def test_an_independent_reader_of_safetensors_finds_the_parts(form: NumberFormat) -> None:
    parts = load(wire(random(), form))
    kind = {"bfloat16": torch.bfloat16, "int8": torch.int8, "int4": torch.uint8}[form]
    assert parts[form].dtype == kind
    assert set(parts) == ({form} if form == "bfloat16" else {form, "scales"})
    read = from_bytes(wire(random(), form), SHAPES, form)
    flat = np.concatenate([read[name].ravel() for name in sorted(SHAPES)])
    if form == "bfloat16":
        assert parts[form].float().numpy().tolist() == flat.tolist()
        return
    # The bias, then the rows of A, then the columns of B.
    scales = parts["scales"].numpy()
    numbers = parts[form].numpy()
    if form == "int4":
        halves = [half for byte in numbers.tolist() for half in (byte % 16, byte // 16)]
        numbers = np.array([half - 16 if half > 7 else half for half in halves], np.int8)
    assert (numbers[:3] * scales[0] == read[BIAS]).all()
    assert (numbers[3:17].reshape(2, 7) * scales[1:3, None] == read[A]).all()
    assert (numbers[17:27].reshape(2, 5) * scales[3:, None] == read[B].T).all()
    assert not numbers[27:].any()


# Refusals


def refusal(data: bytes, form: NumberFormat, shapes: dict[str, tuple[int, ...]] = SHAPES) -> str:
    with pytest.raises(AdapterError) as caught:
        from_bytes(data, shapes, form)
    return str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
def test_another_format_than_the_plans_is_refused(form: NumberFormat) -> None:
    for other in FORMATS:
        if other != form:
            refusal(wire(random(), other), form)


@pytest.mark.parametrize("form", FEWER)
def test_other_names_shapes_sizes_are_refused(form: NumberFormat) -> None:
    data = wire(random(), form)
    for shapes in (
        {**SHAPES, A: (7, 2)},
        {**{name: SHAPES[name] for name in (A, B)}, "head.other": (3,)},
        {A: SHAPES[B], B: SHAPES[A], BIAS: (3,)},
        {**SHAPES, BIAS: (4,)},
        {A: SHAPES[A], B: SHAPES[B]},
    ):
        refusal(data, form, shapes)
    for cut in (0, 7, 8, 100, len(data) - 1):
        assert "bytes" in refusal(data[:cut], form)
    assert "bytes" in refusal(data + b"\0", form)


def changed(data: bytes, place: int, new: bytes) -> bytes:
    """The bytes with a change at an offset after the header."""
    start = 8 + int.from_bytes(data[:8], "little") + place
    return data[:start] + new + data[start + len(new) :]


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0, -1e-45, 3.4e38])
def test_an_invalid_scale_is_refused(form: NumberFormat, scale: float) -> None:
    data = wire({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, form)
    assert refusal(changed(data, 0, np.float32(scale).tobytes()), form)


def test_steps_out_of_range_are_refused() -> None:
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    assert "±127" in refusal(changed(wire(zeros, "int8"), 4 * CHANNELS, b"\x80"), "int8")
    assert "±7" in refusal(changed(wire(zeros, "int4"), 4 * CHANNELS, b"\x08"), "int4")
    assert "unused half" in refusal(changed(wire(zeros, "int4"), 4 * CHANNELS + 13, b"\x10"), "int4")


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_a_bfloat16_that_is_not_finite_is_refused(bits: int) -> None:
    data = changed(wire(random(), "bfloat16"), 0, bits.to_bytes(2, "little"))
    assert refusal(data, "bfloat16") == f"tensor {BIAS} is not finite"


@pytest.mark.parametrize("form", FEWER)
def test_an_equivalent_header_that_is_not_canonical_is_refused(form: NumberFormat) -> None:
    data = wire(random(), form)
    length = int.from_bytes(data[:8], "little")
    header: Any = json.loads(data[8 : 8 + length])
    text = json.dumps(dict(reversed(header.items())), separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    assert "header" in refusal(data[:8] + text + data[8 + length :], form)
