"""Bases with 4 and 8 bits per weight: trained with the same guarantee, merged, quantized."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from transformers import AutoModelForCausalLM

from client.vault.training.micro_batches import micro_batches
from client.vault.training.per_example import PerExampleGradients
from client.vault.training.verification import verified_precision
from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.results.evaluate import evaluate
from common.tasks import make_task
from server.run.result import load_result, merge_result, merge_result_quantized
from simulations.simulate import simulate
from tests.common.tasks.bases import record, save_base
from tests.common.tasks.conftest import MakeTaskPlan
from tests.conftest import Cli

every_kind = pytest.mark.parametrize(("kind", "base"), [("causal-lm", "decoder"), ("classification", "encoder")])
every_quantization = pytest.mark.parametrize("quantization", ["4bit", "8bit"])


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """In place of the narrow ones: a block of 4-bit weights is 64 of a row."""
    return {kind: save_base(kind, tmp_path_factory.mktemp(kind), 128) for kind in ("decoder", "encoder", "both")}


def quantized_plan(task_plan: MakeTaskPlan, kind: str, base: str, quantization: str, **more: Any) -> Plan:
    plan = task_plan(kind, base, **more)
    return plan.model_copy(update={"model": plan.model.model_copy(update={"quantization": quantization})})


@every_quantization
@every_kind
def test_gradients_are_those_of_a_loop_on_the_same_weights_whoever_the_companions_are(
    task_plan: MakeTaskPlan, kind: str, base: str, quantization: str
) -> None:
    plan = quantized_plan(task_plan, kind, base, quantization)
    model = LoraModel(plan.model.base, plan)
    stored = {str(tensor.dtype) for name, tensor in model.module.named_parameters() if "layers.0" in name}
    stored |= {str(tensor.dtype) for name, tensor in model.module.named_parameters() if "layer.0" in name}
    assert {"4bit": "torch.uint8", "8bit": "torch.int8"}[quantization] in stored
    assert model.fingerprint == LoraModel(plan.model.base, task_plan(kind, base)).fingerprint
    task = make_task(plan.task, model.tokenizer)
    parameters = model.trained_parameters()
    with torch.no_grad():
        for name, parameter in parameters.items():
            torch.manual_seed(len(name))
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    assert verified_precision(model, task, plan) in (torch.float32, torch.bfloat16)
    one = task.encode(record(3))[0]
    seen = []
    for numbers in ([], [1], [1, 5, 6, 8, 9, 11]):
        others = [task.encode(record(number)) for number in numbers]
        for batch, _ in micro_batches([*others[:1], (one,), *others[1:]], 256):
            if one in batch.examples:
                with PerExampleGradients(model.module, parameters) as gradients:
                    each = gradients.of(task, batch)
                row = batch.examples.index(one)
                seen.append(torch.cat([gradient[row].flatten() for gradient in each.values()]))
    loss = task.losses(model.module, [one], len(one))[0]
    expected = torch.autograd.grad(loss, list(parameters.values()))
    wanted = torch.cat([gradient.flatten() for gradient in expected])
    assert float((seen[0] - wanted).norm()) <= 1e-5 * float(wanted.norm())
    assert all(torch.equal(seen[0], other) for other in seen[1:])


def test_8_bits_take_no_column_out_for_what_other_examples_hold(task_plan: MakeTaskPlan) -> None:
    """bitsandbytes' threshold depends on all rows of a batch; on a GPU a record would change others' gradients."""
    plan = quantized_plan(task_plan, "causal-lm", "decoder", "8bit")
    model = LoraModel(plan.model.base, plan)
    layers = [layer for layer in model.module.modules() if isinstance(layer, bitsandbytes.nn.Linear8bitLt)]
    thresholds = {layer.state.threshold for layer in layers}
    assert thresholds == {0.0}


@every_quantization
@every_kind
def test_a_run_on_a_quantized_base_is_merged_into_the_published_weights_and_made_small(
    task_plan: MakeTaskPlan, tmp_path: Path, kind: str, base: str, quantization: str
) -> None:
    records = [record(number) for number in range(40)]
    public = tmp_path / "public.jsonl"
    public.write_text("".join(json.dumps(one) + "\n" for one in records[:12]))
    plan = quantized_plan(
        task_plan, kind, base, quantization, evaluation={"data": str(public)}, training={"rounds": 2}
    )
    run = tmp_path / "run"
    simulate(plan, {"a": records[:20], "b": records[20:]}, run)
    assert merge_result(run, tmp_path / "merged") <= 1e-3
    small = tmp_path / "small"
    saving = merge_result_quantized(run, small, quantization)  # type: ignore[arg-type]
    sizes = [
        sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for folder in (tmp_path / "merged", small)
    ]
    assert (saving.bytes_before, saving.bytes_after) == tuple(sizes)
    assert saving.bytes_after < saving.bytes_before
    for folder, said in ((tmp_path / "merged", saving.before), (small, saving.after)):
        model, tokenizer, own = load_result(folder)
        assert own is not None
        metrics = evaluate(model, tokenizer, own.task, public)[0].metrics
        assert metrics[plan.task.headline[0]] == pytest.approx(said, rel=1e-4)
    if kind == "causal-lm":
        loaded = AutoModelForCausalLM.from_pretrained(small)
        layer = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[quantization]
        assert any(isinstance(module, layer) for module in loaded.modules())
        assert loaded.config.quantization_config is not None


def test_bad_input_is_one_line(
    cli: Cli, task_plan: MakeTaskPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, errors = cli("merge", tmp_path, "--out", tmp_path / "x", "--data", "y.jsonl")
    assert (code, errors) == (
        2,
        "error: --data needs --quantize: a merge without it changes no prediction\n",
    )
    plan = quantized_plan(task_plan, "causal-lm", "decoder", "4bit")
    loaded = LoraModel(plan.model.base, plan)
    loaded.peft.unload().save_pretrained(tmp_path / "already")
    loaded.tokenizer.save_pretrained(tmp_path / "already")
    for asked in (None, "4bit"):
        again = plan.model_copy(update={"model": plan.model.model_copy(update={"quantization": asked})})
        with pytest.raises(InputError, match="quantized already; name the model that it was made from"):
            LoraModel(str(tmp_path / "already"), again)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find(name, *more)
    )
    with pytest.raises(InputError, match=r"locks/install.py .* quantization --no-project"):
        LoraModel(plan.model.base, plan)
