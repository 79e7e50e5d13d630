"""A DP-SGD step and a plain LoRA step on the same batch, to be alternated."""

from __future__ import annotations

from collections.abc import Callable

import torch

from client.vault.training.dp_sgd import add_noise, by_name, clipped_sum
from client.vault.training.entropy import SystemEntropy
from client.vault.training.micro_batches import micro_batches
from client.vault.training.per_example import PerExampleGradients
from common.model.precision import computing_in
from common.plan.task import TaskSection
from common.tasks.causal_lm import CausalLM
from parts.random_models import Tokens, random_examples, trained_of


def private_and_plain(
    model: torch.nn.Module, length: int, batch: int, max_tokens: int, precision: torch.dtype = torch.float32
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Create the steps for a generating model.

    Args:
        model: its LoRA layers are trained.
        length: the padded length of each example, in tokens.
        batch: examples per step.
        max_tokens: padded tokens in a micro-batch.
        precision: of the matrix products.

    Returns:
        The private step and the plain one.
    """
    task = CausalLM(TaskSection(max_length=length), Tokens())
    units = [(example,) for example in random_examples(batch, length - 1, torch.Generator().manual_seed(5))]
    parameters = trained_of(model)
    device = next(iter(parameters.values())).device
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4)
    stream = SystemEntropy().stream("benchmark", "benchmark", 1)

    def private() -> None:
        with PerExampleGradients(model, parameters, precision) as hooks:
            noised = add_noise(clipped_sum(hooks, task, units, 1.0, max_tokens), 1.0, stream)
            for name, gradient in by_name(noised / batch, parameters).items():
                parameters[name].grad = gradient.to(parameters[name])
            optimizer.step()
            optimizer.zero_grad()

    def plain() -> None:
        for micro, _ in micro_batches(units, max_tokens):
            with computing_in(precision, device):
                losses = task.losses(model, micro.examples, micro.length)
            (losses.sum() / batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return private, plain
