"""Numbers in fewer bits: pure functions on numpy arrays.

Rounding is stochastic and unbiased: a number between two representable numbers is rounded to one of them, with
probabilities that preserve its expected value (QSGD, Alistarh et al. 2017, https://arxiv.org/abs/1610.02132,
section 3.1). The mean over organizations and rounds is therefore unbiased; with rounding to nearest, small updates
would all become zero. Representable numbers are unchanged.

int8 and int4 have one float32 scale per channel and are symmetric: −127 … 127 and −7 … 7 steps of the scale. A
channel runs along the longer side of a matrix: a row of A or a column of B, one component of the rank each. Along
the shorter side of B, a scale would serve only as many numbers as the rank, and take as many bytes as these.
"""

from __future__ import annotations

import hashlib
import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_BFLOAT16 = 0x7F7F


class Uniforms(Protocol):
    """Source of the random numbers for stochastic rounding."""

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Independent float64 numbers, uniform between 0 and 1."""


class PublicUniforms:
    """Reproducible public random numbers: a function of their purpose alone, in every version of numpy.

    Args:
        purpose: the seed; each purpose has its own numbers.
    """

    def __init__(self, *purpose: str | int) -> None:
        key = hashlib.sha256("/".join(map(str, purpose)).encode()).digest()
        self._generator = np.random.Philox(key=int.from_bytes(key[:16], "little"))

    def uniforms(self, count: int) -> npt.NDArray[np.float64]:
        """Multiples of 2⁻⁵³ in [0, 1)."""
        words = np.asarray(self._generator.random_raw(count), np.uint64)
        numbers: npt.NDArray[np.float64] = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return numbers


def channels(shape: tuple[int, ...]) -> tuple[int, int]:
    """The number of channels of a tensor and the length of each; a vector is one channel.

    >>> channels((16, 8)), channels((16,))
    ((8, 16), (1, 16))
    """
    rows = shape[0] if len(shape) > 1 else 1
    columns = math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
    return min(rows, columns), max(rows, columns)


def quantize(tensor: Floats, levels: int, rounding: Uniforms) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round to whole steps of a scale per channel, the smallest that covers the channel's largest number.

    Args:
        tensor: of any shape.
        levels: the steps range from −levels to levels.
        rounding: one uniform number is drawn for each number of the tensor.

    Returns:
        Steps of shape (channels, length) and scales of shape (channels,). A channel of zeros has the scale zero;
        one that is not finite has the scale NaN, so that the recipient refuses it.
    """
    matrix = _by_channel(tensor).astype(np.float64)
    scales = _scales(np.abs(matrix).max(axis=1, initial=0.0), levels)
    usable = (scales > 0)[:, None]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        exact = np.where(usable, matrix / scales[:, None].astype(np.float64), 0.0)
    below = np.floor(exact)
    # The largest numbers of float32 would need a scale outside float32: they are clipped by less than a step.
    steps = (below + (_draws(rounding, exact) < exact - below)).clip(-levels, levels)
    return steps.astype(np.int8), scales


def dequantize(steps: npt.NDArray[np.int8], scales: Floats, shape: tuple[int, ...]) -> Floats:
    """The tensor that steps and scales represent; not finite where a scale is not.

    Args:
        steps: of shape (channels, length).
        scales: of shape (channels,).
        shape: of the tensor.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        matrix = steps.astype(np.float32) * scales[:, None]
    rows = shape[0] if len(shape) > 1 else 1
    return np.ascontiguousarray(matrix if len(matrix) == rows else matrix.T).reshape(shape)


def pack(steps: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Numbers from −8 to 7 as nibbles in two's complement, the first in the low half; an odd last half is zero.

    >>> pack(np.array([1, -2, 3], np.int8)).tolist()
    [225, 3]
    """
    nibbles = np.append(steps.ravel(), np.zeros(steps.size % 2, np.int8)).astype(np.uint8) & np.uint8(0xF)
    return nibbles[::2] | nibbles[1::2] << np.uint8(4)


def unpack(packed: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int8]:
    """The inverse of `pack` for `count` numbers.

    Raises:
        ValueError: the odd last half is not zero.

    >>> unpack(pack(np.array([1, -2, 3], np.int8)), 3).tolist()
    [1, -2, 3]
    """
    nibbles = np.stack([packed & 0xF, packed >> 4], axis=1).ravel()
    if nibbles[count:].any():
        raise ValueError("the unused half of the last byte is not zero")
    return (nibbles[:count] ^ 8).astype(np.int8) - np.int8(8)


def to_bfloat16(tensor: Floats, rounding: Uniforms) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16, stored as the upper half of its bits; larger numbers become the largest bfloat16.

    Args:
        tensor: of any shape.
        rounding: one uniform number is drawn for each number of the tensor.
    """
    bits = np.ascontiguousarray(tensor).view(np.uint32)
    upper = (bits >> 16).astype(np.uint16)
    # Numbers with the same exponent are evenly spaced, and adding 1 at the last carries into the next exponent.
    share = (bits & 0xFFFF) / 65536.0
    up = (_draws(rounding, tensor) < share) & ((upper & 0x7FFF) < _LARGEST_BFLOAT16)
    return upper + up.astype(np.uint16)


def from_bfloat16(upper: npt.NDArray[np.uint16]) -> Floats:
    """Expand bfloat16 numbers to float32, exactly."""
    return (upper.astype(np.uint32) << 16).view(np.float32)


def _by_channel(tensor: Floats) -> Floats:
    rows = tensor.shape[0] if tensor.ndim > 1 else 1
    matrix = tensor.reshape(rows, tensor.size // rows if rows else 0)
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def _scales(largest: npt.NDArray[np.float64], levels: int) -> Floats:
    """The smallest float32 scales whose `levels` steps cover these numbers, within the range of float32."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scales = (largest / levels).astype(np.float32)
    short = scales.astype(np.float64) * levels < largest
    scales = np.where(short, np.nextafter(scales, np.float32(np.inf)), scales)
    most = np.float32(_LARGEST / levels)
    if float(most) * levels > _LARGEST:
        most = np.nextafter(most, np.float32(0))
    return np.where(np.isfinite(largest), np.minimum(scales, most), np.float32(np.nan)).astype(np.float32)


def _draws(rounding: Uniforms, like: npt.NDArray[np.float64] | Floats) -> npt.NDArray[np.float64]:
    return rounding.uniforms(like.size).reshape(like.shape)
