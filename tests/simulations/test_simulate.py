"""The main job end to end in one process: private records in, an adapter, a report and a merged model out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file as load_numpy
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter
from transformers import AutoModelForCausalLM, AutoTokenizer

from client.vault.ledger.ledger import Ledger
from common.adapter.adapter import to_bytes
from common.errors import InputError, SottoError
from common.plan.plan import Plan
from common.records import Record
from server.results.adapter_folder import load_result, merge
from server.run_directory.round_log import RoundLine
from server.tracking.observer import Observer
from simulations.simulate import SimulationResult, organizations_of, simulate
from tests.conftest import MakePlan
from tests.reference import pld_epsilon

WORDS = ["parcel", "account", "letter", "doctor", "window", "garden", "evening", "number"]


def records(count: int, seed: int) -> list[Record]:
    random = np.random.default_rng(seed)
    return [{"text": " ".join(random.choice(WORDS, 6))} for _ in range(count)]


@pytest.fixture
def private_records() -> dict[str, list[Record]]:
    return {"north": records(60, 1), "south": records(40, 2), "west": records(50, 3)}


@pytest.fixture
def public_file(tmp_path: Path) -> str:
    path = tmp_path / "public.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records(20, 9)), encoding="utf-8")
    return str(path)


MakeSimulated = Callable[..., Plan]


@pytest.fixture
def plan_of(make_plan: MakePlan, public_file: str) -> MakeSimulated:
    def make(**sections: Any) -> Plan:
        simulation = {"noise_seed": 5, **sections.pop("simulation", {})}
        return make_plan(evaluation={"data": public_file}, simulation=simulation, **sections)

    return make


def final_adapter(result: SimulationResult) -> dict[str, np.ndarray]:
    return result.directory.latest_checkpoint()[1]


class Stop(Observer):
    """Interrupts the run as Ctrl-C does: after some answers, in the middle of a round."""

    def __init__(self, answers: int) -> None:
        self.left = answers

    def answered(self, organization: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


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
    difference = merge(path, tmp_path / "merged")
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


def test_repeatable_noise_is_said_in_the_report(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    report = simulate(plan_of(), private_records, tmp_path / "run").report
    assert "noise repeatable from a seed" in report["organizations"][0]["boundary"]


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


def test_a_seeded_simulation_repeats_exactly(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    first, second = (simulate(plan_of(), private_records, tmp_path / name) for name in ("a", "b"))
    left, right = final_adapter(first), final_adapter(second)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    other = simulate(plan_of(simulation={"noise_seed": 6}), private_records, tmp_path / "c")
    assert any(not np.array_equal(left[name], final_adapter(other)[name]) for name in left)


def test_without_a_seed_two_simulations_differ(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    plan = plan_of(simulation={"noise_seed": None})
    left, right = (final_adapter(simulate(plan, private_records, tmp_path / name)) for name in ("a", "b"))
    assert any(not np.array_equal(left[name], right[name]) for name in left)


AGGREGATIONS: dict[str, dict[str, Any]] = {
    "ffa": {"method": "ffa"},
    "fedavg": {"method": "fedavg"},
    "fedavgm": {"server_optimizer": "fedavgm", "average": 0.9},
    "fedadam": {"method": "fedavg", "server_optimizer": "fedadam", "server_learning_rate": 0.01},
    "multi-krum": {"robust": "multi-krum", "byzantine": 1},
    "stack": {"method": "stack"},
}
# By how many answers a run is interrupted: in the first round, between the rounds, in the second one.
CUTS = [(1, "ffa"), (2, "fedavg"), (3, "ffa"), (5, "fedavg"), (5, "fedavgm"), (4, "fedadam"), (5, "stack")]


@pytest.fixture(scope="module")
def whole_runs() -> dict[str, SimulationResult]:
    """Runs that were not interrupted, by aggregation; filled by the tests."""
    return {}


@pytest.mark.parametrize(("answers", "aggregation"), CUTS)
def test_an_interrupted_run_resumes_to_the_same_adapter_at_the_same_cost(
    plan_of: MakeSimulated,
    private_records: dict[str, list[Record]],
    whole_runs: dict[str, SimulationResult],
    tmp_path: Path,
    answers: int,
    aggregation: str,
) -> None:
    plan = plan_of(aggregation=AGGREGATIONS[aggregation])
    if aggregation not in whole_runs:
        whole_runs[aggregation] = simulate(plan, private_records, tmp_path / "whole")
    whole = whole_runs[aggregation]
    with pytest.raises(KeyboardInterrupt):
        simulate(plan, private_records, tmp_path / "cut", observer=Stop(answers))
    resumed = simulate(plan, private_records, tmp_path / "cut", resume=True)
    left, right = final_adapter(whole), final_adapter(resumed)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    states = [result.directory.checkpoints.latest()[1] for result in (whole, resumed)]
    assert to_bytes(states[0].adapter) == to_bytes(states[1].adapter)
    assert to_bytes(states[0].momentum) == to_bytes(states[1].momentum)
    assert [line.round for line in resumed.directory.rounds()] == [0, 1, 2]
    for name in private_records:
        ledger = Ledger(tmp_path / "cut" / "organizations" / name / "ledger.db", name, "example")
        assert len(ledger.spent()) == 1
        assert ledger.settled_rounds(resumed.directory.info.run) == [1, 2]


def test_a_simulation_of_too_few_organizations_for_the_hostile_ones_is_refused(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="byzantine = 1: multi-krum then needs 5 organizations; the simulation has 3"
    ):
        simulate(plan_of(aggregation=AGGREGATIONS["multi-krum"]), private_records, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_average_is_evaluated_and_released_and_training_goes_on_from_the_last_adapter(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    plain = simulate(plan_of(training={"rounds": 3}), private_records, tmp_path / "plain")
    plan = plan_of(training={"rounds": 3}, aggregation={"average": 0.2})
    averaged = simulate(plan, private_records, tmp_path / "averaged")
    # The plan is another one, so that the noise is: what is compared is each run with its own checkpoints.
    mean = {
        name: tensor.astype(float) for name, tensor in averaged.directory.checkpoints.latest()[1].released.items()
    }
    wanted: dict[str, Any] = dict.fromkeys(mean, 0.0)
    for number, decay in enumerate((None, 2 / 11, 0.2, 0.2)):
        file = tmp_path / "averaged" / "checkpoints" / f"round-{number:04d}" / "adapter.safetensors"
        for name, tensor in load_numpy(file).items():
            wanted[name] = tensor if decay is None else decay * wanted[name] + (1 - decay) * tensor
    assert all(np.allclose(mean[name], wanted[name], rtol=1e-5, atol=1e-8) for name in mean)
    released = load_numpy(tmp_path / "averaged" / "adapter" / "adapter_model.safetensors")
    assert all(np.allclose(released[name], mean[name], atol=1e-7) for name in mean)
    state = plain.directory.checkpoints.latest()[1]
    assert state.released is state.adapter
    assert not (tmp_path / "plain" / "checkpoints" / "round-0003" / "optimizer.safetensors").exists()


def test_a_complete_run_resumed_does_nothing_more(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    first = simulate(plan_of(), private_records, tmp_path / "run")
    again = simulate(plan_of(), private_records, tmp_path / "run", resume=True)
    left, right = final_adapter(first), final_adapter(again)
    assert all(np.array_equal(left[name], right[name]) for name in left)
    assert len(again.directory.rounds()) == 3


def test_without_privacy_there_is_no_epsilon_and_no_ledger(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    result = simulate(plan_of(), private_records, tmp_path / "run", private=False)
    report = json.loads((tmp_path / "run" / "privacy" / "report.json").read_text())
    assert report["epsilon"] is None
    assert report["organizations"] == []
    assert not (tmp_path / "run" / "organizations").exists()
    assert "may reveal the records" in (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert math.isfinite(result.directory.rounds()[-1].metrics["perplexity"])
    with pytest.raises(InputError, match="without privacy"):
        simulate(plan_of(), private_records, tmp_path / "run", resume=True)


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("method", ["svd", "stack"])
def test_organizations_of_uneven_ranks_train_one_adapter(
    plan_of: MakeSimulated,
    private_records: dict[str, list[Record]],
    tmp_path: Path,
    method: str,
    private: bool,
) -> None:
    plan = plan_of(
        lora={"rank": 4, "min_rank": 1}, aggregation={"method": method}, simulation={"ranks": [1, 2, 4]}
    )
    result = simulate(plan, private_records, tmp_path / "run", private=private)
    for line in result.directory.rounds()[1:]:
        assert line.organizations["answered"] == ["north", "south", "west"]
    adapter = final_adapter(result)
    assert {tensor.shape[0] for name, tensor in adapter.items() if ".lora_A." in name} == {4}
    for name, tensor in adapter.items():
        if ".lora_B." in name:
            # No direction is without weight: west of rank 4 trained all of them.
            assert (np.linalg.norm(tensor, axis=0) > 0).all()
    config = json.loads((result.directory.path / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == 4
    if private:
        assert [item["name"] for item in result.report["organizations"]] == list(private_records)
        assert all(0 < item["epsilon"] <= 8.0 for item in result.report["organizations"])


def test_a_run_directory_is_not_overwritten_and_a_plan_not_changed(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    simulate(plan_of(), private_records, tmp_path / "run")
    before = (tmp_path / "run" / "rounds.jsonl").read_bytes()
    with pytest.raises(InputError, match="already holds the run test-"):
        simulate(plan_of(), private_records, tmp_path / "run")
    with pytest.raises(InputError, match="another plan"):
        simulate(plan_of(lora={"rank": 3}), private_records, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="holds no run"):
        simulate(plan_of(), private_records, tmp_path / "elsewhere", resume=True)
    assert (tmp_path / "run" / "rounds.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"training": {"batch_size": 41}}, "training.batch_size = 41"),
        ({"privacy": {"delta": 0.02}}, "privacy.delta = 0.02"),
        ({"federation": {"min_organizations": 4}}, "federation.min_organizations = 4"),
        ({"model": {"base": "nowhere/at-all"}}, "model.base = 'nowhere/at-all'"),
        ({"lora": {"target_modules": ["lm_head"]}}, "lora.target_modules"),
        ({"task": {"max_length": 65}}, "task.max_length = 65"),
        (
            {"simulation": {"ranks": [1, 2]}},
            "'north': vault.max_rank = 1: rank 1; all should train at lora.rank",
        ),
        (
            {"lora": {"min_rank": 2}, "aggregation": {"method": "svd"}, "simulation": {"ranks": [2, 1]}},
            "'south': vault.max_rank = 1: rank 1; it should be at least lora.min_rank = 2",
        ),
    ],
)
def test_a_plan_that_does_not_fit_leaves_nothing_behind(
    plan_of: MakeSimulated,
    private_records: dict[str, list[Record]],
    tmp_path: Path,
    sections: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(InputError) as caught:
        simulate(plan_of(**sections), private_records, tmp_path / "run")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_round_with_too_few_answers_ends_the_run_and_says_why(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    plan = plan_of()
    simulate(plan, private_records, tmp_path / "run")
    # A ledger that has answered a round for another request refuses: here all of them do.
    for number in (1, 2):
        folder = tmp_path / "run" / "checkpoints" / f"round-000{number}"
        (folder / "adapter.safetensors").unlink()
        (folder / "state.json").unlink()
        folder.rmdir()
    start = tmp_path / "run" / "checkpoints" / "round-0000" / "adapter.safetensors"
    changed = bytearray(start.read_bytes())
    changed[-4:] = np.float32(0.5).tobytes()
    start.write_bytes(bytes(changed))
    with pytest.raises(SottoError, match="round 1: 0 organizations answered, the plan needs 2") as caught:
        simulate(plan, private_records, tmp_path / "run", resume=True)
    assert "round-conflict" in str(caught.value)
    assert not isinstance(caught.value, InputError)


def test_progress_is_told_in_order(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    told: list[Any] = []

    class Teller(Observer):
        def started(self, organizations: Any, completed: int) -> None:
            told.append((sorted(organizations), completed))

        def answered(self, organization: str) -> None:
            told.append(organization)

        def finished(self, line: RoundLine) -> None:
            told.append(line.round)

    simulate(plan_of(), private_records, tmp_path / "run", observer=Teller())
    names = ["north", "south", "west"]
    assert told == [0, (names, 0), *names, 1, (names, 1), *names, 2]
