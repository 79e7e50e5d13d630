"""Proof, before anything is spent, that training would be what the accountant is told.

On made-up examples: the per-example gradients are those of a plain loop, none of them is zero, and a step
without noise changes the live parameters. Hooks that were registered on tensors that are not the live ones
train nothing while ε accrues, and the noise alone would hide it.
"""

from __future__ import annotations

import logging

import torch

from client.vault.training.artificial_adapters import fill_randomly, restored
from client.vault.training.errors import GuaranteeError
from client.vault.training.micro_batches import MicroBatch
from client.vault.training.per_example import Parameters, PerExampleGradients
from common.adapter.adapter import is_lora
from common.model.model import LoraModel
from common.model.precision import candidates
from common.plan.plan import Plan
from common.tasks import Example, Task, padded_length
from common.tasks.text import device_of

# Relative difference from a plain loop that the precision of the base model, or of the products, explains.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-1}
_EXAMPLES = 3

_log = logging.getLogger(__name__)


def verified_precision(model: LoraModel, task: Task, plan: Plan) -> torch.dtype:
    """The first precision that a plan allows, the device has, and `verify_training` lets pass.

    Raises:
        GuaranteeError: none passes; what the last one failed at.
    """
    *hoped, last = candidates(plan.training.precision, device_of(model.module))
    for precision in hoped:
        try:
            _verify_plan(model, task, plan, precision)
        except GuaranteeError as error:
            _log.info("%s is not exact enough for this model: %s", precision, error)
        else:
            return precision
    _verify_plan(model, task, plan, last)
    return last


def _verify_plan(model: LoraModel, task: Task, plan: Plan, precision: torch.dtype) -> None:
    tolerance = max(_TOLERANCE[precision], _TOLERANCE[getattr(torch, plan.model.dtype)])
    if plan.model.quantization == "8bit":
        # What a token is rounded to jumps where its float32 differs in the last bit.
        tolerance = max(tolerance, _TOLERANCE[torch.bfloat16])
    verify_training(model.module, model.trained_parameters(), task, tolerance, precision)


def verify_training(
    model: torch.nn.Module,
    parameters: Parameters,
    task: Task,
    tolerance: float,
    precision: torch.dtype = torch.float32,
) -> None:
    """Check a model, its trained parameters and a task together; the parameters are left as they were.

    Args:
        model: in training mode.
        parameters: the live tensors that training would change.
        task: makes up the examples.
        tolerance: relative L2 difference from the plain loop that rounding explains: about 1e-4 for a
            float32 base and 5e-2 for bfloat16.
        precision: of the matrix products; the loop's are as the base model's own.

    Raises:
        GuaranteeError: the first thing that is not as it should be.
    """
    live = {id(parameter) for parameter in parameters.values()}
    every = {name: tensor for name, tensor in model.named_parameters() if is_lora(name) or id(tensor) in live}
    examples = tuple(task.synthetic(_EXAMPLES))
    batch = MicroBatch(examples, max(padded_length(len(example)) for example in examples), _EXAMPLES)
    with restored(every):
        fill_randomly(every, 0.05, seed=0)
        with PerExampleGradients(model, parameters, precision) as gradients:
            hooked = gradients.of(task, batch)
        for row, example in enumerate(examples):
            for name, expected in _plain_gradient(model, parameters, task, example).items():
                _compare(name, hooked[name][row], expected, tolerance)
        _verify_step(model, parameters, task, batch)


def _plain_gradient(
    model: torch.nn.Module, parameters: Parameters, task: Task, example: Example
) -> dict[str, torch.Tensor]:
    loss = task.losses(model, [example], len(example))[0]
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {}
    for name, parameter in parameters.items():
        if parameter.grad is None:
            raise GuaranteeError(f"{name} does not take part in the loss")
        gradients[name] = parameter.grad
        parameter.grad = None
    return gradients


def _compare(name: str, hooked: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    norm = float(expected.norm())
    if not norm > 0:
        raise GuaranteeError(f"{name} has a zero gradient: it would train nothing")
    difference = float((hooked - expected).norm()) / norm
    if not difference <= tolerance:
        raise GuaranteeError(f"{name}: per-example gradient differs from a plain loop's by {difference:.2g}")


def _verify_step(model: torch.nn.Module, parameters: Parameters, task: Task, batch: MicroBatch) -> None:
    before = task.losses(model, batch.examples, batch.length).detach()
    with PerExampleGradients(model, parameters) as gradients:
        each = gradients.of(task, batch)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.sub_(0.1 * each[name].mean(0))
    if torch.equal(task.losses(model, batch.examples, batch.length).detach(), before):
        raise GuaranteeError("a step without noise does not change the model's losses")
