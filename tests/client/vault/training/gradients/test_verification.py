"""Condition 14 of the guarantee: before any spend, training is shown to train what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from client.vault.training import per_example
from client.vault.training.errors import GuaranteeError
from client.vault.training.verification import verify_training
from tests.client.vault.training.models import ARCHITECTURES, TinyTask, lora_model, trained


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sound_model_passes_and_is_left_as_it_was(architecture: str) -> None:
    model = lora_model(architecture)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    verify_training(model, trained(model), TinyTask(architecture), 1e-3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    assert not hasattr(model, "autograd_grad_sample_hooks")


def test_parameters_that_are_not_the_live_ones_are_noticed() -> None:
    model = lora_model("llama")
    stale = {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in trained(model).items()}
    with pytest.raises(GuaranteeError, match="not the same tensors"):
        verify_training(model, stale, TinyTask("llama"), 1e-3)


def test_a_layer_that_the_loss_does_not_reach_is_noticed() -> None:
    model = lora_model("llama")

    class FirstLayerOnly(TinyTask):
        def losses(self, model: Any, batch: Any, length: int) -> torch.Tensor:
            ids = torch.tensor([[*example.input_ids[:2]] for example in batch])
            base = model.base_model.model.model
            hidden = base.layers[0].self_attn.q_proj(base.embed_tokens(ids))
            return hidden.square().mean((1, 2))

    with pytest.raises((GuaranteeError, AttributeError)):
        verify_training(model, trained(model), FirstLayerOnly("llama"), 1e-3)


def test_a_loss_that_couples_examples_is_noticed() -> None:
    class ShareOfBatch(TinyTask):
        def losses(self, model: Any, batch: Any, length: int) -> torch.Tensor:
            return super().losses(model, batch, length) / len(batch)

    model = lora_model("llama")
    with pytest.raises(GuaranteeError, match="differs from a plain loop"):
        verify_training(model, trained(model), ShareOfBatch("llama"), 1e-3)


def test_non_reentrant_checkpointing_is_exact_or_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora_model("llama")
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    verify_training(model, trained(model), TinyTask("llama"), 1e-3)
    monkeypatch.setattr(per_example, "rewritten", lambda *_: ([], set()))
    with pytest.raises((GuaranteeError, ValueError)):  # by Opacus' hooks
        verify_training(model, trained(model), TinyTask("llama"), 1e-3)


def test_a_hook_that_scales_gradients_is_noticed() -> None:
    model = lora_model("llama")
    name, parameter = next(iter(trained(model).items()))
    parameter.register_hook(lambda gradient: None if gradient is None else 2 * gradient)
    with pytest.raises(GuaranteeError, match="differs from a plain loop"):
        verify_training(model, trained(model), TinyTask("llama"), 1e-3)
    assert name
