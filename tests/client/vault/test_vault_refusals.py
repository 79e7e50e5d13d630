"""What the vault refuses before it spends anything."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from common.adapter import adapter
from common.errors import Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from tests.client.vault.bench import BAD, MakeBench
from tests.conftest import MakePlan


@pytest.mark.parametrize("policy", [{"max_epsilon_per_run": 7.9}, {"max_epsilon": 7.0}, {"max_delta": 9e-4}])
def test_a_plan_beyond_the_policy_is_refused_and_costs_nothing(
    make_bench: MakeBench, policy: dict[str, float]
) -> None:
    bench = make_bench(policy=policy)
    with pytest.raises(Refused, match=r"policy|budget"):
        bench.vault.train(bench.request())
    assert bench.ledger.spent() == []


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_is_refused_and_costs_nothing(make_bench: MakeBench, what: str) -> None:
    bench = make_bench()
    with pytest.raises(Refused) as caught:
        bench.vault.train(dataclasses.replace(bench.request(), **BAD[what]))
    assert caught.value.code in ("malformed-request", "model-differs")
    assert bench.ledger.spent() == []


def test_an_adapter_with_nan_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench()
    poisoned = adapter.initial(bench.model.trained_shapes, 0)
    next(iter(poisoned.values()))[0, 0] = np.nan
    with pytest.raises(Refused, match="not finite"):
        bench.vault.train(dataclasses.replace(bench.request(), adapter=adapter.to_bytes(poisoned)))
    assert bench.ledger.spent() == []


def test_a_model_that_is_not_listed_is_refused(make_bench: MakeBench, make_plan: MakePlan) -> None:
    bench = make_bench()
    with pytest.raises(Refused, match="model-not-allowed"):
        bench.vault.train(bench.request(plan=make_plan(model={"base": "../../etc"})))


def test_a_base_model_that_cannot_be_loaded_is_refused_without_a_word_of_this_machine(
    make_bench: MakeBench,
) -> None:
    def load(folder: str, plan: Plan) -> LoraModel:
        return LoraModel("/home/st-mary/secret-project/base", plan)

    bench = make_bench(load=load)
    with pytest.raises(Refused, match=r"policy: model\.base = .* cannot be used here with this plan") as caught:
        bench.vault.train(bench.request())
    assert "secret-project" not in str(caught.value)
    assert bench.ledger.spent() == []


def test_a_run_cannot_change_its_plan(make_bench: MakeBench, make_plan: MakePlan) -> None:
    bench = make_bench(policy={"max_epsilon": 100.0})
    bench.vault.train(bench.request())
    easier = make_plan(training={"learning_rate": 0.02})
    with pytest.raises(Refused, match="plan-changed"):
        bench.vault.train(bench.request(2, plan=easier))


def test_a_model_that_would_not_train_is_refused_before_any_spend(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training that goes past the live parameters must be found out although noise would hide it."""
    bench = make_bench()
    real = bench.model.trained_parameters()
    stale = {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in real.items()}
    monkeypatch.setattr(bench.model, "trained_parameters", lambda: stale)
    with pytest.raises(Refused, match="not-trainable"):
        bench.vault.train(bench.request())
    assert bench.ledger.spent() == []
