"""LoRA layers and linear heads whose backward pass writes the gradient of each example.

Opacus' hooks multiply what goes into a layer by the gradient of what comes out, after autograd has computed the
layer's ordinary gradient, which nobody needs. Here a layer has a backward function of its own: for
y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ with frozen W it computes, for each example, ∂/∂A = (s·∂y·B)ᵀ·x and ∂/∂B = s·∂yᵀ·(x·Aᵀ)
(LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685; products per example: Goodfellow 2015,
https://arxiv.org/abs/1510.01799), and the gradient of x from the same two small products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.lora import Linear as LoraLinear

# Where the gradients of a parameter go: shape (rows, *parameter.shape), added up if a layer is used twice.
Write = Callable[[torch.nn.Parameter, torch.Tensor], None]
Forward = Callable[[torch.Tensor], torch.Tensor]

_ADAPTER = "default"


def rewritten(
    model: torch.nn.Module, trained: set[int], write: Write
) -> tuple[list[tuple[torch.nn.Module, Forward]], set[int]]:
    """The layers of a model that can be computed as this module does.

    Args:
        model: in training mode.
        trained: ids of the parameters whose gradients are wanted.
        write: called in the backward pass with a parameter and its gradient for each row.

    Returns:
        Each layer with its other `forward`, and the ids of the parameters that these write.
    """
    layers: list[tuple[torch.nn.Module, Forward]] = []
    inside: set[int] = set()
    covered: set[int] = set()
    for module in model.modules():
        if id(module) in inside:
            continue
        own = {id(parameter) for parameter in module.parameters()} & trained
        if not own or "forward" in vars(module):  # somebody else has replaced it
            continue
        if _is_plain_lora(module):
            inside.update(id(part) for part in module.modules())
            layers.append((module, _lora_forward(module, trained, write)))
            covered |= own
        elif type(module) is torch.nn.Linear:
            layers.append((module, _linear_forward(module, trained, write)))
            covered |= own
    return layers, covered


def _is_plain_lora(module: Any) -> bool:
    """A LoRA layer of PEFT that computes y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ and nothing else."""
    if type(module) is not LoraLinear or type(module.base_layer) is not torch.nn.Linear:
        return False
    frozen = not any(parameter.requires_grad for parameter in module.base_layer.parameters())
    ordinary = not (module.disable_adapters or module.merged or module.fan_in_fan_out or module.lora_variant)
    if not (frozen and ordinary and module.active_adapters == [_ADAPTER]):
        return False
    without_bias = all(part[_ADAPTER].bias is None for part in (module.lora_A, module.lora_B))
    return without_bias and type(module.lora_dropout[_ADAPTER]) is torch.nn.Identity


def _lora_forward(module: Any, trained: set[int], write: Write) -> Forward:
    base, scaling = module.base_layer, module.scaling[_ADAPTER]
    a, b = module.lora_A[_ADAPTER].weight, module.lora_B[_ADAPTER].weight
    writers = tuple(write if id(parameter) in trained else None for parameter in (a, b))

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Lora.apply(x, a, b, base, scaling, writers)  # type: ignore[no-untyped-call]
        return result

    return forward


def _linear_forward(module: torch.nn.Linear, trained: set[int], write: Write) -> Forward:
    weight, bias = module.weight, module.bias
    writers = tuple(
        write if parameter is not None and id(parameter) in trained else None for parameter in (weight, bias)
    )

    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _Linear.apply(x, weight, bias, writers)  # type: ignore[no-untyped-call]
        return result

    return forward


def _kinds(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Number types of a layer's product with its weight, and of those with A and B."""
    if torch.is_autocast_enabled(x.device.type):
        return (torch.get_autocast_dtype(x.device.type),) * 2
    return weight.dtype, torch.float32


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Shape (rows × positions, width)."""
    return tensor.reshape(-1, tensor.shape[-1])


def _by_row(tensor: torch.Tensor) -> torch.Tensor:
    """Shape (rows, positions, width)."""
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """For each row the sum over its positions of leftᵀ·right, shape (rows, width of left, width of right)."""
    return torch.bmm(_by_row(left).transpose(1, 2), _by_row(right))


class _Lora(torch.autograd.Function):
    """y = x·Wᵀ + bias + (x·Aᵀ)·(s·B)ᵀ. Autograd gets no gradient of A and B: each row's is written instead."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        a: torch.nn.Parameter,
        b: torch.nn.Parameter,
        base: torch.nn.Linear,
        scaling: float,
        writers: tuple[Write | None, Write | None],
    ) -> torch.Tensor:
        kind, small = _kinds(x, base.weight)
        weight = base.weight.to(kind)
        down, up = a.to(small), (b * scaling).t().contiguous().to(small)
        y = F.linear(x.to(kind), weight, None if base.bias is None else base.bias.to(kind))
        inner = F.linear(x.to(small), down)
        if kind == small:
            y.view(-1, y.shape[-1]).addmm_(_flat(inner), up)
        else:
            y = (y + inner @ up).to(kind)
        ctx.save_for_backward(x, inner)
        ctx.matrices = weight, down, up
        ctx.writing = a, b, scaling, writers
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, inner = ctx.saved_tensors
        weight, down, up = ctx.matrices
        a, b, scaling, (write_a, write_b) = ctx.writing
        outer = gradient.to(inner.dtype)
        middle = F.linear(outer, up)
        if write_a is not None:
            write_a(a, _products(middle, x.to(inner.dtype)))
        if write_b is not None:
            # (out, r) from (r, out): a product with few rows is several times faster than one with few columns.
            write_b(b, _products(inner, outer).transpose(1, 2) * scaling)
        if not ctx.needs_input_grad[0]:
            return (None,) * 6
        below = torch.mm(_flat(gradient), weight)
        if below.dtype == middle.dtype:
            below.addmm_(_flat(middle), down)
        else:
            below = below + _flat(middle) @ down
        return below.view(x.shape).to(x.dtype), None, None, None, None, None


class _Linear(torch.autograd.Function):
    """y = x·Wᵀ + bias. Autograd gets no gradient of W and the bias: each row's is written instead."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.nn.Parameter,
        bias: torch.nn.Parameter | None,
        writers: tuple[Write | None, Write | None],
    ) -> torch.Tensor:
        kind, _ = _kinds(x, weight)
        cast = weight.to(kind)
        ctx.save_for_backward(x)
        ctx.matrix = cast
        ctx.writing = weight, bias, writers
        return F.linear(x.to(kind), cast, None if bias is None else bias.to(kind))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        (x,) = ctx.saved_tensors
        weight, bias, (write_weight, write_bias) = ctx.writing
        if write_weight is not None:
            write_weight(weight, _products(gradient, x.to(gradient.dtype)))
        if write_bias is not None:
            write_bias(bias, _by_row(gradient).sum(1))
        if not ctx.needs_input_grad[0]:
            return (None,) * 4
        below = torch.mm(_flat(gradient), ctx.matrix)
        return below.view(x.shape).to(x.dtype), None, None, None
