"""A simulation whose unit is the user: on real roles of very different sizes; and the same users without
privacy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.vault.records.units import encode
from client.vault.training import dp_sgd
from common.adapter import adapter
from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from common.records import Record
from common.tasks import make_task
from simulations.entropy import SeededEntropy
from simulations.no_privacy import OpenTrainer
from simulations.simulate import SimulationResult, count_units, organizations_of, simulate, simulated_organization
from tests.conftest import MakePlan
from tests.reference import pld_epsilon

USER = {"unit": "user", "records_per_user": 4}


@pytest.fixture(scope="module")
def real_run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """Three organizations of speaking roles; a role has 1 to 287 speeches."""
    folder = tmp_path_factory.mktemp("roles")
    with (shared / "data" / "shakespeare" / "test.jsonl").open(encoding="utf-8") as file:
        (folder / "public.jsonl").write_text("".join(file.readlines()[::100]), encoding="utf-8")
    (folder / "plan.toml").write_text(
        f"""
        name = "roles"
        [model]
        base = "{shared / "models" / "stories260k"}"
        [task]
        template = "{{response}}"
        max_length = 48
        [training]
        rounds = 2
        local_steps = 2
        batch_size = 24
        learning_rate = 2.0
        optimizer = "sgd"
        [privacy]
        unit = "user"
        records_per_user = 4
        epsilon = 8.0
        delta = 1e-5
        [evaluation]
        data = "public.jsonl"
        [simulation]
        data = "{shared / "data" / "shakespeare" / "train.jsonl.gz"}"
        organizations = 3
        user_field = "user"
        """,
        encoding="utf-8",
    )
    plan = Plan.read(folder / "plan.toml")
    return simulate(plan, organizations_of(plan), folder / "run")


def test_on_real_data_users_are_kept_together_and_counted(real_run: SimulationResult) -> None:
    dealt = organizations_of(Plan.read(real_run.directory.path / "plan.toml"))
    users = {name: {record["user"] for record in own} for name, own in dealt.items()}
    assert [len(some) for some in users.values()] == [455, 455, 455]
    assert len(set.union(*users.values())) == 1365
    assert sum(len(own) for own in dealt.values()) == 25_046
    # To two digits: f"{455:.1e}" rounds the half to even.
    assert [item["public_size"] for item in real_run.report["organizations"]] == [460, 460, 460]


def test_on_real_data_the_report_is_about_users_and_confirmed_by_another_library(
    real_run: SimulationResult,
) -> None:
    for item in real_run.report["organizations"]:
        (mechanism,) = item["mechanisms"]
        assert item["unit"] == "user"
        assert (mechanism["sample_rate"], mechanism["steps"]) == (24 / 460, 4)
        sigma, steps = mechanism["noise_multiplier"], mechanism["steps"]
        confirmed = pld_epsilon(mechanism["sample_rate"], sigma, steps, item["delta"])
        assert confirmed <= item["epsilon"] <= 8.0
    assert "for one user with all their records there" in real_run.report["guarantee"]
    card = (real_run.directory.path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "| 1e-05 | user, add-remove |" in card
    assert "| expected batch of an organization | 24 users, at most 4 records of each |" in card


def test_on_real_data_the_rounds_improve_the_public_perplexity(real_run: SimulationResult) -> None:
    lines = [json.loads(line) for line in (real_run.directory.path / "rounds.jsonl").read_text().splitlines()]
    assert lines[2]["metrics"]["perplexity"] < lines[0]["metrics"]["perplexity"]
    assert len(lines[2]["organizations"]["answered"]) == 3


def records(sizes: dict[str, int]) -> list[Record]:
    return [{"who": who, "text": f"{who} writes letter {n}"} for who, size in sizes.items() for n in range(size)]


SIZES = {"ann": 9, "ben": 1, "cat": 30, "dan": 2, "eve": 4}


def test_a_simulated_organization_publishes_its_users(make_plan: MakePlan) -> None:
    plan = make_plan(privacy=USER, simulation={"user_field": "who"})
    own = records({f"user {number}": number % 7 + 1 for number in range(117)})
    made = simulated_organization("north", plan, count_units(plan, own))
    assert (made.data.unit, made.data.user_field, made.data.public_size) == ("user", "who", 120)


def test_a_plan_for_users_without_a_user_field_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(privacy=USER, simulation={"data": str(tmp_path / "r.jsonl")})
    with pytest.raises(InputError, match=r"simulation.user_field is missing"):
        organizations_of(plan)
    with pytest.raises(InputError, match=r"simulation.user_field is missing"):
        simulate(plan, {"north": records(SIZES), "south": records(SIZES)}, tmp_path / "run")


def test_an_organization_without_users_is_refused(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(privacy=USER, simulation={"user_field": "who"})
    with pytest.raises(InputError, match="south: has no user to train on"):
        simulate(plan, {"north": records(SIZES), "south": [{"text": "lost"}]}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_privacy_a_step_is_the_mean_over_each_users_chosen_records(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With q = 1 and a learning rate of 1, the update is minus the gradient of a plain loop."""
    training: dict[str, Any] = {
        "rounds": 1,
        "local_steps": 1,
        "batch_size": 5,
        "optimizer": "sgd",
        "learning_rate": 1.0,
        "precision": "float32",
    }
    plan = make_plan(privacy=USER, training=training, simulation={"user_field": "who"})
    model = LoraModel(plan.model.base, plan)
    organization = simulated_organization("north", plan, 5)
    task = make_task(plan.task, model.tokenizer)
    units = encode(records(SIZES), task, "who")
    assert [len(unit) for unit in units.units] == list(SIZES.values())
    chosen = []

    def choose(unit: Any, most: int | None, stream: Any) -> Any:
        chosen.append(dp_sgd.choose_examples(unit, most, stream))
        return chosen[-1]

    monkeypatch.setattr("simulations.no_privacy.choose_examples", choose)
    start = adapter.initial(model.trained_shapes, 0)
    request = TrainRequest("run", 1, plan.canonical(), model.fingerprint, adapter.to_bytes(start))
    trainer = OpenTrainer(organization, units, model, plan, SeededEntropy(1))
    update = adapter.from_bytes(trainer.train(request).update, model.trained_shapes)
    assert [len(unit) for unit in chosen] == [4, 1, 4, 2, 4]
    model.load(start)
    parameters = model.trained_parameters()
    expected = {name: np.zeros(tuple(tensor.shape)) for name, tensor in parameters.items()}
    for unit in chosen:
        for example in unit:
            loss = task.losses(model.module, [example], len(example))[0]
            for name, each in zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True):
                expected[name] -= each.double().numpy() / len(unit) / 5
    difference = math.sqrt(sum(float(((update[name] - expected[name]) ** 2).sum()) for name in expected))
    assert difference < 1e-4 * math.sqrt(sum(float((tensor**2).sum()) for tensor in expected.values()))


def test_without_privacy_the_same_users_are_trained_in_a_whole_run(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[list[int]] = []

    class Watched(OpenTrainer):
        def __init__(self, organization: Any, own: Any, *more: Any) -> None:
            held.append([len(unit) for unit in own.units])
            super().__init__(organization, own, *more)

    monkeypatch.setattr("simulations.simulate.OpenTrainer", Watched)
    plan = make_plan(privacy=USER, training={"batch_size": 3}, simulation={"user_field": "who", "noise_seed": 1})
    own = {"north": records(SIZES), "south": records({**SIZES, "fay": 3})}
    result = simulate(plan, own, tmp_path / "run", private=False)
    assert held == [[9, 1, 30, 2, 4], [9, 1, 30, 2, 4, 3]]
    assert result.report["epsilon"] is None
    assert any(tensor.any() for tensor in result.directory.latest_checkpoint()[1].values())
