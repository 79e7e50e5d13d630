"""One worker: computes with one model, on one thread of the processor or on one device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import ClippedSum, clipped_sum
from client.vault.training.features import vectors_of
from client.vault.training.per_example import PerExampleGradients
from client.vault.training.rows import checked_rows, gradient_digest, try_longest
from client.vault.training.verification import verified_precision
from common.adapter.adapter import Adapter
from common.model.model import LoraModel
from common.model.precision import one_thread
from common.plan.plan import Plan
from common.tasks import Task
from common.tasks.text import device_of

# The precision of matrix products, and padded length → rows where there are fewer: with model, device and plan,
# what the rounding of a gradient depends on.
Rounding = tuple[torch.dtype, Mapping[int, int]]


class Trainer(Protocol):
    """Computes gradients: a `Worker` in this process, or a `WorkerPool`. It never holds a keystream."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def settled(self) -> Rounding | None:
        """What `settle` has fixed; None before."""

    def verify(self) -> torch.dtype:
        """See `verified_precision`."""

    def check_rows(self, precision: torch.dtype) -> dict[int, int]:
        """See `checked_rows`."""

    def settle(self, rounding: Rounding) -> None:
        """Fix what the rounding of gradients depends on, before the first of them.

        Raises:
            GuaranteeError: workers compute different gradients.
        """

    def round(
        self, adapter: Adapter, *, head_only: bool, clipping_norm: float
    ) -> AbstractContextManager[ClippedSum]:
        """Begin a round from an adapter; within, the sum of a sample's clipped gradients can be asked for."""

    def vectors(self, adapter: Adapter, units: Sequence[Unit]) -> list[Unit]:
        """See `vectors_of`."""


class Worker:
    """A trainer in this process.

    Args:
        model: in training mode, with the plan's layers.
        task: gives each example its loss.
        plan: at the organization's rank.
        max_tokens: padded tokens of a micro-batch.
    """

    def __init__(self, model: LoraModel, task: Task, plan: Plan, max_tokens: int) -> None:
        self.model = model
        self._task = task
        self._plan = plan
        self._max_tokens = max_tokens
        self.settled: Rounding | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model.module)

    def verify(self) -> torch.dtype:
        """See `verified_precision`."""
        with one_thread():
            return verified_precision(self.model, self._task, self._plan)

    def check_rows(self, precision: torch.dtype) -> dict[int, int]:
        """See `checked_rows`."""
        with one_thread():
            return checked_rows(self.model, self._task, self._plan, self._max_tokens, precision)

    def try_longest(self, precision: torch.dtype) -> None:
        """See `rows.try_longest`."""
        with one_thread():
            try_longest(self.model, self._task, self._plan, self._max_tokens, precision)

    def settle(self, rounding: Rounding) -> None:
        """Fix what the rounding of gradients depends on."""
        self.settled = rounding

    def digest(self) -> str:
        """See `gradient_digest`."""
        shapes = (self._max_tokens, *self._rounding())
        with one_thread():
            return gradient_digest(self.model, self._task, self._plan, *shapes)

    @contextmanager
    def round(self, adapter: Adapter, *, head_only: bool, clipping_norm: float) -> Iterator[ClippedSum]:
        """Begin a round from an adapter; see `Trainer.round`."""
        self.model.load(adapter)
        parameters = self.model.trained_parameters(head_only=head_only)
        precision, fewer_rows = self._rounding()
        with PerExampleGradients(self.model.module, parameters, precision) as gradients:

            def sum_of(sample: Sequence[Unit]) -> torch.Tensor:
                with one_thread():
                    return clipped_sum(gradients, self._task, sample, clipping_norm, self._max_tokens, fewer_rows)

            yield sum_of

    def vectors(self, adapter: Adapter, units: Sequence[Unit]) -> list[Unit]:
        """See `vectors_of`."""
        self.model.load(adapter)
        return self.vectors_here(units)

    def vectors_here(self, units: Sequence[Unit]) -> list[Unit]:
        """The same for the adapter that is loaded."""
        shapes = (self._max_tokens, *self._rounding())
        with one_thread():
            return vectors_of(self.model.module, self._task, units, *shapes)

    def _rounding(self) -> Rounding:
        assert self.settled is not None, "nothing is computed before the checks"
        return self.settled
