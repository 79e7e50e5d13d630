"""Per-example gradients are exact: those of each example by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from client.vault.training.micro_batches import MicroBatch, micro_batches
from client.vault.training.per_example import PerExampleGradients
from common.tasks import Example
from tests.client.vault.training.models import (
    ARCHITECTURES,
    TinyTask,
    examples,
    lora_model,
    norm,
    singles,
    sum_of,
    trained,
)


def plain_gradients(model: Any, task: TinyTask, example: Example) -> dict[str, torch.Tensor]:
    """The gradient of one example by itself, by autograd alone."""
    parameters = trained(model)
    loss = task.losses(model, [example], len(example))[0]
    gradients = torch.autograd.grad(loss, list(parameters.values())) if not _reentrant(model) else None
    if gradients is None:  # reentrant checkpointing works with backward() only
        loss.backward()
        gradients = tuple(parameter.grad.clone() for parameter in parameters.values())
        model.zero_grad()
    return dict(zip(parameters, gradients, strict=True))


def _reentrant(model: Any) -> bool:
    return bool(model.is_gradient_checkpointing)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_per_example_gradients_are_those_of_a_plain_loop(architecture: str, checkpointing: bool) -> None:
    model, task, batch = lora_model(architecture, checkpointing=checkpointing), TinyTask(architecture), examples(6)
    with PerExampleGradients(model, trained(model)) as gradients:
        each = gradients.of(task, MicroBatch(tuple(batch), 32, len(batch)))
    for row, example in enumerate(batch):
        for name, expected in plain_gradients(model, task, example).items():
            difference = float((each[name][row] - expected).norm() / expected.norm())
            assert difference < 1e-4, f"{name}: {difference}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_per_example_gradients_in_bfloat16_agree_within_its_precision(architecture: str) -> None:
    model, task, batch = lora_model(architecture, dtype=torch.bfloat16), TinyTask(architecture), examples(4)
    assert {parameter.dtype for parameter in trained(model).values()} == {torch.float32}
    with PerExampleGradients(model, trained(model)) as gradients:
        each = gradients.of(task, MicroBatch(tuple(batch), 32, len(batch)))
    for row, example in enumerate(batch):
        expected = plain_gradients(model, task, example)
        difference = norm({name: each[name][row] - expected[name] for name in expected}) / norm(expected)
        assert difference < 0.05


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_clipped_sum_equals_a_plain_loop(architecture: str) -> None:
    model, task, batch = lora_model(architecture), TinyTask(architecture), examples(7)
    bound = sorted(norm(plain_gradients(model, task, example)) for example in batch)[3]
    expected: dict[str, Any] = dict.fromkeys(trained(model), 0.0)
    clipped = 0
    for example in batch:
        gradient = plain_gradients(model, task, example)
        scale = min(1.0, bound / norm(gradient))
        clipped += scale < 1
        expected = {name: expected[name] + scale * gradient[name].double() for name in gradient}
    assert clipped == 3, "some gradients should be clipped and some not"
    total = sum_of(model, task, list(batch), bound)
    difference = norm({name: total[name] - expected[name] for name in expected})
    assert difference < 1e-4 * norm(expected)


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)],
    ids=["float32", "bfloat16", "bfloat16-products"],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gradient_is_the_same_whoever_its_companions_are(
    architecture: str, dtype: torch.dtype, precision: torch.dtype
) -> None:
    """Otherwise one record would move the others' gradients: in bfloat16 by a tenth of C, and unaccounted."""
    model, task = lora_model(architecture, dtype=dtype), TinyTask(architecture)
    one = examples(1, seed=5)[0]
    seen = []
    for seed, count in ((0, 0), (1, 3), (2, 25), (3, 60)):
        companions = examples(count, seed=seed)
        place = count // 2
        for batch, _ in micro_batches(singles([*companions[:place], one, *companions[place:]]), 256):
            if one in batch.examples:
                with PerExampleGradients(model, trained(model), precision) as gradients:
                    each = gradients.of(task, batch)
                row = batch.examples.index(one)
                seen.append(torch.cat([gradient[row].flatten() for gradient in each.values()]))
    assert len(seen) == 4
    # To the last bit; but on CPUs with AVX-512 and AMX the rounding of BERT follows the row in the batch.
    tolerance = 1e-6 if architecture == "bert" else 0.0
    assert max(float((seen[0] - other).norm()) for other in seen) <= tolerance * float(seen[0].norm())
