"""The precision of the matrix products of training. Clipping, sums and noise are in float64 whatever it is."""

from __future__ import annotations

import torch


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
