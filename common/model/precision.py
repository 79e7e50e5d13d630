"""The precision of the matrix products of training. Clipping, sums and noise are in float64 whatever it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def candidates(precision: str, device: torch.device) -> tuple[torch.dtype, ...]:
    """What a plan's `training.precision` means on a device: the first of these that proves exact enough."""
    if precision == "auto":
        return (torch.bfloat16, torch.float32) if multiplies_bfloat16(device) else (torch.float32,)
    return (getattr(torch, precision),)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bfloat16; without them these are slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # AMX implies AVX512-BF16. Other kinds of processor say nothing that PyTorch could be asked for.
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def computing_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Autocast (https://docs.pytorch.org/docs/stable/amp.html) of the forward passes within; none for float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def fix_threads() -> None:
    """Keep the number of threads: by default MKL may use fewer for a product, and then rounds otherwise."""
    torch.set_num_threads(torch.get_num_threads())


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
