"""Per-example gradients of the trained layers, by Opacus' hooks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks

from client.vault.training.errors import GuaranteeError
from client.vault.training.micro_batches import MicroBatch
from common.model.precision import computing_in, repeatable_kernels
from common.tasks import Task
from common.tasks.text import device_of

Parameters = dict[str, torch.nn.Parameter]
Gradients = dict[str, torch.Tensor]


class PerExampleGradients:
    """Opacus' hooks on the trained layers of a model, for the length of a `with` block.

    Args:
        model: in training mode.
        parameters: the tensors whose gradients are wanted; every other parameter must be frozen.
        precision: of the model's matrix products.
    """

    def __init__(
        self, model: torch.nn.Module, parameters: Parameters, precision: torch.dtype = torch.float32
    ) -> None:
        self.parameters = parameters
        self._model = model
        self._precision = precision
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
            device = device_of(self._model)
            with repeatable_kernels(device):
                with computing_in(self._precision, device):
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


def rows_of(gradients: Gradients) -> torch.Tensor:
    """The gradients of each example as one row, the parameters by name; shape (examples, numbers)."""
    return torch.cat([gradients[name].flatten(1) for name in sorted(gradients)], dim=1)


def finite_rows(gradients: Gradients) -> torch.Tensor:
    """The same in float64; zero where one is not finite.

    Args:
        gradients: as `PerExampleGradients.of` gives them.
    """
    rows = rows_of(gradients).double()
    # Zero times infinity is NaN: rows that do not count are emptied, not scaled.
    rows[~rows.isfinite().all(dim=1)] = 0.0
    return rows
