"""Adapters to try a model with, before anything is spent: ordinary ones, and such as a server could choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from client.vault.training.per_example import Parameters


@contextmanager
def restored(parameters: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Within, the parameters may be overwritten; afterwards they are what they were."""
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])


def fill_randomly(parameters: Parameters, scale: float, seed: int = 1) -> None:
    """Normal numbers of one scale everywhere: with B at zero, A would have no gradient."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(parameters):
            parameters[name].copy_(scale * torch.randn(parameters[name].shape, generator=generator))


def share_a_row(parameters: Parameters, scale: float) -> None:
    """All outputs of a layer have the same large weights, but for a unit in the last place."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name in sorted(parameters):
            outputs, inputs = parameters[name].shape
            row = (scale * torch.randn(1, inputs, generator=generator)).expand(outputs, inputs)
            up = torch.rand(outputs, inputs, generator=generator) < 0.5
            parameters[name].copy_(torch.where(up, torch.nextafter(row, torch.full_like(row, torch.inf)), row))
