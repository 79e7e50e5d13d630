"""DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133, Algorithm 1) on LoRA tensors, for units.

A unit is what the guarantee protects: the example of one record, or the examples of one user. It is drawn as a
whole, and has one gradient that is clipped once: with a clipped gradient a record, a user would move the sum by as
many C as they have records (McMahan et al. 2018, https://arxiv.org/abs/1710.06963). That gradient is the mean over
some of the unit's examples (Charles et al. 2024, https://arxiv.org/abs/2407.07737, user-level sampling). A sum
would be as safe, but it grows with the number of records: no C would fit both users of few and users of many.

Built by hand on per-example gradients (`per_example.py`): Opacus' `make_private` takes its sample rate, divisor
and step count from the data, which would tell whether a record is there. Here they are arguments, and public.

This file knows no ledger, policy or file. It does not count what it spends: the ledger did so before.

A unit's gradient does not depend on the other units, but for the last bits on some processors: see
`micro_batches.py` and `mean_gradients`.

Not covered: the time that a step takes follows the batch that was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from client.vault.records.units import Unit
from client.vault.training.entropy import Keystream
from client.vault.training.micro_batches import groups, micro_batches
from client.vault.training.per_example import Gradients, Parameters, PerExampleGradients, norms
from common.tasks import Task


@dataclass(frozen=True)
class Step:
    """One DP-SGD step; every number is public.

    Attributes:
        sample_rate: q of the Poisson sample.
        batch_size: the expected number of units, which divides the noised sum.
        clipping_norm: C, the largest L2 norm of one unit's gradient.
        noise_multiplier: σ; the noise has standard deviation σ·C.
        examples_per_unit: how many examples of one unit are used at most; None for all.
        max_tokens: padded tokens in a micro-batch. Memory and speed only: the sum does not depend on it.
        precision: of the model's matrix products; everything after an example's gradient is in float64.
    """

    sample_rate: float
    batch_size: int
    clipping_norm: float
    noise_multiplier: float
    examples_per_unit: int | None = None
    max_tokens: int = 512
    precision: torch.dtype = torch.float32


def train(
    model: torch.nn.Module,
    parameters: Parameters,
    task: Task,
    units: Sequence[Unit],
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
        units: the examples of each; one without examples is drawn like any other.
        step: the public numbers.
        steps: how many; an integer, never derived from the data.
        optimizer: fresh, over `parameters`; it sees noised gradients only.
        stream: draws the samples and the noise.
    """
    with PerExampleGradients(model, parameters, step.precision) as gradients:
        for _ in range(steps):
            # From branches: where the noise lies in the stream depends on public numbers alone.
            drawn = poisson_sample(units, step.sample_rate, stream.branch())
            choices = stream.branch()
            sample = [choose_examples(unit, step.examples_per_unit, choices) for unit in drawn]
            total = clipped_sum(gradients, task, sample, step.clipping_norm, step.max_tokens)
            noised = add_noise(total, step.noise_multiplier * step.clipping_norm, stream)
            for name, parameter in parameters.items():
                parameter.grad = (noised[name] / step.batch_size).to(parameter)
            optimizer.step()
            optimizer.zero_grad()


def poisson_sample(units: Sequence[Unit], rate: float, stream: Keystream) -> list[Unit]:
    """Each unit independently with probability `rate`; the sample may be empty."""
    drawn = stream.uniforms(len(units)) <= rate
    return [unit for unit, chosen in zip(units, drawn, strict=True) if chosen]


def choose_examples(unit: Unit, most: int | None, stream: Keystream) -> Unit:
    """At most so many of a unit's examples, each set of them equally likely: a partial Fisher-Yates shuffle."""
    if most is None or len(unit) <= most:
        return unit
    places = list(range(len(unit)))
    for here, uniform in enumerate(stream.uniforms(most)):
        left = len(unit) - here
        there = here + min(int(uniform * left), left - 1)  # the product may round up to what is left
        places[here], places[there] = places[there], places[here]
    return tuple(unit[place] for place in sorted(places[:most]))


def clipped_sum(
    gradients: PerExampleGradients,
    task: Task,
    sample: Sequence[Unit],
    clipping_norm: float,
    max_tokens: int,
) -> Gradients:
    """The sum of the units' gradients, each clipped to C, in float64. Zero for an empty sample.

    A unit without examples contributes zero.
    """
    total = {
        name: torch.zeros(parameter.shape, dtype=torch.float64, device=parameter.device)
        for name, parameter in gradients.parameters.items()
    }
    size = sum(tensor.numel() for tensor in total.values())
    for group in groups(sample, size, max_tokens):
        means = mean_gradients(gradients, task, group, max_tokens)
        scale = (clipping_norm / norms(means)).clamp(max=1.0)
        for name, mean in means.items():
            total[name] += (scale @ mean.flatten(1)).view_as(total[name])
    return total


def mean_gradients(
    gradients: PerExampleGradients, task: Task, units: Sequence[Unit], max_tokens: int
) -> Gradients:
    """The mean of each unit's gradients; one that is not finite counts as zero, so that a mean is always finite.

    A unit's gradients are added in the order of its own examples: whatever the other units are, its mean is the
    same but for what rounding an example has in another row of its micro-batch: none on most CPUs, below 1e-7 of
    its length where it was seen. A GPU adds in any order, which is float64 rounding more.

    Returns:
        For each name a float64 tensor of shape (units, *parameter.shape).
    """
    means = {
        name: torch.zeros((len(units), *parameter.shape), dtype=torch.float64, device=parameter.device)
        for name, parameter in gradients.parameters.items()
    }
    for batch, owners in micro_batches(units, max_tokens):
        each = gradients.of(task, batch)
        broken = ~norms(each).isfinite()
        index = torch.tensor(owners, device=broken.device)
        for name, gradient in each.items():
            # Zero times infinity is NaN: rows that do not count are emptied, not scaled.
            gradient[broken] = 0.0
            means[name].index_add_(0, index, gradient.double())
    for mean in means.values():
        counts = torch.tensor([max(1, len(unit)) for unit in units], dtype=torch.float64, device=mean.device)
        mean.div_(counts.view(-1, *[1] * (mean.dim() - 1)))
    return means


def add_noise(total: Gradients, deviation: float, stream: Keystream) -> Gradients:
    """Add Gaussian noise of a standard deviation to every coordinate, in float64."""
    noised = {}
    for name in sorted(total):
        tensor = total[name]
        noise = torch.from_numpy(stream.gaussians(tensor.numel())).view(tensor.shape)
        noised[name] = tensor + deviation * noise.to(tensor.device)
    return noised
