"""Simulations end to end in one process, on synthetic records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file as load_numpy

from common.errors import InputError, SottoError
from common.records import Record
from common.run.round_line import RoundLine
from server.tracking.observer import Observer
from simulations.simulate import simulate
from tests.simulations.runs import AGGREGATIONS, MakeSimulated, final_adapter


def test_repeatable_noise_is_stated_in_the_report(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    report = simulate(plan_of(), private_records, tmp_path / "run").report
    assert "noise repeatable from a seed" in report["organizations"][0]["boundary"]


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
    # The plans differ, and so does the noise: each run is compared with its own checkpoints.
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
def test_organizations_of_different_ranks_train_one_adapter(
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
            # Every direction has weight: west, at rank 4, trained all of them.
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


def test_a_round_with_too_few_answers_ends_the_run_with_the_reasons(
    plan_of: MakeSimulated, private_records: dict[str, list[Record]], tmp_path: Path
) -> None:
    plan = plan_of()
    simulate(plan, private_records, tmp_path / "run")
    # A ledger that answered the round for another request refuses: here all ledgers do.
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


def test_progress_is_reported_in_order(
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
