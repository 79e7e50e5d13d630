"""The adapter: LoRA tensors and those of a head by name, as plain arrays, and as safetensors bytes.

LoRA tensors have PEFT's names, as in `adapter_model.safetensors`; those of a head start with "head.". Nothing here
depends on a model, on Flower or on files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as write_safetensors

from common.adapter.compression import Fewer, NumberFormat, compress, expand, layout
from common.adapter.rounding import Uniforms
from common.untrusted import read_json

Adapter = dict[str, npt.NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]

# Larger than any LoRA adapter that one device can train with differential privacy.
MOST_BYTES = 2**30
# Characters per tensor in the header of a safetensors file, besides its name.
_ENTRY_CHARACTERS = 256
# Numpy's types and their names in safetensors; numpy itself has no bfloat16.
_DTYPES = {"<f4": "F32", "<u2": "BF16", "<i1": "I8", "<u1": "U8"}


class AdapterError(ValueError):
    """Bytes that are not the expected adapter. The text contains names and shapes, never values."""


def to_bytes(adapter: Adapter) -> bytes:
    """Serialize as safetensors; equal adapters give equal bytes, and the size depends on names and shapes only."""
    data: bytes = write_safetensors({name: np.ascontiguousarray(adapter[name]) for name in sorted(adapter)})
    return data


def to_wire(adapter: Adapter, number_format: NumberFormat, rounding: Uniforms) -> bytes:
    """Serialize for the wire as safetensors bytes, whose size depends on names and shapes only.

    Args:
        adapter: float32 tensors of an adapter or an update. Numbers that are not finite give bytes that
            `from_bytes` refuses, never an error.
        number_format: the format of the numbers; with float32, the same as `to_bytes`.
        rounding: random numbers for the stochastic rounding; with float32, none are drawn.
    """
    if number_format == "float32":
        return to_bytes(adapter)
    header = _header_of_parts({name: tensor.shape for name, tensor in adapter.items()}, number_format)
    parts = compress(adapter, number_format, rounding)
    return header + b"".join(part.astype(part.dtype.newbyteorder("<")).tobytes() for part in parts.values())


def from_bytes(data: bytes, shapes: Shapes, number_format: NumberFormat = "float32") -> Adapter:
    """Parse an adapter from an untrusted source.

    Args:
        data: safetensors bytes, as from `to_wire`.
        shapes: the exact names and shapes that it must have.
        number_format: the format that its numbers must have.

    Returns:
        Finite float32 tensors.

    Raises:
        AdapterError: not safetensors, another number format, or `check` fails.
    """
    if number_format != "float32":
        return _from_parts(data, shapes, number_format)
    _check_header(data, shapes)
    try:
        adapter: Adapter = read_safetensors(data)
    except Exception as error:  # the parser raises errors of several libraries; all mean the same here
        raise AdapterError(f"not a safetensors file ({type(error).__name__})") from None
    check(adapter, shapes)
    return adapter


def _check_header(data: bytes, shapes: Shapes) -> None:
    """Refuse another announced size before anything of that size is allocated."""
    payload = 4 * sum(math.prod(shape) for shape in shapes.values())
    length = int.from_bytes(data[:8], "little")
    if len(data) != 8 + length + payload:
        raise AdapterError(
            f"{len(data)} bytes with a header of {length}; {payload} bytes of tensors were expected"
        )
    most = _ENTRY_CHARACTERS * (1 + len(shapes)) + sum(len(name.encode()) for name in shapes)
    try:
        header: Any = read_json(data[8 : 8 + length], most)
        dtypes = {entry["dtype"] for entry in header.values()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise AdapterError("not a safetensors file (header)") from None
    if dtypes - {"F32"}:
        raise AdapterError(f"tensors of type {str(sorted(map(str, dtypes)))[:200]}; all should be F32")


def _header_of_parts(shapes: Shapes, number_format: Fewer) -> bytes:
    """The header of a compressed format: the parts, and a digest of the tensors' names and shapes."""
    named = json.dumps([[name, list(shapes[name])] for name in sorted(shapes)])
    entries: dict[str, Any] = {"__metadata__": {"tensors": hashlib.sha256(named.encode()).hexdigest()}}
    end = 0
    for part, (kind, count) in layout(shapes, number_format).items():
        start, end = end, end + np.dtype(kind).itemsize * count
        entries[part] = {"dtype": _DTYPES[kind], "shape": [count], "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every part is aligned for its type
    return len(text).to_bytes(8, "little") + text


def _from_parts(data: bytes, shapes: Shapes, number_format: Fewer) -> Adapter:
    """Parse a compressed format. The header is not parsed: there is only one valid header, and it is known."""
    header, expected = _header_of_parts(shapes, number_format), layout(shapes, number_format)
    size = len(header) + sum(np.dtype(kind).itemsize * count for kind, count in expected.values())
    if len(data) != size:
        raise AdapterError(f"{len(data)} bytes; as {number_format} there should be {size}")
    if not data.startswith(header):
        raise AdapterError(f"the header is not that of these tensors as {number_format}")
    parts, start = {}, len(header)
    for part, (kind, count) in expected.items():
        parts[part] = np.frombuffer(data, kind, count, start)
        start += parts[part].nbytes
    try:
        adapter = expand(parts, shapes, number_format)
    except ValueError as error:
        raise AdapterError(str(error)) from None
    check(adapter, shapes)
    return adapter


def check(adapter: Mapping[str, npt.NDArray[Any]], shapes: Shapes) -> None:
    """Check names, shapes, the type float32, and that all values are finite.

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

    Philox, keyed by the seed and the tensor's name, draws the same A on every machine and device and with every
    version of torch, so a shared A never has to be sent.

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
    """Whether a tensor is an A matrix, which is initialized at random.

    >>> is_a("layers.0.q_proj.lora_A.weight"), is_a("layers.0.q_proj.lora_B.weight")
    (True, False)
    """
    return ".lora_A." in name


def is_lora(name: str) -> bool:
    """Whether a tensor belongs to a LoRA layer; otherwise it belongs to the head.

    >>> is_lora("layers.0.q_proj.lora_B.weight"), is_lora("head.weight")
    (True, False)
    """
    return ".lora_" in name


def trainable_shapes(shapes: Shapes, method: str) -> dict[str, tuple[int, ...]]:
    """The tensors that an aggregation method trains and sends: all, or all except A for "ffa".

    >>> shapes = {"q.lora_A.weight": (2, 8), "q.lora_B.weight": (8, 2)}
    >>> trainable_shapes(shapes, "ffa"), len(trainable_shapes(shapes, "fedavg"))
    ({'q.lora_B.weight': (8, 2)}, 2)
    """
    return {name: shape for name, shape in shapes.items() if method != "ffa" or not is_a(name)}


def round_shapes(trained_shapes: Shapes, *, head_only: bool) -> dict[str, tuple[int, ...]]:
    """The tensors that are sent in a round, in both directions: those that the round changes.

    Args:
        trained_shapes: all tensors that the plan trains.
        head_only: whether the round trains the head alone. These are a run's first rounds: the LoRA layers still
            have the values of `initial`, which everyone can compute.
    """
    return {name: shape for name, shape in trained_shapes.items() if not (head_only and is_lora(name))}


def at_rank(shapes: Shapes, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes for an organization that trains at a rank; those of a head do not depend on it.

    >>> at_rank({"q.lora_A.weight": (4, 8), "q.lora_B.weight": (6, 4)}, 2)
    {'q.lora_A.weight': (2, 8), 'q.lora_B.weight': (6, 2)}
    """

    def resized(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if not is_lora(name):
            return shape
        return (rank, shape[1]) if is_a(name) else (shape[0], rank)

    return {name: resized(name, shape) for name, shape in shapes.items()}


def truncate_rank(adapter: Adapter, rank: int) -> Adapter:
    """Keep the first rows of A and columns of B, which the aggregation of products sorts by weight.

    A head is unchanged.

    >>> {name: tensor.shape for name, tensor in truncate_rank({"q.lora_A.weight": np.zeros((4, 8))}, 2).items()}
    {'q.lora_A.weight': (2, 8)}
    """
    lora = {name: tensor for name, tensor in adapter.items() if is_lora(name)}
    return adapter | {name: tensor[:rank] if is_a(name) else tensor[:, :rank] for name, tensor in lora.items()}


def subtract(left: Adapter, right: Adapter) -> Adapter:
    """Left − right, tensor by tensor.

    >>> subtract({"w": np.array([3.0])}, {"w": np.array([1.0])})["w"].tolist()
    [2.0]
    """
    return {name: left[name] - right[name] for name in left}
