"""In which precision a plan is trained: bfloat16 only where the device has it and this model bears it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from client.vault.training.errors import GuaranteeError
from client.vault.training.verification import verified_precision
from common.model import precision
from common.model.model import LoraModel
from common.model.precision import candidates, computing_in
from common.plan.plan import Plan
from common.tasks import make_task
from tests.conftest import MakePlan

CPU = torch.device("cpu")


@pytest.fixture
def in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    """This processor says that it multiplies bfloat16; those that do not emulate it."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: True)


def chosen(plan: Plan, model: LoraModel | None = None) -> torch.dtype:
    model = model or LoraModel(plan.base_folder(), plan)
    return verified_precision(model, make_task(plan.task, model.tokenizer), plan)


@pytest.mark.usefixtures("in_hardware")
def test_bfloat16_is_taken_where_the_device_multiplies_it(make_plan: MakePlan) -> None:
    assert chosen(make_plan()) == torch.bfloat16
    assert chosen(make_plan(training={"precision": "float32"})) == torch.float32


def test_without_hardware_it_is_taken_only_when_asked_for(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device: False)
    assert chosen(make_plan()) == torch.float32
    assert chosen(make_plan(training={"precision": "bfloat16"})) == torch.bfloat16


def ill_conditioned(plan: Plan) -> LoraModel:
    """A model that subtracts large, nearly equal numbers: in bfloat16 nothing but rounding is left of them."""
    model = LoraModel(plan.base_folder(), plan)
    head = model.peft.get_output_embeddings()
    plain = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        large = torch.full((hidden.shape[-1], hidden.shape[-1]), 1e3)
        identity = torch.eye(hidden.shape[-1])
        return plain((hidden @ (large + identity) - hidden @ large).to(hidden.dtype))

    head.forward = forward
    return model


@pytest.mark.usefixtures("in_hardware")
def test_a_model_that_bfloat16_would_train_wrongly_is_trained_in_float32(make_plan: MakePlan) -> None:
    plan = make_plan()
    assert chosen(plan, ill_conditioned(plan)) == torch.float32
    asked = make_plan(training={"precision": "bfloat16"})
    with pytest.raises(GuaranteeError, match="differs from a plain loop"):
        chosen(asked, ill_conditioned(asked))


def test_products_are_in_the_precision_and_double_sums_are_not_touched() -> None:
    ones, doubles = torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64)
    with computing_in(torch.bfloat16, CPU):
        assert (ones @ ones).dtype == torch.bfloat16
        assert (doubles @ doubles).dtype == torch.float64
    with computing_in(torch.float32, CPU):
        assert (ones @ ones).dtype == torch.float32
    assert candidates("float32", CPU) == (torch.float32,)


def test_plans_of_two_precisions_are_two_agreements(make_plan: MakePlan, tmp_path: Path) -> None:
    assert make_plan(training={"precision": "float32"}).digest() != make_plan().digest()
