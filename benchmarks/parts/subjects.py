"""Random models for each type of loss, and adapters that a server could choose for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from client.vault.training.artificial_adapters import fill_randomly, share_a_row
from client.vault.training.per_example import PerExampleGradients
from common.plan.task import TaskSection
from common.tasks import Example, Task
from common.tasks.causal_lm import CausalLM
from common.tasks.classification import Classification
from parts.random_models import Tokens, headed_model, llama_config, lora_model, random_examples, trained_of

CLASSES = 77


class Subject:
    """A model, its task, and examples for it.

    Args:
        name: in the table.
        model: in training mode, on its device.
        task: of the examples.
        classes: number of classes; 0 for a generating model.
        precision: of the matrix products.
    """

    def __init__(
        self, name: str, model: torch.nn.Module, task: Task, classes: int, precision: torch.dtype
    ) -> None:
        self.name, self.model, self.task, self.precision = name, model, task, precision
        self.parameters = trained_of(model)
        self._classes = classes

    def examples(self, count: int, tokens: int, seed: int) -> list[Example]:
        """Random examples of one length."""
        return random_examples(count, tokens, torch.Generator().manual_seed(seed), self._classes)

    def hooks(self) -> PerExampleGradients:
        """Per-example gradients, as in a vault."""
        return PerExampleGradients(self.model, self.parameters, self.precision)


def subjects(device: str, *, small: bool) -> Iterator[Subject]:
    """A classifier and a generating model in float32, and a generating model in bfloat16."""
    hidden, layers = (64, 2) if small else (384, 6)
    config = llama_config(hidden, layers)
    labels = [str(label) for label in range(CLASSES)]
    section = TaskSection(kind="classification", template="{text}", labels=labels, max_length=2048)
    task: Task = Classification(section, Tokens())
    yield Subject("classifier", headed_model(config, CLASSES).to(device), task, CLASSES, torch.float32)
    task = CausalLM(TaskSection(max_length=2048), Tokens())
    yield Subject("llama fp32", lora_model(config).to(device), task, 0, torch.float32)
    yield Subject("llama bf16", lora_model(config, dtype=torch.bfloat16).to(device), task, 0, torch.bfloat16)


# Adapters that a server could choose: ordinary, no information, huge, and outputs that differ by rounding only.
ADAPTERS: dict[str, Callable[[dict[str, torch.nn.Parameter]], None]] = {
    "ordinary": lambda tensors: fill_randomly(tensors, 0.05),
    "zeros": lambda tensors: fill_randomly(tensors, 0.0),
    "times 1e6": lambda tensors: fill_randomly(tensors, 1e6),
    "shared row × 1e4": lambda tensors: share_a_row(tensors, 1e4),
    "shared row × 1e8": lambda tensors: share_a_row(tensors, 1e8),
}
