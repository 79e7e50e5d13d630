"""What a base model that is not trained makes of the records, kept: then only the head is left to compute.

A vector follows from one example alone, and from tensors that everybody has: keeping it changes no release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch

from client.vault.records.encoded import Unit
from client.vault.training.micro_batches import NO_FEWER, micro_batches
from common.adapter.adapter import Adapter, is_lora, to_bytes
from common.model.precision import computing_in, repeatable_kernels
from common.tasks import Example, Task
from common.tasks.classification import Classification
from common.tasks.text import device_of

# Memory only: units are tuples of Python's integers while they are computed.
_UNITS_AT_ONCE = 4096

# Of an adapter and units: these as the model sees them, as `vectors_of` gives them.
Vectors = Callable[[Adapter, Sequence[Unit]], list[Unit]]


class FrozenUnits:
    """The units of an organization, and the same as vectors; those of one adapter are kept.

    Args:
        task: of the plan.
        units: the examples of each.
        vectors: computes them.
    """

    def __init__(self, task: Task, units: Sequence[Unit], vectors: Vectors) -> None:
        self._task = task
        self._units = units
        self._vectors = vectors
        self._key = ""
        self._frozen: list[Unit] = []

    def of_round(self, adapter: Adapter, *, head_only: bool) -> Sequence[Unit]:
        """The units to train on: as vectors where the head alone is trained, if the task has one a text."""
        if head_only and isinstance(self._task, Classification):
            return self.under(adapter)
        return self._units

    def under(self, adapter: Adapter) -> Sequence[Unit]:
        """The units as a model with this adapter sees them."""
        layers = {name: tensor for name, tensor in adapter.items() if is_lora(name)}
        key = hashlib.sha256(to_bytes(layers)).hexdigest()
        if key != self._key:
            parts = range(0, len(self._units), _UNITS_AT_ONCE)
            made = [self._vectors(adapter, self._units[start : start + _UNITS_AT_ONCE]) for start in parts]
            self._frozen = [unit for part in made for unit in part]
            self._key = key
        return self._frozen


def vectors_of(
    model: torch.nn.Module,
    task: Task,
    units: Sequence[Unit],
    max_tokens: int,
    precision: torch.dtype = torch.float32,
    fewer_rows: Mapping[int, int] = NO_FEWER,
) -> list[Unit]:
    """Units with a vector in place of the tokens of each example.

    Args:
        model: the base model with its head; its LoRA layers hold the adapter.
        task: of the plan: classification.
        units: with tokens.
        max_tokens: padded tokens in a micro-batch.
        precision: of the model's matrix products.
        fewer_rows: padded length → rows of a micro-batch, where there are fewer.
    """
    assert isinstance(task, Classification)
    made: list[list[Example]] = [[] for _ in units]
    device = device_of(model)
    with torch.no_grad(), repeatable_kernels(device), computing_in(precision, device):
        for batch, owners in micro_batches(units, max_tokens, fewer_rows):
            filled = batch.examples + batch.examples[:1] * (batch.rows - len(batch.examples))
            for example, owner in zip(task.frozen(model, filled, batch.length), owners, strict=False):
                made[owner].append(example)
    return [tuple(examples) for examples in made]
