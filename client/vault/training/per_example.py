"""Per-example gradients of the trained layers: by our own backward functions, or by Opacus' hooks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from opacus.grad_sample import GradSampleHooks

from client.vault.training.errors import GuaranteeError
from client.vault.training.layers import rewritten
from client.vault.training.micro_batches import MicroBatch
from common.model.precision import computing_in, repeatable_kernels
from common.tasks import Task
from common.tasks.text import device_of

Parameters = dict[str, torch.nn.Parameter]
Gradients = dict[str, torch.Tensor]


class PerExampleGradients:
    """Gradients of each example of a micro-batch, for the length of a `with` block.

    The layers that `layers.py` knows write them in their backward pass. If a trained tensor is in another kind of
    layer, Opacus' hooks (https://opacus.ai/api/grad_sample_module.html) compute all of them.

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
        self._changed: list[torch.nn.Module] = []
        self._hooks: Any = None
        self._buffer = _Buffer(parameters)

    def __enter__(self) -> PerExampleGradients:
        if not self._model.training:
            raise GuaranteeError("the model is in evaluation mode")
        wanted = {id(parameter) for parameter in self.parameters.values()}
        live = {id(parameter) for parameter in self._model.parameters() if parameter.requires_grad}
        if wanted != live:
            raise GuaranteeError("what is trained, what is clipped and what is noised are not the same tensors")
        layers, covered = rewritten(self._model, wanted, self._buffer.write)
        if covered == wanted:
            for module, forward in layers:
                module.forward = forward
                self._changed.append(module)
        else:
            self._hooks = GradSampleHooks(self._model, loss_reduction="sum", strict=True)
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._changed:
            del module.forward  # the attribute of the instance: the method of its class is left
        self._changed = []
        if self._hooks is not None:
            self._hooks.cleanup()
            self._hooks = None
        for parameter in self.parameters.values():
            parameter.grad = None

    def rows(self, task: Task, batch: MicroBatch) -> torch.Tensor:
        """Per-example gradients of the batch's losses.

        Returns:
            Float32, shape (examples, numbers), the parameters by name, one after another; it may be changed, and
            the next call overwrites it.
        """
        count = len(batch.examples)
        filled = batch.examples + batch.examples[:1] * (batch.rows - count)
        self._buffer.begin(batch.rows)
        with warnings.catch_warnings():
            # The first layer's input needs no gradient; its output's is all that the hooks use.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            device = device_of(self._model)
            with repeatable_kernels(device):
                with computing_in(self._precision, device):
                    losses = task.losses(self._model, filled, batch.length)
                losses[:count].sum().backward()  # type: ignore[no-untyped-call]
        for name, parameter in self.parameters.items():
            if self._hooks is not None:
                self._buffer.write(parameter, _taken(name, parameter))
            elif parameter.grad is not None:
                raise GuaranteeError(f"{name} takes part in the loss outside of its layer")
        return self._buffer.complete()[:count]

    def of(self, task: Task, batch: MicroBatch) -> Gradients:
        """The same by name: tensors of shape (examples, *parameter.shape), overwritten by the next call."""
        rows = self.rows(task, batch)
        return {name: rows[:, place].view(-1, *shape) for name, (place, shape) in self._buffer.layout.items()}


class _Buffer:
    """The gradients of a micro-batch as one matrix, a row for each example; allocated once.

    Args:
        parameters: by name.

    Attributes:
        layout: name → its columns and the parameter's shape.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.layout: dict[str, tuple[slice, torch.Size]] = {}
        self._names: dict[int, str] = {}
        self._size = 0
        for name in sorted(parameters):
            self._names[id(parameters[name])] = name
            end = self._size + parameters[name].numel()
            self.layout[name] = slice(self._size, end), parameters[name].shape
            self._size = end
        self._matrix = torch.empty(0)
        self._rows = 0
        self._written: set[str] = set()

    def begin(self, rows: int) -> None:
        """Expect the gradients of so many rows."""
        self._rows = rows
        self._written = set()

    def write(self, parameter: torch.nn.Parameter, gradients: torch.Tensor) -> None:
        """Write the gradients of a parameter, or add them to those that another use of it in this pass gave."""
        name = self._names[id(parameter)]
        columns, shape = self.layout[name]
        if gradients.shape != (self._rows, *shape):
            raise GuaranteeError(f"{name} has a gradient of shape {tuple(gradients.shape)}")
        if len(self._matrix) < self._rows or self._matrix.device != gradients.device:
            self._matrix = torch.empty(self._rows, self._size, device=gradients.device)
        place = self._matrix[: self._rows, columns].view(gradients.shape)
        if name in self._written:
            place += gradients
        else:
            place.copy_(gradients)
            self._written.add(name)

    def complete(self) -> torch.Tensor:
        """The matrix, shape (rows, numbers).

        Raises:
            GuaranteeError: a parameter was not written.
        """
        for name in self.layout:
            if name not in self._written:
                raise GuaranteeError(f"{name} has no per-example gradient")
        return self._matrix[: self._rows]


def _taken(name: str, parameter: Any) -> torch.Tensor:
    """What Opacus' hooks left at a parameter."""
    gradients = parameter.grad_sample
    if not isinstance(gradients, torch.Tensor):
        raise GuaranteeError(f"{name} has no per-example gradient")
    parameter.grad_sample = None
    parameter.grad = None
    return gradients


def finite_rows(rows: torch.Tensor) -> torch.Tensor:
    """The same in float64; zero where one is not finite.

    Args:
        rows: as `PerExampleGradients.rows` gives them.
    """
    rows = rows.double()
    # Zero times infinity is NaN: rows that do not count are emptied, not scaled.
    rows[~rows.isfinite().all(dim=1)] = 0.0
    return rows
