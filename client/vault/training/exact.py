"""Exact arithmetic from a unit's gradient to the number that is released.

Rounding is no detail: the server chooses the adapter, and can choose it so that a last bit decides a gradient. And
a floating-point number betrays which sums it can have come from. So:

1. A unit's gradient g is clipped to C·(1 − 2⁻²⁰) and rounded to multiples of 2⁻⁴⁰·C. The margin is larger than
   what rounding can add to its length: √d·2⁻⁴¹ for d numbers, and d·2⁻⁵³ for the computed norm, with d ≤ 2³⁰. No
   unit moves the sum by more than C.
2. The sum over at most 2²² units is one of 64-bit integers: exact, in any order.
3. The noised sum is a multiple of a power of two, the grid, between σC·2⁻¹¹ and σC·2⁻¹⁰. It is the Gaussian around
   the exact sum, rounded to the grid: `on_grid`. Which multiples are possible does not depend on the sum.

All numbers here are in units of C, so that C is no source of rounding: it multiplies what is released, afterwards.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import numpy.typing as npt
import torch

from client.vault.training.entropy import Keystream, Words, as_uniforms
from client.vault.training.errors import GuaranteeError

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# The integers of a sum are multiples of 2⁻⁴⁰.
UNIT_BITS = 40
MOST_UNITS = 2**22
MOST_NUMBERS = 2**30
# So many rows of integers up to 2⁴⁰ have an exact sum in float64.
MOST_ROWS = 2**12

# Float64 numbers that are clipped together: what fits a processor's cache, and what keeps a GPU busy.
_BLOCK, _GPU_BLOCK = 2**17, 2**24
_CLIPPED = 1.0 - 2.0**-20
# The grid is finer than the noise's deviation by this many bits, or one more.
_GRID_BITS = 10
# Closer to a rounding boundary than this share of the noise's deviation, a number is computed again.
_NEAR = 2.0**-40
# Where the radius is drawn from outside of this range, its rounding can move a number by more: computed again.
_ORDINARY = (2.0**-13, 1.0 - 2.0**-20)
# Pairs that are computed together: what fits a processor's cache.
_PAIRS = 2**13
_WORD_BITS = 53
_PRECISE_BITS = 256


def clipped_integers(gradients: torch.Tensor, clipping_norm: float) -> torch.Tensor:
    """The sum of units' gradients, each clipped, as integers. One that is not finite counts as zero.

    Args:
        gradients: floating point, shape (units, numbers), at most `MOST_ROWS` and `MOST_NUMBERS`; it may be
            overwritten.
        clipping_norm: C.

    Returns:
        int64, shape (numbers,), in multiples of 2⁻⁴⁰·C.
    """
    count, size = gradients.shape
    if count > MOST_ROWS or size > MOST_NUMBERS:
        raise GuaranteeError(f"gradients of shape {tuple(gradients.shape)} have no exact sum")
    # Row by row: a reduction of many rows may add in an order that depends on their number.
    norms = torch.stack([torch.linalg.vector_norm(row, dtype=torch.float64) for row in gradients])
    factors = (2.0**UNIT_BITS / clipping_norm) * (_CLIPPED * clipping_norm / norms).clamp(max=1.0)
    finite = norms.isfinite()
    if not finite.all():
        # Zero times infinity is NaN: rows that do not count are emptied as well.
        gradients[~finite] = 0.0
        factors[~finite] = 0.0
    total = torch.empty(size, dtype=torch.int64, device=gradients.device)
    width = max(1, (_BLOCK if gradients.is_cpu else _GPU_BLOCK) // count)
    for start in range(0, size, width):
        block = gradients[:, start : start + width].double().mul_(factors[:, None])
        # Integers now, and so is every partial sum: exact in float64, in whatever order they are added.
        total[start : start + width] = block.round_().sum(0)
    return total


def grid_of(noise_multiplier: float) -> float:
    """The grid of the released numbers, a power of two, in units of C.

    >>> grid_of(1.0) == 2.0**-10, grid_of(0.75) == 2.0**-11
    (True, True)
    """
    return 2.0 ** (math.floor(math.log2(noise_multiplier)) - _GRID_BITS)


def on_grid(total: Integers, noise_multiplier: float, stream: Keystream) -> Floats:
    """The sum with Gaussian noise, rounded to the grid.

    One Gaussian a number, by Box and Muller from two 53-bit uniforms. Where those, or the float64 arithmetic,
    could round to another multiple of the grid than the exact Gaussian does, the uniforms are continued by fresh
    bits and the pair of numbers is computed again at 256 bits; docs/privacy.md bounds what is left.

    Args:
        total: multiples of 2⁻⁴⁰, shape (numbers,).
        noise_multiplier: σ, from 2⁻²⁹ to 2³⁰; the noise has this standard deviation.
        stream: is used up by a public number of bytes.

    Returns:
        Multiples of `grid_of(noise_multiplier)`, in units of C.
    """
    grid = grid_of(noise_multiplier)
    shift = UNIT_BITS + round(math.log2(grid))
    # The part of the sum that is on the grid takes no part in any rounding.
    whole = total >> shift
    rest = (total - (whole << shift)).astype(np.float64) * 2.0**-shift
    scale = noise_multiplier / grid
    half = (len(total) + 1) // 2
    radii, angles = stream.words(half), stream.words(half)
    more = stream.branch()
    rest = np.append(rest, 0.0)[: 2 * half]  # an odd number of them leaves the last of a pair unused
    rounded = np.empty(2 * half)
    for start in range(0, half, _PAIRS):
        part = slice(start, min(start + _PAIRS, half))
        both = rest[part], rest[half:][part]
        rounded[part], rounded[half:][part] = _rounded_pairs(radii[part], angles[part], both, scale, more)
    return (whole + rounded[: len(total)].astype(np.int64)).astype(np.float64) * grid


def _rounded_pairs(
    radii: Words, angles: Words, rest: tuple[Floats, Floats], scale: float, more: Keystream
) -> tuple[Floats, Floats]:
    """Numbers with noise, rounded to integers: those of the cosines, and those of the sines."""
    uniforms = as_uniforms(radii)
    deviates = gaussian_pairs(uniforms, as_uniforms(angles))
    low, high = _ORDINARY
    again = (uniforms < low) | (uniforms > high)
    made = []
    for own, deviate in zip(rest, np.split(deviates, 2), strict=True):
        exact = own + scale * deviate
        rounded = np.rint(exact)
        again |= np.abs(np.abs(exact - rounded) - 0.5) < _NEAR * scale
        made.append(rounded)
    for place in np.flatnonzero(again):
        pair = precise_pair(int(radii[place]), int(angles[place]), more)
        for own, rounded, deviate in zip(rest, made, pair, strict=True):
            rounded[place] = _nearest(own[place], scale, deviate)
    return made[0], made[1]


def gaussian_pairs(radii: Floats, angles: Floats) -> Floats:
    """Standard normal numbers from uniforms: all cosines, then all sines (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log(radii))
    angle = 2.0 * np.pi * angles
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])


def precise_pair(radius: int, angle: int, more: Keystream) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The same pair, with both words continued to 256 bits.

    Args:
        radius: its 53-bit word.
        angle: its 53-bit word.
        more: gives the fresh bits.
    """
    with mpmath.workprec(_PRECISE_BITS + 64):
        first, second = (_uniform(word, more) for word in (radius, angle))
        length = mpmath.sqrt(-2 * mpmath.log(first))
        return length * mpmath.cospi(2 * second), length * mpmath.sinpi(2 * second)


def _uniform(word: int, more: Keystream) -> mpmath.mpf:
    left = _PRECISE_BITS - _WORD_BITS
    fresh = int.from_bytes(more.bytes(_PRECISE_BITS // 8), "little") >> (_PRECISE_BITS - left)
    return mpmath.mpf(2 * ((word << left) + fresh) + 1) * mpmath.mpf(2) ** -(_PRECISE_BITS + 1)


def _nearest(rest: float, scale: float, deviate: mpmath.mpf) -> int:
    with mpmath.workprec(_PRECISE_BITS + 64):
        return int(mpmath.nint(mpmath.mpf(rest) + mpmath.mpf(scale) * deviate))
