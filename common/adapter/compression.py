"""Named tensors as few bits: what is sent of an adapter or an update in a number format other than float32.

The numbers of all tensors stand one after another, by name, after the scales of all, if there are any. Names and
shapes are not repeated: whoever reads knows them from the plan and the base model, and spelt out they would take
as many bytes as the numbers of a small adapter.

What is sent is a function of the tensors and of the numbers that decide the rounding (`rounding.py`); how much
is sent is a function of the shapes alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from common.adapter.rounding import (
    Floats,
    Uniforms,
    channels,
    dequantize,
    from_bfloat16,
    pack,
    quantize,
    to_bfloat16,
    unpack,
)

NumberFormat = Literal["float32", "bfloat16", "int8", "int4"]
Fewer = Literal["bfloat16", "int8", "int4"]
Parts = dict[str, npt.NDArray[Any]]

_SCALES = "scales"
_LEVELS = {"int8": 127, "int4": 7}


def layout(shapes: Mapping[str, tuple[int, ...]], number_format: Fewer) -> dict[str, tuple[str, int]]:
    """What the tensors become: for each part, in order, numpy's name of its type and how many numbers it has.

    >>> layout({"q.lora_A.weight": (2, 8)}, "int4")
    {'scales': ('<f4', 2), 'int4': ('<u1', 8)}
    """
    count = sum(math.prod(shape) for shape in shapes.values())
    if number_format == "bfloat16":
        return {number_format: ("<u2", count)}
    scales = sum(channels(shape)[0] for shape in shapes.values())
    kind, size = ("<i1", count) if number_format == "int8" else ("<u1", (count + 1) // 2)
    return {_SCALES: ("<f4", scales), number_format: (kind, size)}


def compress(tensors: Mapping[str, Floats], number_format: Fewer, rounding: Uniforms) -> Parts:
    """The tensors, stochastically rounded.

    Args:
        tensors: of any shapes; numbers that are not finite give parts that `expand` makes such numbers of.
        number_format: what to make of them.
        rounding: one number is drawn for each of the tensors', in the order of the names.

    Returns:
        Arrays of the types and sizes of `layout`.
    """
    named = [tensors[name] for name in sorted(tensors)]
    if number_format == "bfloat16":
        return {number_format: _joined((to_bfloat16(tensor, rounding) for tensor in named), np.uint16)}
    pairs = [quantize(tensor, _LEVELS[number_format], rounding) for tensor in named]
    steps = _joined((steps for steps, _ in pairs), np.int8)
    scales = _joined((scales for _, scales in pairs), np.float32)
    return {_SCALES: scales, number_format: steps if number_format == "int8" else pack(steps)}


def expand(
    parts: Mapping[str, npt.NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], number_format: Fewer
) -> dict[str, Floats]:
    """The inverse of `compress`, but for what was rounded.

    Args:
        parts: of the types and sizes of `layout`; they may come from outside.
        shapes: of the tensors.
        number_format: what was made of them.

    Returns:
        Tensors that need not be finite.

    Raises:
        ValueError: no rounding gives such parts.
    """
    if number_format == "bfloat16":
        numbers = from_bfloat16(parts[number_format])
        return {name: own.reshape(shapes[name]) for name, own in _split(numbers, shapes)}
    count = sum(math.prod(shape) for shape in shapes.values())
    steps = parts[number_format] if number_format == "int8" else unpack(parts[number_format], count)
    scales, levels = parts[_SCALES], _LEVELS[number_format]
    if steps.size and (steps.min() < -levels or steps.max() > levels):
        raise ValueError(f"a step is outside ±{levels}")
    if (scales < 0).any():
        raise ValueError("a scale is negative")
    tensors = {}
    start = 0
    for name, own in _split(steps, shapes):
        many, length = channels(shapes[name])
        tensors[name] = dequantize(own.reshape(many, length), scales[start : start + many], shapes[name])
        start += many
    return tensors


def _joined(arrays: Iterable[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *(array.ravel() for array in arrays)])


def _split(
    numbers: npt.NDArray[Any], shapes: Mapping[str, tuple[int, ...]]
) -> Iterable[tuple[str, npt.NDArray[Any]]]:
    """The numbers of each tensor, by name."""
    start = 0
    for name in sorted(shapes):
        size = math.prod(shapes[name])
        yield name, numbers[start : start + size]
        start += size
