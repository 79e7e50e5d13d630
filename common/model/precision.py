"""The precision of the matrix products of training. Clipping, sums and noise are in float64 whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def candidates(precision: str, device: torch.device) -> tuple[torch.dtype, ...]:
    """What a plan's `training.precision` means on a device: the first of these that proves exact enough."""
    if precision == "auto":
        return (torch.bfloat16, torch.float32) if multiplies_bfloat16(device) else (torch.float32,)
    return (getattr(torch, precision),)


def device_kind(device: torch.device) -> str:
    """Devices of one kind compute with the same kernels: the name of a GPU, or "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16; without them these are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AMX implies AVX512-BF16. Other kinds of processor say nothing that PyTorch could be asked for.
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


@contextmanager
def computing_in(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Autocast (https://docs.pytorch.org/docs/stable/amp.html) of the forward passes within; none for float32.

    On a CPU attention stays in float32: in bfloat16 its backward pass is several times slower, and takes longer
    than the products save.
    """
    if dtype == torch.float32:
        yield
        return
    attention = F.scaled_dot_product_attention
    with torch.autocast(device.type, dtype=dtype):
        if device.type == "cpu":
            F.scaled_dot_product_attention = partial(_float32_attention, attention)
        try:
            yield
        finally:
            F.scaled_dot_product_attention = attention


def _float32_attention(
    attention: Callable[..., torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if not torch.is_autocast_enabled("cpu"):  # another thread's
        return attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    parts = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False):
        return attention(*parts, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU, in the same way whatever the number of its cores.

    Several threads wait for each other on small matrices, on a busy machine for long. And with another number of
    threads some products are rounded otherwise.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable_kernels(device: torch.device) -> Iterator[None]:
    """Kernels of a GPU that round the same way each time: none that add by atomic operations.

    Of attention, PyTorch's own is used: of the fused kernels some add in any order
    (https://docs.pytorch.org/docs/stable/notes/randomness.html). On a CPU nothing has to be changed.
    """
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
