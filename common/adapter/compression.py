"""Compress named tensors: how an adapter or an update is sent in a number format other than float32.

The scales of all tensors, if there are any, come first, then the numbers of all tensors, in order of their names.
Names and shapes are not sent: the recipient knows them from the plan and the base model, and they would take as
many bytes as the numbers of a small adapter.

The content is a function of the tensors and of the random numbers for the rounding (`rounding.py`); the size is a
function of the shapes alone.
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
    """The parts of compressed tensors, in order: for each, numpy's name of its type and its length.

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
    """Round tensors stochastically and pack them.

    Args:
        tensors: of any shapes; numbers that are not finite give parts that `expand` turns back into such numbers.
        number_format: the target format.
        rounding: one uniform number is drawn for each number, in order of the tensors' names.

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
    """The inverse of `compress`, up to rounding.

    Args:
        parts: arrays of the types and sizes of `layout`; their content may be untrusted.
        shapes: of the tensors.
        number_format: the format of the parts.

    Returns:
        Tensors that need not be finite.

    Raises:
        ValueError: the parts cannot result from `compress`.
    """
    if number_format == "bfloat16":
        numbers = from_bfloat16(parts[number_format])
        return {name: values.reshape(shapes[name]) for name, values in _split(numbers, shapes)}
    count = sum(math.prod(shape) for shape in shapes.values())
    steps = parts[number_format] if number_format == "int8" else unpack(parts[number_format], count)
    scales, levels = parts[_SCALES], _LEVELS[number_format]
    if steps.size and (steps.min() < -levels or steps.max() > levels):
        raise ValueError(f"a step is outside ±{levels}")
    if (scales < 0).any():
        raise ValueError("a scale is negative")
    tensors = {}
    start = 0
    for name, values in _split(steps, shapes):
        rows, length = channels(shapes[name])
        tensors[name] = dequantize(values.reshape(rows, length), scales[start : start + rows], shapes[name])
        start += rows
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
