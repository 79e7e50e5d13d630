"""The models of a vault: what stays loaded, and the rank at which they are trained."""

from __future__ import annotations

import dataclasses

import pytest

from common.adapter import adapter
from common.errors import Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from simulations.entropy import SeededEntropy
from tests.client.vault.bench import MakeBench
from tests.conftest import MakePlan


def loads(make_bench: MakeBench, plans: list[Plan]) -> list[int]:
    """The ranks of the models that a vault loads for some plans, one run of each."""
    loaded: list[int] = []

    def load(folder: str, plan: Plan) -> LoraModel:
        loaded.append(plan.lora.rank)
        return LoraModel(folder, plan)

    vault = make_bench(policy={"max_epsilon": 1000.0, "max_delta": 2e-2}, load=load).vault
    for name, plan in enumerate(plans):
        model = LoraModel(plan.model.base, plan)
        start = adapter.to_bytes(adapter.initial(model.trained_shapes, 0))
        for number in range(1, plan.training.rounds + 1):
            vault.train(TrainRequest(f"run-{name}", number, plan.canonical(), model.fingerprint, start))
    return loaded


def test_a_model_stays_loaded_for_the_next_round_and_the_next_run(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    other = make_plan(name="other", training={"learning_rate": 0.5}, privacy={"epsilon": 4.0})
    assert loads(make_bench, [make_plan(), make_plan(), other]) == [2]


def test_another_rank_loads_the_model_again_and_the_earlier_one_is_let_go(
    make_bench: MakeBench, make_plan: MakePlan
) -> None:
    plans = [make_plan(lora={"rank": rank}, training={"rounds": 1}) for rank in (2, 3, 3, 2)]
    assert loads(make_bench, plans) == [2, 3, 2]


def test_a_run_on_a_model_that_was_used_before_releases_what_a_fresh_vault_would(
    make_bench: MakeBench,
) -> None:
    policy = {"max_epsilon": 1000.0}
    used = make_bench(entropy=SeededEntropy(1), policy=policy)
    used.vault.train(used.request(run="earlier"))
    fresh = make_bench(entropy=SeededEntropy(1), policy=policy)
    assert used.vault.train(used.request(run="a")).update == fresh.vault.train(fresh.request(run="b")).update


def test_an_organization_of_a_smaller_rank_trains_and_releases_at_its_own(make_bench: MakeBench) -> None:
    bench = make_bench(
        max_rank=1, load=LoraModel, lora={"rank": 3, "min_rank": 1}, aggregation={"method": "stack"}
    )
    assert bench.vault.describe().max_rank == 1
    whole = bench.model.trained_shapes
    own = adapter.at_rank(whole, 1)
    start = adapter.to_bytes(adapter.truncate_rank(adapter.initial(whole, 0), 1))
    update = bench.vault.train(dataclasses.replace(bench.request(), adapter=start)).update
    assert all(tensor.any() for name, tensor in adapter.from_bytes(update, own).items() if ".lora_B." in name)
    with pytest.raises(Refused, match=r"malformed-request: .*\d+ bytes of tensors were expected"):
        bench.vault.train(bench.request(2))
    assert bench.ledger.settled_rounds("test-run") == [1]


def test_an_organization_of_too_small_a_rank_refuses_before_it_spends(make_bench: MakeBench) -> None:
    bench = make_bench(max_rank=2, load=LoraModel, lora={"rank": 3})
    with pytest.raises(Refused, match=r"policy: vault\.max_rank = 2: rank 2; all should train at lora\.rank = 3"):
        bench.vault.train(bench.request())
    assert bench.ledger.spent() == []
