"""Numbers in fewer bits: unbiased, with an error of at most one step, and of public size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from common.adapter.rounding import (
    PublicUniforms,
    channels,
    dequantize,
    from_bfloat16,
    pack,
    quantize,
    to_bfloat16,
    unpack,
)

LARGEST = float(np.finfo(np.float32).max)
LARGEST_BFLOAT16 = (2 - 2**-7) * 2.0**127
LEVELS = [127, 7]
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tensors = arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, max_side=7), elements=finite)


class Fixed:
    """Returns the same number for every draw."""

    def __init__(self, number: float) -> None:
        self._number = number

    def uniforms(self, count: int) -> np.ndarray:
        return np.full(count, self._number)


def channel_of(shape: tuple[int, ...], place: tuple[int, ...]) -> int:
    """The channel of a number, computed independently: along the longer side of a matrix."""
    if len(shape) < 2:
        return 0
    behind = math.prod(shape[1:])
    column = int(np.ravel_multi_index(place[1:], shape[1:]))
    return place[0] if shape[0] <= behind else column


# Steps of a scale


def test_steps_and_scales_by_hand() -> None:
    rows = np.array([[0.0, 7.0, -3.5, 1.75], [0, 0, 0, 0]], np.float32)
    steps, scales = quantize(rows, 7, Fixed(0.6))
    assert scales.tolist() == [1.0, 0.0]
    # −3.5 is half a step above −4, 1.75 three quarters above 1: the draw 0.6 takes the second up alone.
    assert steps.tolist() == [[0, 7, -4, 2], [0, 0, 0, 0]]
    assert quantize(rows, 7, Fixed(0.4))[0].tolist() == [[0, 7, -3, 2], [0, 0, 0, 0]]
    assert dequantize(steps, scales, (2, 4)).tolist() == [[0, 7, -4, 2], [0, 0, 0, 0]]


def test_a_channel_is_a_row_of_a_and_a_column_of_b() -> None:
    assert channels((8, 64)) == (8, 64)
    assert channels((64, 8)) == (8, 64)
    assert channels((5,)) == (1, 5)
    assert channels(()) == (1, 1)
    b = np.array([[1.0, 100.0], [2.0, 200.0], [-4.0, 400.0]], np.float32)
    steps, scales = quantize(b, 4, Fixed(0.5))
    assert scales.tolist() == [1.0, 100.0]
    assert steps.tolist() == [[1, 2, -4], [1, 2, 4]]
    assert (dequantize(steps, scales, (3, 2)) == b).all()


@settings(deadline=None, max_examples=300)
@given(tensors, st.sampled_from(LEVELS), st.floats(0, 1))
def test_the_error_is_at_most_one_step_of_the_channels_scale(tensor: np.ndarray, levels: int, draw: float) -> None:
    steps, scales = quantize(tensor, levels, Fixed(draw))
    read = dequantize(steps, scales, tensor.shape)
    assert read.shape == tensor.shape
    assert np.isfinite(read).all()
    assert np.isfinite(scales).all()
    assert np.abs(steps).max(initial=0) <= levels
    for place in np.ndindex(tensor.shape):
        scale = float(scales[channel_of(tensor.shape, place)])
        # A step, plus the rounding error of a product in float32.
        bound = scale * (1 + 1e-6) + abs(float(tensor[place])) * 2**-23
        assert abs(float(read[place]) - float(tensor[place])) <= bound
        if tensor[place] == 0:
            assert read[place] == 0


@settings(deadline=None, max_examples=300)
@given(tensors, st.sampled_from(LEVELS))
def test_a_scale_is_the_least_whose_steps_reach_the_largest_number(tensor: np.ndarray, levels: int) -> None:
    _, scales = quantize(tensor, levels, Fixed(0.5))
    largest = np.zeros(len(scales))
    for place in np.ndindex(tensor.shape):
        channel = channel_of(tensor.shape, place)
        largest[channel] = max(largest[channel], abs(float(tensor[place])))
    for scale, most in zip(scales, largest, strict=True):
        below = float(np.nextafter(scale, np.float32(-1))) if scale else -1.0
        assert below * levels < most or most == 0 == scale
        # A scale at the limit of float32 may be too small by one part in eight million.
        assert float(scale) * levels * (1 + 2**-22) >= most
        assert np.isfinite(np.float32(scale) * np.float32(levels))


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 1e-45, -1e-45, 1.17e-38, 3.3e38, 2.0**-149 * 100])
@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("draw", [0.0, 0.5, 1.0])
def test_the_ends_of_float32_stay_finite_and_near(value: float, levels: int, draw: float) -> None:
    tensor = np.array([[value, 0.0, -value / 3]], np.float32)
    read = dequantize(*quantize(tensor, levels, Fixed(draw)), tensor.shape)
    step = max(abs(float(tensor[0, 0])) / levels, 2.0**-149)
    assert np.isfinite(read).all()
    assert np.abs(read.astype(np.float64) - tensor.astype(np.float64)).max() <= step * (1 + 1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_rounding_is_unbiased(levels: int) -> None:
    """The mean of 4,000 draws is within five standard deviations, each at most half a step / √4000."""
    tensor = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    rounding = PublicUniforms("test", levels)
    draws = 4000
    total = np.zeros(tensor.shape)
    for _ in range(draws):
        steps, scales = quantize(tensor, levels, rounding)
        total += dequantize(steps, scales, tensor.shape)
    bound = 5 * (scales[:, None] / 2) / math.sqrt(draws)
    assert (np.abs(total / draws - tensor) <= bound).all()
    # Rounding to nearest would be biased, by more than the bound for most numbers.
    nearest = np.round(tensor / scales[:, None]) * scales[:, None]
    assert (np.abs(nearest - tensor) > bound).mean() > 0.5


@settings(deadline=None, max_examples=60)
@given(finite.filter(lambda value: abs(value) < 1e38), finite.filter(lambda value: abs(value) < 1e38))
def test_the_probability_of_rounding_up_follows_the_distance(value: float, largest: float) -> None:
    """For one number besides the largest of its channel: the frequency of rounding up equals the fraction."""
    tensor = np.array([[value, largest]], np.float32)
    for draw in np.linspace(0.01, 0.99, 9):
        steps, scales = quantize(tensor, 7, Fixed(draw))
        if not scales[0]:
            continue
        exact = float(tensor[0, 0]) / float(scales[0])
        assert steps[0, 0] == math.floor(exact) + (draw < exact - math.floor(exact))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_affects_only_its_channel(value: float) -> None:
    tensor = np.array([[1.0, value, 2.0], [3.0, 4.0, 5.0]], np.float32)
    read = dequantize(*quantize(tensor, 127, Fixed(0.5)), tensor.shape)
    assert np.isnan(read[0]).all()
    assert np.isfinite(read[1]).all()


# Nibbles


@given(st.lists(st.integers(-8, 7), max_size=9))
def test_nibbles_are_two_in_a_byte_the_first_below(numbers: list[int]) -> None:
    packed = pack(np.array(numbers, np.int8))
    assert len(packed) == (len(numbers) + 1) // 2
    by_hand = [number % 16 for number in numbers] + [0]
    assert packed.tolist() == [by_hand[2 * i] + 16 * by_hand[2 * i + 1] for i in range(len(packed))]
    assert unpack(packed, len(numbers)).tolist() == numbers


def test_an_odd_half_that_is_not_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="unused half"):
        unpack(np.array([0x12, 0x10], np.uint8), 3)


# bfloat16


@settings(deadline=None, max_examples=300)
@given(arrays.arrays(np.float32, st.integers(0, 9), elements=finite), st.floats(0, 1))
def test_a_bfloat16_is_one_of_the_two_neighbours_by_the_odds(numbers: np.ndarray, draw: float) -> None:
    read = from_bfloat16(to_bfloat16(numbers, Fixed(draw)))
    for number, got in zip(map(float, numbers), map(float, read), strict=True):
        assert math.isfinite(got)
        if abs(number) >= LARGEST_BFLOAT16:
            assert got == math.copysign(LARGEST_BFLOAT16, number)
            continue
        # Numbers of eight bits: the exponent is the number's, or that of the smallest normal one.
        step = 2.0 ** (max(math.frexp(number)[1], -125) - 8)
        lower = math.floor(abs(number) / step)
        share = abs(number) / step - lower
        assert abs(got) == (lower + (draw < share)) * step
        assert math.copysign(1, got) == math.copysign(1, number)


def test_bfloat16_is_unbiased() -> None:
    numbers = np.random.default_rng(1).normal(size=200).astype(np.float32)
    rounding = PublicUniforms("test")
    draws = 4000
    total = sum(from_bfloat16(to_bfloat16(numbers, rounding)).astype(np.float64) for _ in range(draws))
    steps = 2.0 ** (np.frexp(numbers)[1] - 8)
    assert (np.abs(total / draws - numbers) <= 5 * steps / 2 / math.sqrt(draws)).all()


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001])
@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_numbers_that_are_not_finite_stay_so(bits: int, draw: float) -> None:
    number = np.array([bits], np.uint32).view(np.float32)
    assert not np.isfinite(from_bfloat16(to_bfloat16(number, Fixed(draw)))).any()


# Public random numbers


def test_public_numbers_depend_on_their_purpose_alone_and_are_the_same_in_every_version() -> None:
    assert PublicUniforms("adapter", "run", 1).uniforms(3).tolist() == PUBLIC
    first, second = (PublicUniforms("adapter", "run", number).uniforms(9) for number in (1, 2))
    assert (first != second).all()
    stream = PublicUniforms("adapter", "run", 1)
    assert stream.uniforms(1).tolist() + stream.uniforms(2).tolist() == PUBLIC
    many = PublicUniforms("x").uniforms(100_000)
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean() - 0.5) < 5 / math.sqrt(12 * many.size)


PUBLIC = [0.48057176450654626, 0.5144844308353825, 0.004011960467089404]
