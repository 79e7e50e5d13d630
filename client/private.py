"""DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133, Algorithm 1) on LoRA tensors.

Built from Opacus' per-example gradient hooks, by hand: `make_private` takes its sample rate, divisor and step
count from the data, which would tell whether a record is there. Here they are arguments, and public.

This file knows no ledger, policy or file. It does not count what it spends: the ledger did so before.

An example's gradient does not depend on its companions, not even in its last bits: see `MicroBatch`.

Not covered: the time that a step takes follows the batch that was drawn.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks

from client.entropy import Keystream
from common.tasks import Example, Task, padded_length

Parameters = dict[str, torch.nn.Parameter]
Gradients = dict[str, torch.Tensor]


class GuaranteeError(RuntimeError):
    """Training would not be what the accountant is told. Nothing is released."""


@dataclass(frozen=True)
class Step:
    """One DP-SGD step; every number is public.

    Attributes:
        sample_rate: q of the Poisson sample.
        batch_size: the expected number of units, which divides the noised sum.
        clipping_norm: C, the largest L2 norm of one unit's gradient.
        noise_multiplier: σ; the noise has standard deviation σ·C.
        max_tokens: padded tokens in a micro-batch. Memory and speed only: the sum does not depend on it.
    """

    sample_rate: float
    batch_size: int
    clipping_norm: float
    noise_multiplier: float
    max_tokens: int = 1024


def train(
    model: torch.nn.Module,
    parameters: Parameters,
    task: Task,
    units: Sequence[Example | None],
    step: Step,
    steps: int,
    optimizer: torch.optim.Optimizer,
    stream: Keystream,
) -> None:
    """Take DP-SGD steps on live parameters.

    Args:
        model: in training mode; its LoRA layers hold `parameters`.
        parameters: the tensors to train, by name.
        task: gives each example its own loss.
        units: one entry a record, None for a record that cannot contribute. It is drawn like any other.
        step: the public numbers.
        steps: how many; an integer, never derived from the data.
        optimizer: fresh, over `parameters`; it sees noised gradients only.
        stream: draws the samples and the noise.
    """
    with PerExampleGradients(model, parameters) as gradients:
        for _ in range(steps):
            sample = poisson_sample(units, step.sample_rate, stream)
            total = clipped_sum(gradients, task, sample, step.clipping_norm, step.max_tokens)
            noised = add_noise(total, step.noise_multiplier * step.clipping_norm, stream)
            for name, parameter in parameters.items():
                parameter.grad = (noised[name] / step.batch_size).to(parameter)
            optimizer.step()
            optimizer.zero_grad()


def poisson_sample(units: Sequence[Example | None], rate: float, stream: Keystream) -> list[Example | None]:
    """Each unit independently with probability `rate`; the sample may be empty."""
    drawn = stream.uniforms(len(units)) < rate
    return [unit for unit, chosen in zip(units, drawn, strict=True) if chosen]


def clipped_sum(
    gradients: PerExampleGradients,
    task: Task,
    sample: Sequence[Example | None],
    clipping_norm: float,
    max_tokens: int,
) -> Gradients:
    """The sum of the sample's gradients, each clipped to C, in float64. Zero for an empty sample.

    A gradient that is not finite contributes zero, like a unit that is None.
    """
    total = {
        name: torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
        for name, parameter in gradients.parameters.items()
    }
    for batch in micro_batches(sample, max_tokens):
        each = gradients.of(task, batch)
        squares = torch.stack([_row_norms(gradient) for gradient in each.values()]).square().sum(0)
        norms = squares.sqrt()
        scale = torch.where(norms.isfinite(), (clipping_norm / norms).clamp(max=1.0), 0.0)
        for name, gradient in each.items():
            # Zero times infinity is NaN: rows that do not count are emptied, not only scaled.
            gradient[scale == 0] = 0.0
            total[name] += (scale @ gradient.flatten(1).double()).view_as(total[name])
    return total


def add_noise(total: Gradients, deviation: float, stream: Keystream) -> Gradients:
    """Add Gaussian noise of a standard deviation to every coordinate, in float64."""
    noised = {}
    for name in sorted(total):
        tensor = total[name]
        noise = torch.from_numpy(stream.gaussians(tensor.numel())).view(tensor.shape)
        noised[name] = tensor + deviation * noise.to(tensor.device)
    return noised


@dataclass(frozen=True)
class MicroBatch:
    """Examples that go through the model together, in a shape that does not tell how many or which.

    Matrix kernels round differently for different shapes. If shapes followed the draw, leaving out one record
    would change the gradients of the others: by 4e-6·C for 512 records in float32, but by 9 % of C in
    bfloat16, beyond the sensitivity that the accountant is told. So the length follows from each example
    alone, the rows from the length, and rows without an example are filled up.

    Attributes:
        examples: 1 to `rows` of them.
        length: tokens that each is padded to.
        rows: of the model's input.
    """

    examples: tuple[Example, ...]
    length: int
    rows: int


def micro_batches(sample: Sequence[Example | None], max_tokens: int) -> Iterator[MicroBatch]:
    """The sample in groups of like length, each of `max_tokens` padded tokens, at least one row."""
    usable = sorted((unit for unit in sample if unit is not None), key=len)
    for length, group in itertools.groupby(usable, key=lambda example: padded_length(len(example))):
        rows = max(1, max_tokens // length)
        examples = tuple(group)
        for start in range(0, len(examples), rows):
            yield MicroBatch(examples[start : start + rows], length, rows)


class PerExampleGradients:
    """Opacus' hooks on the trained layers of a model, for the length of a `with` block.

    Args:
        model: in training mode.
        parameters: the tensors whose gradients are wanted; every other parameter must be frozen.
    """

    def __init__(self, model: torch.nn.Module, parameters: Parameters) -> None:
        self.parameters = parameters
        self._model = model
        self._hooks: Any = None

    def __enter__(self) -> PerExampleGradients:
        wanted = {id(parameter) for parameter in self.parameters.values()}
        live = {id(parameter) for parameter in self._model.parameters() if parameter.requires_grad}
        if wanted != live:
            raise GuaranteeError("what is trained, what is clipped and what is noised are not the same tensors")
        self._hooks = GradSampleHooks(self._model, loss_reduction="sum", strict=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.cleanup()
        for parameter in self.parameters.values():
            parameter.grad = None

    def of(self, task: Task, batch: MicroBatch) -> Gradients:
        """Per-example gradients of the batch's losses.

        Returns:
            For each name a tensor of shape (examples, *parameter.shape), made anew, free to be changed.
        """
        count = len(batch.examples)
        filled = batch.examples + batch.examples[:1] * (batch.rows - count)
        with warnings.catch_warnings():
            # The first layer's input needs no gradient; its output's is all that the hooks use.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses = task.losses(self._model, filled, batch.length)
            losses[:count].sum().backward()  # type: ignore[no-untyped-call]
        gradients = {}
        for name, parameter in self.parameters.items():
            gradient = parameter.grad_sample  # type: ignore[attr-defined]
            if not isinstance(gradient, torch.Tensor):
                raise GuaranteeError(f"{name} has no per-example gradient")
            if gradient.shape != (batch.rows, *parameter.shape):
                raise GuaranteeError(f"{name} has a gradient of shape {tuple(gradient.shape)}")
            gradients[name] = gradient[:count]
            parameter.grad_sample = None  # type: ignore[attr-defined]
            parameter.grad = None
        return gradients


def _row_norms(gradient: torch.Tensor) -> torch.Tensor:
    """The L2 norm of each example's gradient of one tensor, in float64, where float32 would overflow."""
    norms: torch.Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64)
    return norms
