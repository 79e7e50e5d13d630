"""What a base model that is not trained makes of the records, kept: then only the head is left to compute.

A vector follows from one example alone, and from tensors that everybody has: keeping it changes no release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

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


class FrozenUnits:
    """The units of an organization, and the same as vectors; those of one adapter are kept.

    Args:
        task: of the plan.
        units: the examples of each.
        max_tokens: padded tokens in a micro-batch.
        precision: of the model's matrix products.
        fewer_rows: padded length → rows of a micro-batch, where there are fewer.
    """

    def __init__(
        self,
        task: Task,
        units: Sequence[Unit],
        max_tokens: int,
        precision: torch.dtype = torch.float32,
        fewer_rows: Mapping[int, int] = NO_FEWER,
    ) -> None:
        self._task = task
        self._units = units
        self._max_tokens = max_tokens
        self._precision = precision
        self._fewer_rows = fewer_rows
        self._key = ""
        self._frozen: list[Unit] = []

    def of_round(self, model: torch.nn.Module, adapter: Adapter, *, head_only: bool) -> Sequence[Unit]:
        """The units to train on: as vectors where the head alone is trained, if the task has one a text."""
        if head_only and isinstance(self._task, Classification):
            return self.under(model, adapter)
        return self._units

    def under(self, model: torch.nn.Module, adapter: Adapter) -> Sequence[Unit]:
        """The units as the model sees them.

        Args:
            model: the base model with its head; its LoRA layers hold `adapter`.
            adapter: what the vectors depend on, beside the base model.
        """
        layers = {name: tensor for name, tensor in adapter.items() if is_lora(name)}
        key = hashlib.sha256(to_bytes(layers)).hexdigest()
        if key != self._key:
            self._frozen = self._computed(model)
            self._key = key
        return self._frozen

    def _computed(self, model: torch.nn.Module) -> list[Unit]:
        device = device_of(model)
        made: list[Unit] = []
        with torch.no_grad(), repeatable_kernels(device), computing_in(self._precision, device):
            for start in range(0, len(self._units), _UNITS_AT_ONCE):
                made += self._vectors(model, self._units[start : start + _UNITS_AT_ONCE])
        return made

    def _vectors(self, model: torch.nn.Module, units: Sequence[Unit]) -> list[Unit]:
        assert isinstance(self._task, Classification)
        made: list[list[Example]] = [[] for _ in units]
        for batch, owners in micro_batches(units, self._max_tokens, self._fewer_rows):
            filled = batch.examples + batch.examples[:1] * (batch.rows - len(batch.examples))
            for example, owner in zip(self._task.frozen(model, filled, batch.length), owners, strict=False):
                made[owner].append(example)
        return [tuple(examples) for examples in made]
