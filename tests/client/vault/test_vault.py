"""The vault: what it refuses, what it spends, and what leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.vault.training.entropy import Entropy, Keystream, SystemEntropy
from client.vault.vault import ModelLoader
from common.adapter import adapter
from common.errors import Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from simulations.entropy import SeededEntropy
from tests.client.vault.bench import Bench, MakeBench, Records, open_bench
from tests.conftest import MakePlan

RECORDS: Records = [{"text": f"Customer: where is parcel {n}?\nAgent: on its way to you."} for n in range(30)]


@pytest.fixture
def make_bench(tmp_path: Path, make_plan: MakePlan) -> MakeBench:
    """Benches of a test are vaults of one ledger, one after the other."""

    def make(
        records: Records = RECORDS,
        entropy: Entropy | None = None,
        policy: dict[str, Any] | None = None,
        load: ModelLoader | None = None,
        max_rank: int | None = None,
        **plan: Any,
    ) -> Bench:
        return open_bench(
            tmp_path / "ledger.db",
            make_plan(**plan),
            records,
            entropy=entropy or SystemEntropy(),
            policy=policy,
            vault={} if max_rank is None else {"max_rank": max_rank},
            load=load,
        )

    return make


def test_a_release_is_a_finite_update_of_the_plans_tensors(make_bench: MakeBench) -> None:
    bench = make_bench()
    update = bench.read(bench.vault.train(bench.request()).update)
    assert update.keys() == bench.model.trained_shapes.keys()
    assert all(".lora_B." in name for name in update)
    assert any(tensor.any() for tensor in update.values())


def test_the_run_is_charged_whole_before_the_first_round_ends(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.vault.train(bench.request())
    bench.vault.train(bench.request(2))
    (cost,) = bench.ledger.spent()
    epsilon, delta = cost.epsilon, cost.delta
    assert 7.9 < epsilon <= 8.0
    assert delta == 1e-3
    reserved = bench.ledger.find("test-run")
    assert reserved is not None
    assert reserved.mechanism.steps == 2 * 2
    assert reserved.mechanism.sample_rate == 8 / 40


def test_the_ledger_is_charged_before_any_gradient(make_bench: MakeBench) -> None:
    charged: list[int] = []

    class Watching:
        def stream(self, organization: str, run: str, round_number: int) -> Keystream:
            charged.append(len(bench.ledger.spent()))
            raise RuntimeError("value of a record: 4711")

    bench = make_bench(entropy=Watching())
    with pytest.raises(Refused) as caught:
        bench.vault.train(bench.request())
    assert charged == [1]
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert bench.ledger.settled_rounds("test-run") == []


def test_the_same_request_again_gets_the_stored_release(make_bench: MakeBench) -> None:
    bench = make_bench()
    first = bench.vault.train(bench.request())
    assert bench.vault.train(bench.request()) == first
    assert len(bench.ledger.spent()) == 1


def test_the_same_round_with_another_request_is_a_conflict(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.vault.train(bench.request())
    other = adapter.initial(bench.model.trained_shapes, 0)
    next(iter(other.values()))[0, 0] = 1.0
    changed = dataclasses.replace(bench.request(), adapter=adapter.to_bytes(other))
    with pytest.raises(Refused, match="round-conflict"):
        bench.vault.train(changed)


def test_an_attempt_that_failed_is_made_again_with_fresh_randomness_under_one_reservation(
    make_bench: MakeBench,
) -> None:
    keys: list[bytes] = []

    class FailsOnce:
        def stream(self, organization: str, run: str, round_number: int) -> Keystream:
            stream = SystemEntropy().stream(organization, run, round_number)
            keys.append(stream.uniforms(4).tobytes())
            if len(keys) == 1:
                raise MemoryError
            return stream

    bench = make_bench(entropy=FailsOnce())
    with pytest.raises(Refused, match="training-failed"):
        bench.vault.train(bench.request())
    bench.vault.train(bench.request())
    assert len(bench.ledger.spent()) == 1
    assert keys[0] != keys[1]


def test_every_round_and_every_run_has_other_noise(make_bench: MakeBench) -> None:
    bench = make_bench(records=[], policy={"max_epsilon": 100.0})
    updates = [
        bench.read(bench.vault.train(bench.request(number, run)).update) for run in "ab" for number in (1, 2)
    ]
    flat = [np.concatenate([update[name].ravel() for name in sorted(update)]) for update in updates]
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize("policy", [{"max_epsilon_per_run": 7.9}, {"max_epsilon": 7.0}, {"max_delta": 9e-4}])
def test_a_plan_beyond_the_policy_is_refused_and_costs_nothing(
    make_bench: MakeBench, policy: dict[str, float]
) -> None:
    bench = make_bench(policy=policy)
    with pytest.raises(Refused, match=r"policy|budget"):
        bench.vault.train(bench.request())
    assert bench.ledger.spent() == []


def test_a_third_run_beyond_the_lifetime_is_refused(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.vault.train(bench.request(run="one"))
    bench.vault.train(bench.request(run="two"))
    with pytest.raises(Refused, match="budget"):
        bench.vault.train(bench.request(run="three"))
    assert len(bench.ledger.spent()) == 2


def test_the_least_noise_of_the_policy_holds(make_bench: MakeBench) -> None:
    bench = make_bench(policy={"min_noise_multiplier": 5.0})
    bench.vault.train(bench.request())
    (mechanism,) = bench.vault.statement("test-run").mechanisms
    assert mechanism.noise_multiplier == 5.0
    assert bench.vault.statement("test-run").epsilon < 1


BAD = {
    "plan that is no JSON": {"plan": b"{"},
    "plan with spaces": {"plan": b"{ }"},
    "round zero": {"round": 0},
    "round after the last": {"round": 3},
    "empty run": {"run": ""},
    "long run": {"run": "x" * 81},
    "run with a newline": {"run": "a\nb"},
    "no adapter": {"adapter": b""},
    "adapter of another shape": {"adapter": adapter.to_bytes({"x": np.zeros((2, 2), np.float32)})},
    "another fingerprint": {"fingerprint": "0" * 64},
}


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


@pytest.mark.parametrize(
    "records",
    [
        [],
        RECORDS[:-1],
        [*RECORDS, {"text": "x" * 5000}],
        [*RECORDS, {"other": 1}],
        [*RECORDS, {"text": ""}],
        [*RECORDS, {"text": None}],
        [*RECORDS, {"text": "\ud800 broken"}],
    ],
    ids=["none", "one less", "very long", "no such field", "empty", "null", "surrogate"],
)
def test_what_leaves_has_the_same_shape_whatever_the_records_are(
    make_bench: MakeBench, records: list[dict[str, Any]]
) -> None:
    bench = make_bench(records=records, entropy=SeededEntropy(3))
    release = bench.vault.train(bench.request())
    reference = adapter.to_bytes(adapter.initial(bench.model.trained_shapes, 0))
    assert len(release.update) == len(reference)
    assert bench.vault.describe().public_size == 40
    statement = bench.vault.statement("test-run")
    assert statement.mechanisms[0].sample_rate == 8 / 40
    assert statement.mechanisms[0].steps == 4


def test_a_record_that_cannot_contribute_changes_nothing_but_the_draws(make_bench: MakeBench) -> None:
    """At q = 1 every record is drawn: a broken one more releases the very same bytes."""
    plan: dict[str, Any] = {"training": {"batch_size": 40, "rounds": 1, "local_steps": 1}}

    class SameNoise:
        def stream(self, organization: str, run: str, round_number: int) -> Keystream:
            stream = Keystream(bytes(32))

            class Aligned(Keystream):
                def __init__(self) -> None: ...

                def branch(self) -> Keystream:
                    return self

                def uniforms(self, count: int) -> Any:
                    return np.full(count, 0.5)

                def gaussians(self, count: int) -> Any:
                    return stream.gaussians(count)

            return Aligned()

    bench = make_bench(entropy=SameNoise(), policy={"max_epsilon": 100.0}, **plan)
    broken = make_bench(records=[*RECORDS, {"text": 7.5, "x": None}, {}], entropy=SameNoise(), **plan)
    assert {} not in RECORDS
    without = bench.vault.train(bench.request(run="without"))
    also = make_bench(records=[*RECORDS, {}], entropy=SameNoise(), policy={"max_epsilon": 100.0}, **plan)
    assert also.vault.train(also.request(run="with")).update == without.update
    assert broken is not None


def test_records_are_drawn_at_the_public_rate_not_the_true_one(make_bench: MakeBench) -> None:
    """Every uniform is 0.25: above the public rate 8 / 40, so nobody is drawn; below 8 / 30, the true rate."""

    class Quarter(Keystream):
        def uniforms(self, count: int) -> Any:
            return np.full(count, 0.25)

        def gaussians(self, count: int) -> Any:
            return Keystream(bytes(32)).gaussians(count)

    class Quarters:
        def stream(self, organization: str, run: str, round_number: int) -> Keystream:
            return Quarter(bytes(32))

    full = make_bench(entropy=Quarters())
    noised = full.vault.train(full.request(run="full"))
    empty = make_bench(entropy=Quarters(), records=[])
    assert empty.vault.train(empty.request(run="empty")).update == noised.update


def test_seeded_vaults_repeat_and_system_vaults_do_not(make_bench: MakeBench) -> None:
    policy = {"max_epsilon": 100.0}
    seeded = [make_bench(entropy=SeededEntropy(1), policy=policy) for _ in range(2)]
    first, second = (
        bench.vault.train(bench.request(run=run)).update for bench, run in zip(seeded, "ab", strict=True)
    )
    assert first == second
    system = make_bench(policy=policy)
    assert system.vault.train(system.request(run="c")).update != system.vault.train(system.request(run="d")).update


def test_optimizer_state_does_not_outlive_a_round(make_bench: MakeBench) -> None:
    """With AdamW, an old state would make the second round's update differ from a fresh vault's."""
    policy = {"max_epsilon": 100.0}
    plan = {"training": {"optimizer": "adamw", "local_steps": 3}}
    used = make_bench(entropy=SeededEntropy(1), policy=policy, **plan)
    used.vault.train(used.request(1, "a"))
    fresh = make_bench(entropy=SeededEntropy(1), policy=policy, **plan)
    assert used.vault.train(used.request(2, "a")).update == fresh.vault.train(fresh.request(2, "b")).update


def test_a_statement_exists_for_reserved_runs_only(make_bench: MakeBench) -> None:
    bench = make_bench()
    with pytest.raises(Refused, match="never reserved"):
        bench.vault.statement("test-run")
    bench.vault.train(bench.request())
    statement = bench.vault.statement("test-run")
    assert statement.lifetime.epsilon_spent == statement.epsilon
    assert statement.plan == bench.plan.digest()


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
    start = adapter.to_bytes(adapter.cut(adapter.initial(whole, 0), 1))
    update = bench.vault.train(dataclasses.replace(bench.request(), adapter=start)).update
    assert all(tensor.any() for name, tensor in adapter.from_bytes(update, own).items() if ".lora_B." in name)
    with pytest.raises(Refused, match=r"malformed-request: .*\d+ bytes of tensors were due"):
        bench.vault.train(bench.request(2))
    assert bench.ledger.settled_rounds("test-run") == [1]


def test_an_organization_of_too_small_a_rank_refuses_before_it_spends(make_bench: MakeBench) -> None:
    bench = make_bench(max_rank=2, load=LoraModel, lora={"rank": 3})
    with pytest.raises(Refused, match=r"policy: vault\.max_rank = 2: rank 2; all should train at lora\.rank = 3"):
        bench.vault.train(bench.request())
    assert bench.ledger.spent() == []
