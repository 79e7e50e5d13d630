"""The adapter: LoRA tensors and those of a head by name, as plain arrays, and as safetensors bytes.

Names of LoRA tensors are PEFT's own, as in `adapter_model.safetensors`; a head's begin with "head.". Nothing here
knows a model, Flower or a file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors

from common.untrusted import read_json

Adapter = dict[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]

# Above every LoRA adapter that one device can train under differential privacy.
MOST_BYTES = 2**30
# What the header of a safetensors file says of a tensor beside its name.
_ENTRY_CHARACTERS = 256


class AdapterError(ValueError):
    """Bytes that are not the adapter they should be. The text holds names and shapes, never values."""


def to_bytes(adapter: Adapter) -> bytes:
    """Safetensors bytes; equal adapters have equal bytes, and the size depends on names and shapes only."""
    data: bytes = write_safetensors({name: np.ascontiguousarray(adapter[name]) for name in sorted(adapter)})
    return data


def from_bytes(data: bytes, shapes: Shapes) -> Adapter:
    """Read an adapter that came from outside.

    Args:
        data: safetensors bytes.
        shapes: the exact names and shapes that it must have.

    Raises:
        AdapterError: not safetensors, or `check` fails.
    """
    _check_header(data, shapes)
    try:
        adapter: Adapter = read_safetensors(data)
    except Exception as error:  # the parser raises errors of several libraries; each means the same here
        raise AdapterError(f"not a safetensors file ({type(error).__name__})") from None
    check(adapter, shapes)
    return adapter


def _check_header(data: bytes, shapes: Shapes) -> None:
    """Refuse what announces another size before anything of that size is allocated."""
    payload = 4 * sum(math.prod(shape) for shape in shapes.values())
    length = int.from_bytes(data[:8], "little")
    if len(data) != 8 + length + payload:
        raise AdapterError(f"{len(data)} bytes with a header of {length}; {payload} bytes of tensors were due")
    most = _ENTRY_CHARACTERS * (1 + len(shapes)) + sum(len(name.encode()) for name in shapes)
    try:
        header: Any = read_json(data[8 : 8 + length], most)
        dtypes = {entry["dtype"] for entry in header.values()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise AdapterError("not a safetensors file (header)") from None
    if dtypes - {"F32"}:
        raise AdapterError(f"tensors of type {str(sorted(map(str, dtypes)))[:200]}; all should be F32")


def check(adapter: Mapping[str, npt.NDArray[Any]], shapes: Shapes) -> None:
    """Make sure of the exact names, shapes, type float32, and finite values.

    Raises:
        AdapterError: the first difference.
    """
    for name in sorted(shapes.keys() | adapter.keys()):
        if name not in adapter:
            raise AdapterError(f"tensor {name} is missing")
        if name not in shapes:
            raise AdapterError(f"tensor {name[:200]!r} does not belong to this adapter")
        tensor = adapter[name]
        if tensor.dtype != np.float32:
            raise AdapterError(f"tensor {name} has type {tensor.dtype}; it should be float32")
        if tensor.shape != tuple(shapes[name]):
            raise AdapterError(f"tensor {name} has shape {tensor.shape}; it should be {tuple(shapes[name])}")
        if not np.isfinite(tensor).all():
            raise AdapterError(f"tensor {name} is not finite")


def initial(shapes: Shapes, seed: int) -> Adapter:
    """The adapter before any training: A uniform in ±1/√fan_in (PEFT's default), B and a head zero.

    Philox keyed by the seed and the tensor's name draws the same A for everybody, whatever machine, device or
    version of torch, so that a shared A never has to be sent.

    Args:
        shapes: A is (rank, fan_in), B is (fan_out, rank).
        seed: `lora.seed` of the plan; public.
    """
    adapter: Adapter = {}
    for name, shape in shapes.items():
        if not is_a(name):
            adapter[name] = np.zeros(shape, np.float32)
            continue
        key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        uniform = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little"))).random(shape)
        adapter[name] = ((2 * uniform - 1) / np.sqrt(shape[1])).astype(np.float32)
    return adapter


def is_a(name: str) -> bool:
    """Whether a tensor is an A matrix, the half that is drawn at random."""
    return ".lora_A." in name


def is_lora(name: str) -> bool:
    """Whether a tensor is one of a LoRA layer; else it is one of the head."""
    return ".lora_" in name


def trained(shapes: Shapes, method: str) -> dict[str, tuple[int, ...]]:
    """The tensors that an aggregation method trains and sends: all, but for "ffa" without A."""
    return {name: shape for name, shape in shapes.items() if method != "ffa" or not is_a(name)}


def subtract(left: Adapter, right: Adapter) -> Adapter:
    """Left − right, tensor by tensor."""
    return {name: left[name] - right[name] for name in left}
