"""DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133, Algorithm 1) on LoRA tensors, for units.

A unit is what the guarantee protects: the example of one record, or the examples of one user. It is drawn as a
whole, and has one gradient that is clipped once: with a clipped gradient a record, a user would move the sum by as
many C as they have records (McMahan et al. 2018, https://arxiv.org/abs/1710.06963). That gradient is the mean over
some of the unit's examples (Charles et al. 2024, https://arxiv.org/abs/2407.07737, user-level sampling). A sum
would be as safe, but it grows with the number of records: no C would fit both users of few and users of many.

Built by hand on per-example gradients (`per_example.py`): Opacus' `make_private` takes its sample rate, divisor
and step count from the data, which would tell whether a record is there. Here they are arguments, and public.

This file knows no ledger, policy or file. It does not count what it spends: the ledger did so before.

A unit's gradient does not depend on the other units, see `micro_batches.py` and `verification.py`, and the sum
does not depend on their order, see `exact.py`.

Not covered: the time that a step takes follows the batch that was drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from client.vault.records.encoded import Unit
from client.vault.training.entropy import KEY_SIZE, Keystream
from client.vault.training.exact import clipped_integers, on_grid
from client.vault.training.micro_batches import NO_FEWER, groups, micro_batches
from client.vault.training.per_example import Gradients, Parameters, PerExampleGradients, finite_rows
from common.tasks import Task

# Of a sample: the sum of its units' clipped gradients for the parameters as they are, as `clipped_sum` gives it.
ClippedSum = Callable[[Sequence[Unit]], torch.Tensor]


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
        precision: of the model's matrix products; everything after an example's gradient is exact.
        fewer_rows: padded length → rows of a micro-batch, where `max_tokens` would allow too many, see `rows.py`.
    """

    sample_rate: float
    batch_size: int
    clipping_norm: float
    noise_multiplier: float
    examples_per_unit: int | None = None
    max_tokens: int = 512
    precision: torch.dtype = torch.float32
    fewer_rows: Mapping[int, int] = field(default_factory=dict)


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

        def sum_here(sample: Sequence[Unit]) -> torch.Tensor:
            return clipped_sum(gradients, task, sample, step.clipping_norm, step.max_tokens, step.fewer_rows)

        take_steps(sum_here, parameters, units, step, steps, optimizer, stream)


def take_steps(
    sum_of: ClippedSum,
    parameters: Parameters,
    units: Sequence[Unit],
    step: Step,
    steps: int,
    optimizer: torch.optim.Optimizer,
    stream: Keystream,
) -> None:
    """The same, wherever the gradients are computed.

    Args:
        sum_of: called once a step.
        parameters: as for `train`, and so the others.
        units: the examples of each.
        step: the public numbers.
        steps: how many.
        optimizer: fresh, over `parameters`.
        stream: draws the samples and the noise.
    """
    for _ in range(steps):
        # From branches: where the noise lies in the stream depends on public numbers alone.
        drawn = poisson_sample(units, step.sample_rate, stream.branch())
        choices = stream.branch()
        total = sum_of([choose_examples(unit, step.examples_per_unit, choices) for unit in drawn])
        noised = add_noise(total, step.noise_multiplier, stream) * step.clipping_norm
        for name, gradient in by_name(noised / step.batch_size, parameters).items():
            parameters[name].grad = gradient.to(parameters[name])
        optimizer.step()
        optimizer.zero_grad()


def poisson_sample(units: Sequence[Unit], rate: float, stream: Keystream) -> list[Unit]:
    """Each unit independently with probability `rate`; the sample may be empty."""
    drawn = stream.uniforms(len(units)) <= rate
    return [units[place] for place in np.flatnonzero(drawn).tolist()]


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
    fewer_rows: Mapping[int, int] = NO_FEWER,
) -> torch.Tensor:
    """The sum of the units' gradients, each clipped to C, as integers: the same in any order and any parts.

    A unit without examples contributes zero, and so does an empty sample.

    Returns:
        int64 multiples of 2⁻⁴⁰·C, shape (numbers,): the parameters by name, one after another.
    """
    size = sum(parameter.numel() for parameter in gradients.parameters.values())
    device = next(iter(gradients.parameters.values())).device
    total = torch.zeros(size, dtype=torch.int64, device=device)
    for group in groups(sample, size, max_tokens, fewer_rows):
        if len(group[0]) > 1:
            means = mean_gradients(gradients, task, group, max_tokens, fewer_rows)
            total += clipped_integers(means, clipping_norm)
            continue
        # A mean of one is the gradient itself, in whatever group its unit is.
        for batch, _ in micro_batches(group, max_tokens, fewer_rows):
            total += clipped_integers(gradients.rows(task, batch), clipping_norm)
    return total


def mean_gradients(
    gradients: PerExampleGradients,
    task: Task,
    units: Sequence[Unit],
    max_tokens: int,
    fewer_rows: Mapping[int, int] = NO_FEWER,
) -> torch.Tensor:
    """The mean of each unit's gradients; one that is not finite counts as zero, so that a mean is always finite.

    A unit's gradients are added in the order of its own examples, so that its mean does not depend on other units.

    Returns:
        float64, shape (units, numbers): the parameters by name, one after another.
    """
    means: torch.Tensor | None = None
    for batch, owners in micro_batches(units, max_tokens, fewer_rows):
        rows = finite_rows(gradients.rows(task, batch))
        if means is None:
            means = torch.zeros((len(units), rows.shape[1]), dtype=torch.float64, device=rows.device)
        _add_rows(means, rows, owners)
    assert means is not None, "groups have units that have examples"
    counts = torch.tensor([max(1, len(unit)) for unit in units], dtype=torch.float64, device=means.device)
    return means.div_(counts[:, None])


def _add_rows(means: torch.Tensor, rows: torch.Tensor, owners: Sequence[int]) -> None:
    """Add rows to those of their owners, an owner's in their order, never by atomic operations of a GPU."""
    left = list(range(len(owners)))
    while left:
        first: dict[int, int] = {}
        for place in left:
            first.setdefault(owners[place], place)
        index = torch.tensor(list(first), device=means.device)
        places = torch.tensor(list(first.values()), device=means.device)
        means[index] = means[index] + rows[places]
        left = [place for place in left if first[owners[place]] != place]


def add_noise(total: torch.Tensor, noise_multiplier: float, stream: Keystream) -> torch.Tensor:
    """The sum with Gaussian noise of standard deviation σ·C in every number, rounded to a public grid.

    Args:
        total: as `clipped_sum` gives it.
        noise_multiplier: σ.
        stream: draws the noise.

    Returns:
        float64 in units of C, shape (numbers,).
    """
    noised = on_grid(total.cpu().numpy(), noise_multiplier, stream)
    return torch.from_numpy(noised).to(total.device)


def noise_bytes(size: int) -> int:
    """Bytes of the round's keystream that a step uses: two words for two numbers, and the keys of three branches.

    Args:
        size: trained numbers.
    """
    return 2 * 8 * ((size + 1) // 2) + 3 * KEY_SIZE


def by_name(numbers: torch.Tensor, parameters: Parameters) -> Gradients:
    """A vector of all numbers as tensors of the parameters' shapes."""
    names = sorted(parameters)
    parts = torch.split(numbers, [parameters[name].numel() for name in names])
    return {name: part.view(parameters[name].shape) for name, part in zip(names, parts, strict=True)}
