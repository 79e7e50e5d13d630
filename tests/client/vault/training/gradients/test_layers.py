"""The layers' own backward functions: against Opacus' hooks and plain autograd, on layers used in unusual ways."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from client.vault.training import per_example
from client.vault.training.errors import GuaranteeError
from client.vault.training.micro_batches import MicroBatch
from client.vault.training.per_example import PerExampleGradients
from tests.client.vault.training.models import TinyTask, examples, lora_model, trained

WIDTH = 12


class Net(torch.nn.Module):
    """Layers side by side, one of them used twice, and a head with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(WIDTH, WIDTH)
        self.second = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = torch.nn.Linear(WIDTH, 3)
        self.uses_head = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.first(x))
        y = torch.tanh(self.second(y) + self.first(y) * x)
        return self.head(y) if self.uses_head else y


class Sum:
    """A loss that weighs all outputs; an example's tokens are the seed of its input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.outside: torch.Tensor | None = None

    def losses(self, model: Any, batch: Any, _: int) -> torch.Tensor:
        inputs = [
            torch.randn(*self.shape, WIDTH, generator=torch.Generator().manual_seed(example.input_ids[0]))
            for example in batch
        ]
        losses = model(torch.stack(inputs)).float().square().flatten(1).sum(1)
        return losses if self.outside is None else losses + self.outside.sum()


def net(*, head: bool = True, frozen: str = "") -> Any:
    """LoRA on `first` and `second`, and a trained head; what has `frozen` in its name is not trained."""
    torch.manual_seed(0)
    model = get_peft_model(Net(), LoraConfig(r=4, lora_alpha=6, target_modules=["first", "second"]))
    for name, parameter in model.named_parameters():
        wanted = ".lora_" in name or (head and "head" in name)
        parameter.requires_grad_(wanted and not (frozen and frozen in name))
        if ".lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    return model.train()


def rows(model: Any, task: Any, count: int = 5, precision: torch.dtype = torch.float32) -> torch.Tensor:
    batch = MicroBatch(tuple(examples(count)), 32, count + 2)  # two rows are filled up
    with PerExampleGradients(model, trained(model), precision) as gradients:
        return gradients.rows(task, batch).clone()


def loop(model: Any, task: Any, count: int = 5) -> torch.Tensor:
    parameters = trained(model)
    every = []
    for example in examples(count):
        loss = task.losses(model, [example], 32)[0]
        grads = torch.autograd.grad(loss, [parameters[name] for name in sorted(parameters)])
        every.append(torch.cat([grad.flatten() for grad in grads]))
    return torch.stack(every)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)], ids=["vectors", "tokens", "grids"])
@pytest.mark.parametrize("frozen", ["", "lora_A", "lora_B", "bias", "second"])
def test_gradients_are_those_of_autograd_for_any_shape_and_any_trained_part(
    shape: tuple[int, ...], frozen: str
) -> None:
    model, task = net(frozen=frozen), Sum(shape)
    assert distance(rows(model, task), loop(model, task)) < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "bert", "distilbert"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_opacus(
    architecture: str, precision: torch.dtype, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = lora_model(architecture, dtype=dtype), TinyTask(architecture)
    own = rows(model, task, precision=precision)
    monkeypatch.setattr(per_example, "rewritten", lambda *_: ([], set()))
    opacus = rows(model, task, precision=precision)
    if dtype == precision == torch.float32:
        assert distance(own, opacus) < 1e-5
        return
    exact = loop(lora_model(architecture), task)
    # Of each example: one whose ReLU is near its corner may take the other side in a number of 8 bits.
    errors = [[distance(found, row) for found, row in zip(rows_, exact, strict=True)] for rows_ in (own, opacus)]
    assert statistics.median(errors[0]) < 1.2 * statistics.median(errors[1]) + 0.001


def test_no_ordinary_gradient_is_computed_and_the_layers_are_left_as_they_were() -> None:
    model, task = net(), Sum((7,))
    before = {name: module.forward for name, module in model.named_modules()}
    batch = MicroBatch(tuple(examples(3)), 32, 3)
    with PerExampleGradients(model, trained(model)) as gradients:
        assert [name for name, module in model.named_modules() if module.forward != before[name]]
        gradients.rows(task, batch)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.forward == before[name] for name, module in model.named_modules())
    assert not hasattr(model, "autograd_grad_sample_hooks")


def test_a_kind_of_layer_that_is_not_known_leaves_all_to_opacus() -> None:
    model, task = net(), Sum((7,))
    model.base_model.model.head = torch.nn.Sequential(torch.nn.LayerNorm(WIDTH), model.base_model.model.head)
    parameters = trained(model)
    with PerExampleGradients(model, parameters) as gradients:
        found = gradients.rows(task, MicroBatch(tuple(examples(5)), 32, 5)).clone()
        assert hasattr(model, "autograd_grad_sample_hooks")
    assert distance(found, loop(model, task)) < 1e-5


def test_a_parameter_that_is_also_used_outside_its_layer_is_refused() -> None:
    model, task = net(), Sum((7,))
    task.outside = model.base_model.model.head.weight
    with pytest.raises(GuaranteeError, match="outside of its layer"):
        rows(model, task)


def test_a_parameter_that_a_loss_does_not_reach_is_refused() -> None:
    model = net()
    model.base_model.model.uses_head = False
    with pytest.raises(GuaranteeError, match="no per-example gradient"):
        rows(model, Sum((7,)))


def test_a_layer_whose_forward_was_replaced_before_is_left_to_opacus() -> None:
    model, task = net(), Sum((7,))
    head = model.base_model.model.head
    replaced = type(head).forward.__get__(head)
    head.forward = replaced
    assert distance(rows(model, task), loop(model, task)) < 1e-5
    assert head.forward is replaced


def test_an_input_without_a_row_for_each_example_is_refused() -> None:
    class Folded(Sum):
        def losses(self, model: Any, batch: Any, _: int) -> torch.Tensor:
            return model(torch.randn(2 * len(batch), WIDTH)).square().sum(1).view(len(batch), 2).sum(1)

    with pytest.raises(GuaranteeError, match="gradient of shape"):
        rows(net(), Folded(()))
