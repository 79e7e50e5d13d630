"""The vault: what it spends, and what leaves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from client.vault.training.entropy import Keystream, SystemEntropy
from common.adapter import adapter
from common.errors import Refused
from simulations.entropy import SeededEntropy
from tests.client.vault.bench import RECORDS, MakeBench


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

                def bytes(self, size: int) -> bytes:
                    return stream.bytes(size)

            return Aligned()

    bench = make_bench(entropy=SameNoise(), policy={"max_epsilon": 100.0}, **plan)
    policy = {"max_epsilon": 100.0}
    broken = make_bench(
        records=[*RECORDS, {"text": 7.5, "x": None}, {}], entropy=SameNoise(), policy=policy, **plan
    )
    assert {} not in RECORDS
    without = bench.vault.train(bench.request(run="without"))
    also = make_bench(records=[*RECORDS, {}], entropy=SameNoise(), policy=policy, **plan)
    assert also.vault.train(also.request(run="with")).update == without.update
    assert broken is not None


def test_records_are_drawn_at_the_public_rate_not_the_true_one(make_bench: MakeBench) -> None:
    """Every uniform is 0.25: above the public rate 8 / 40, so nobody is drawn; below 8 / 30, the true rate."""

    class Quarter(Keystream):
        def uniforms(self, count: int) -> Any:
            return np.full(count, 0.25)

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
