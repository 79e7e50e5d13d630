"""Properties of every task on every type of base: gradients equal those of a loop, and one record moves little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from client.vault.training.micro_batches import micro_batches
from client.vault.training.per_example import PerExampleGradients
from client.vault.training.verification import verify_training
from common.adapter import adapter
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from common.results.evaluate import evaluate
from common.tasks import UnusableError, make_task
from server.run.result import load_result, merge_result
from server.run_directory.evaluation import read_evaluation
from simulations.entropy import SeededEntropy
from simulations.simulate import simulate
from tests.client.vaults import open_vault, write_organization
from tests.common.tasks.bases import PAIRS, randomized, record
from tests.common.tasks.conftest import MakeTaskPlan

HEADED = ("classification", "question-answering")
SECOND_BASES = {("classification", "decoder"), ("question-answering", "decoder")}
every_pair = pytest.mark.parametrize(("kind", "base"), PAIRS)


@every_pair
@pytest.mark.parametrize("method", ["ffa", "fedavg"])
def test_gradients_of_examples_are_those_of_a_loop(
    task_plan: MakeTaskPlan, kind: str, base: str, method: str
) -> None:
    plan = task_plan(kind, base, aggregation={"method": method})
    model = randomized(plan, 0.1, seed=0)
    task = make_task(plan.task, model.tokenizer)
    parameters = model.trained_parameters()
    assert any(name.startswith("head.") for name in parameters) == (
        kind in ("classification", "question-answering")
    )
    units = [task.encode(record(number)) for number in range(8)]
    assert all(units)
    compared = 0
    with PerExampleGradients(model.module, parameters) as gradients:
        hooked = [
            (batch, {name: each.clone() for name, each in gradients.of(task, batch).items()})
            for batch, _ in micro_batches(units, 256)
        ]
    for batch, each in hooked:
        together = task.losses(model.module, batch.examples, batch.length).tolist()
        for row, example in enumerate(batch.examples):
            loss = task.losses(model.module, [example], len(example))[0]
            assert together[row] == pytest.approx(loss.item(), abs=1e-5)
            expected = torch.autograd.grad(loss, list(parameters.values()))
            for (name, hook), wanted in zip(each.items(), expected, strict=True):
                assert float((hook[row] - wanted).norm()) <= 1e-5 * max(1e-2, float(wanted.norm())), name
                compared += 1
    assert compared >= 8 * len(parameters)


@every_pair
def test_training_is_verified_before_any_spend(task_plan: MakeTaskPlan, kind: str, base: str) -> None:
    plan = task_plan(kind, base)
    model = LoraModel(plan.model.base, plan)
    verify_training(model.module, model.trained_parameters(), make_task(plan.task, model.tokenizer), 1e-3)


@every_pair
def test_gradients_in_bfloat16_are_near_those_of_a_loop_in_float32(
    task_plan: MakeTaskPlan, kind: str, base: str
) -> None:
    plan = task_plan(kind, base)
    model = randomized(plan, 0.1, seed=0)
    task = make_task(plan.task, model.tokenizer)
    parameters = model.trained_parameters()
    units = [task.encode(record(number)) for number in range(4)]
    seen = []
    with PerExampleGradients(model.module, parameters, torch.bfloat16) as gradients:
        hooked = [
            (batch, {name: each.clone() for name, each in gradients.of(task, batch).items()})
            for batch, _ in micro_batches(units, 256)
        ]
    for batch, each in hooked:
        for row, example in enumerate(batch.examples):
            loss = task.losses(model.module, [example], len(example))[0]
            expected = torch.autograd.grad(loss, list(parameters.values()))
            wanted = torch.cat([gradient.flatten() for gradient in expected])
            got = torch.cat([hook[row].flatten().float() for hook in each.values()])
            seen.append(float((got - wanted).norm() / wanted.norm()))
    # A ReLU may take the other side, which is more than rounding: up to 0.12 with Opacus' hooks too.
    assert 1e-4 < max(seen) < 0.15
    # A head is computed in float32 whatever the layers below it are.
    assert all(hook.dtype == torch.float32 for name, hook in each.items() if name.startswith("head."))


def released(folder: Path, plan: Plan, records: list[dict[str, Any]], noise: int) -> adapter.Adapter:
    """The release of a vault with these records; a seed fixes samples and noise."""
    path = write_organization(folder, Path(plan.model.base))
    (folder / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    model = randomized(plan, 0.1, seed=0)
    # In a round that trains the head alone, only the head is sent.
    shapes = adapter.round_shapes(model.trained_shapes, head_only=plan.training.is_head_alone(1))
    every = model.adapter()
    start = adapter.to_bytes({name: every[name] for name in shapes})
    request = TrainRequest("test-run", 1, plan.canonical(), model.fingerprint, start)
    vault = open_vault(path, SeededEntropy(noise))
    return adapter.from_bytes(vault.train(request).update, shapes)


@pytest.mark.parametrize(
    ("head_rounds", "precision", "kind", "base"),
    [(0, "float32", *pair) for pair in PAIRS]
    # The tiny T5 is not trained in bfloat16: its gradients would be 12 % off.
    + [(0, "bfloat16", *pair) for pair in PAIRS if pair[1] != "both"]
    + [(1, "bfloat16", *pair) for pair in PAIRS if pair[0] in HEADED],
)
def test_one_record_moves_a_release_by_at_most_the_clipping_norm_over_the_batch(
    task_plan: MakeTaskPlan, tmp_path: Path, kind: str, base: str, precision: str, head_rounds: int
) -> None:
    clipping, batch = 0.01, 20
    plan = task_plan(
        kind,
        base,
        training={
            "rounds": 1,
            "local_steps": 1,
            "batch_size": batch,
            "learning_rate": 1.0,
            "optimizer": "sgd",
            "head_rounds": head_rounds,
            "precision": precision,
        },
        privacy={"epsilon": 8.0, "delta": 1e-3, "clipping_norm": clipping},
    )
    records = [record(number) for number in range(12)]
    moved = []
    for noise in range(4):
        fewer = released(tmp_path / f"fewer-{noise}", plan, records[:-1], noise)
        more = released(tmp_path / f"more-{noise}", plan, records, noise)
        distance = sum(float(np.square(more[name].astype(np.float64) - fewer[name]).sum()) for name in more) ** 0.5
        # The noise is the same, but it is rounded to float32 at another place.
        assert distance <= clipping / batch * (1 + 1e-3)
        moved.append(distance)
    # Drawn with q = 1/2, and with a gradient longer than the clipping norm: it moves all that it may, or nothing.
    assert max(moved) >= 0.99 * clipping / batch
    assert any(adapter.is_lora(name) for name in more) != bool(head_rounds)


BROKEN: list[dict[str, Any]] = [
    {},
    {"text": "", "messages": [], "context": "", "question": "", "label": "no"},
    {
        **record(1),
        "label": "never",
        "messages": [{"role": "user", "content": "a"}],
        "answers": ["nowhere"],
        "answer_starts": [0],
        "text": " ",
    },
    {**record(1), "label": True, "answers": "parcel", "messages": "hello", "question": None, "text": None},
    {
        **record(1),
        "label": 10**5000,
        "answers": [3],
        "messages": [{"role": "user", "content": "a"}],
        "text": ["a"],
    },
    {
        **record(1),
        "label": None,
        "answer_starts": [10**9],
        "messages": [{"role": "boss", "content": "a"}],
        "text": {},
    },
]


@every_pair
def test_a_broken_record_is_unusable(task_plan: MakeTaskPlan, tokenizer: Any, kind: str, base: str) -> None:
    task = make_task(task_plan(kind, base).task, tokenizer)
    for one in BROKEN:
        if kind == "seq2seq" and one.get("text") and isinstance(one["text"], str):
            continue
        with pytest.raises(UnusableError) as caught:
            task.encode(one)
        assert "nowhere" not in str(caught.value)
    assert task.encode(record(1))


# What is different on a task's second base, the tests of gradients cover.
ONE_BASE = [
    pytest.param(kind, base, marks=[pytest.mark.slow] * ((kind, base) in SECOND_BASES)) for kind, base in PAIRS
]


@pytest.mark.parametrize(("kind", "base"), ONE_BASE)
def test_from_a_simulation_to_a_merged_model(
    task_plan: MakeTaskPlan, tmp_path: Path, kind: str, base: str
) -> None:
    records = [record(number) for number in range(40)]
    public = tmp_path / "public.jsonl"
    public.write_text("".join(json.dumps(one) + "\n" for one in [*records[:12], {}]))
    plan = task_plan(kind, base, evaluation={"data": str(public), "every": 2}, training={"rounds": 3})
    run = tmp_path / "run"
    result = simulate(plan, {"a": records[:20], "b": records[20:]}, run)
    lines = result.directory.rounds()
    assert [bool(line.metrics) for line in lines] == [True, False, True, True]
    name, _ = plan.task.headline
    stored = read_evaluation(result.directory)
    assert (stored is not None) == (kind == "classification")
    page = (run / "privacy" / "report.html").read_text()
    assert ("Confusion matrix" in page) == ("Reliability" in page) == (kind == "classification")
    assert f"<td>{name}</td><td>{lines[0].metrics[name]:.4g}</td>" in page
    found = {}
    for path in (run, run / "adapter"):
        model, tokenizer, own = load_result(path)
        assert own is not None
        evaluation, groups = evaluate(model, tokenizer, own.task, public, by="label")
        found[path] = evaluation.metrics
        assert evaluation.classes == (stored.classes if stored else None)
        assert groups is not None
        assert groups.gap >= 0
        assert set(groups.metrics) == {"no", "yes", "perhaps"}
    merged = tmp_path / "merged"
    assert merge_result(run, merged) <= 1e-3
    model, tokenizer, own = load_result(merged)
    assert own is not None
    found[merged] = evaluate(model, tokenizer, own.task, public)[0].metrics
    for metrics in found.values():
        assert metrics[name] == pytest.approx(lines[-1].metrics[name], rel=1e-3, abs=1e-9)
        assert metrics["records"] == 12
    # The adapter folder is in PEFT's format, for use without Sotto.
    auto = {"seq2seq": AutoModelForSeq2SeqLM, "causal-lm": AutoModelForCausalLM, "chat": AutoModelForCausalLM}
    PeftModel.from_pretrained(auto.get(kind, AutoModel).from_pretrained(plan.model.base), str(run / "adapter"))
    assert (run / "adapter" / "head.safetensors").is_file() == (kind in HEADED)
