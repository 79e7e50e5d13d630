"""A simulation on real data: from private records to an adapter, a report and a merged model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.plan.plan import Plan
from server.run.result import load_result, merge_result
from simulations.simulate import SimulationResult, organizations_of, simulate
from tests.reference import pld_epsilon


@pytest.fixture(scope="module")
def real_run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """Three rounds of a real tiny Llama on real instructions of three natural clients."""
    folder = tmp_path_factory.mktemp("real")
    with (shared / "data" / "dolly" / "test.jsonl").open(encoding="utf-8") as file:
        (folder / "public.jsonl").write_text("".join(file.readlines()[:60]), encoding="utf-8")
    (folder / "plan.toml").write_text(
        f"""
        name = "dolly"
        [model]
        base = "{shared / "models" / "stories260k"}"
        [task]
        template = "{{prompt}} {{response}}"
        max_length = 64
        [training]
        rounds = 3
        local_steps = 2
        batch_size = 32
        learning_rate = 1.0
        optimizer = "sgd"
        [privacy]
        epsilon = 8.0
        delta = 1e-5
        [evaluation]
        data = "public.jsonl"
        prompts = ["What is a city?"]
        [simulation]
        data = "{shared / "data" / "dolly" / "train.jsonl.gz"}"
        partition = "field"
        field = "client"
        """,
        encoding="utf-8",
    )
    plan = Plan.read(folder / "plan.toml")
    clients = organizations_of(plan)
    assert len(clients) == 10
    chosen = {name: clients[name] for name in CLIENTS}
    return simulate(plan, chosen, folder / "run")


CLIENTS = ["organization-0", "organization-3", "organization-7"]


def test_on_real_data_the_run_directory_is_as_the_readme_shows(real_run: SimulationResult) -> None:
    path = real_run.directory.path
    present = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    expected = {"plan.toml", "run.json", "rounds.jsonl", "privacy/report.json", "adapter/README.md"}
    expected |= {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    expected |= {f"checkpoints/round-000{number}/adapter.safetensors" for number in range(4)}
    expected |= {f"organizations/{name}/ledger.db" for name in CLIENTS}
    expected |= {f"privacy/statements/{name}.json" for name in CLIENTS}
    assert expected <= present
    assert any(name.startswith("tensorboard/") for name in present)
    assert not [name for name in present if name.endswith(".part")]


def test_on_real_data_the_rounds_improve_the_public_perplexity(real_run: SimulationResult) -> None:
    lines = [json.loads(line) for line in (real_run.directory.path / "rounds.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    assert lines[3]["metrics"]["perplexity"] < lines[0]["metrics"]["perplexity"]
    assert lines[3]["organizations"]["answered"] == CLIENTS
    assert lines[1]["bytes_up"] > 0


def test_every_epsilon_of_the_report_is_confirmed_by_another_library(real_run: SimulationResult) -> None:
    report = json.loads((real_run.directory.path / "privacy" / "report.json").read_text())
    assert [item["name"] for item in report["organizations"]] == CLIENTS
    for item in report["organizations"]:
        (mechanism,) = item["mechanisms"]
        assert mechanism["steps"] == 6
        assert mechanism["sample_rate"] == 32 / item["public_size"]
        sigma, steps = mechanism["noise_multiplier"], mechanism["steps"]
        confirmed = pld_epsilon(mechanism["sample_rate"], sigma, steps, item["delta"])
        assert confirmed <= item["epsilon"] <= 8.0
        assert item["epsilon"] < confirmed + 0.01


def test_the_adapter_loads_with_peft_and_the_merged_model_with_transformers(
    real_run: SimulationResult, tmp_path: Path
) -> None:
    path = real_run.directory.path
    difference = merge_result(path, tmp_path / "merged")
    assert difference < 1e-4
    base = AutoModelForCausalLM.from_pretrained(real_run.directory.info.base)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = torch.tensor([tokenizer("Once upon a time there was a city")["input_ids"]])
    with torch.inference_mode():
        plain = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, str(path / "adapter")).eval()(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    assert float((adapted - merged).abs().max()) < 1e-4
    assert float((adapted - plain).abs().max()) > 1e-2, "the adapter should do something"
    trained_model, _, plan = load_result(tmp_path / "merged")
    assert plan is not None
    assert plan.digest() == real_run.directory.info.digest
    assert trained_model.config.hidden_size == base.config.hidden_size


def test_the_model_card_states_the_cost(real_run: SimulationResult) -> None:
    card = (real_run.directory.path / "adapter" / "README.md").read_text(encoding="utf-8")
    report = real_run.report
    for item in report["organizations"]:
        assert f"| {item['name']} | {item['epsilon']:.2f} | 1e-05 | example, add-remove |" in card
        assert f"σ = {item['mechanisms'][0]['noise_multiplier']:g}" in card
    assert report["guarantee"] in card


def test_a_simulation_does_not_pass_for_protection(real_run: SimulationResult) -> None:
    assert "in one process, which protects nobody" in real_run.report["guarantee"]
    assert {item["boundary"] for item in real_run.report["organizations"]} == {"simulation: one process"}


def test_tensorboard_files_hold_the_rounds(real_run: SimulationResult) -> None:
    (file,) = (real_run.directory.path / "tensorboard").iterdir()
    seen: dict[str, list[int]] = {}
    data, place = file.read_bytes(), 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + length])
        place += 12 + length + 4
        for value in event.summary.value:
            seen.setdefault(value.tag, []).append(event.step)
    assert seen["public/perplexity"] == [0, 1, 2, 3]
    assert RecordWriter is not None
