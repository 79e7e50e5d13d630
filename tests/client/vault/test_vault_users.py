"""A vault of users: their number, and how many records each has, show in nothing that leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.start import record_summary
from client.vault.training.entropy import Entropy, Keystream
from common.errors import InputError, Refused
from common.privacy.accounting import epsilon
from common.report.report import guarantee
from common.settings import validate
from tests.client.vault.bench import Bench, MakeBench, Records, open_bench
from tests.conftest import MakePlan

# Users of 1 to 5 records, 30 of them, in turns.
RECORDS: Records = [
    {"patient": f"p{user}", "text": f"Customer: where is parcel {user} of {turn}?"}
    for turn in range(5)
    for user in range(30)
    if user % 5 >= turn
]
USER = {"unit": "user", "records_per_user": 3}


def texts(user: Any, count: int) -> Records:
    return [{"patient": user, "text": f"letter {number} for the doctor"} for number in range(count)]


@pytest.fixture
def make_bench(tmp_path: Path, make_plan: MakePlan) -> MakeBench:
    number = iter(range(100))

    def make(records: Records = RECORDS, entropy: Entropy | None = None, unit: str = "user", **plan: Any) -> Bench:
        data = {"unit": "user", "user_field": "patient"} if unit == "user" else {"unit": unit}
        made = make_plan(**{"privacy": USER, **plan})
        return open_bench(tmp_path / f"ledger-{next(number)}.db", made, records, entropy=entropy, data=data)

    return make


OTHERS = {
    "a user less": [record for record in RECORDS if record["patient"] != "p4"],
    "a user of one record more": [*RECORDS, *texts("new", 1)],
    "a user of 200 records more": [*RECORDS, *texts("new", 200)],
    "a user of 200 records before the others": [*texts("new", 200), *RECORDS],
    "a user of broken records more": [*RECORDS, {"patient": "new"}, {"patient": "new", "text": None}],
    "records without a user": [*RECORDS, {"text": "lost"}, {"patient": None, "text": "lost"}],
    "no user": [{"text": "lost"}],
    "nothing": [],
}


@pytest.mark.parametrize("records", OTHERS.values(), ids=list(OTHERS))
def test_what_leaves_has_the_same_size_and_the_same_numbers_whoever_the_users_are(
    make_bench: MakeBench, records: Records
) -> None:
    usual, bench = make_bench(), make_bench(records)
    assert len(bench.vault.train(bench.request()).update) == len(usual.vault.train(usual.request()).update)
    assert bench.vault.describe() == usual.vault.describe()
    statement, expected = bench.vault.statement("test-run"), usual.vault.statement("test-run")
    assert dataclasses.replace(statement, head=expected.head) == expected
    (mechanism,) = statement.mechanisms
    assert (mechanism.sample_rate, mechanism.steps, statement.public_size) == (8 / 40, 4, 40)


@pytest.mark.parametrize("records", OTHERS.values(), ids=list(OTHERS))
@pytest.mark.parametrize(
    "plan",
    [
        {"privacy": {**USER, "epsilon": 8.5}},
        {"training": {"batch_size": 41}},
        {"training": {"batch_size": 33}, "privacy": {**USER, "delta": 0.026}},
        {"privacy": {"unit": "example"}},
    ],
    ids=["epsilon", "batch", "delta", "unit"],
)
def test_a_refusal_is_the_same_whoever_the_users_are(
    make_bench: MakeBench, make_plan: MakePlan, records: Records, plan: dict[str, Any]
) -> None:
    asked = make_plan(**{"privacy": USER, **plan})
    said = []
    for bench in (make_bench(), make_bench(records)):
        with pytest.raises(Refused) as caught:
            bench.vault.train(bench.request(plan=asked))
        said.append(str(caught.value))
        assert bench.ledger.spent() == []
    assert said[0] == said[1]
    assert said[0].startswith("policy: ")


def test_an_organization_of_records_refuses_a_plan_for_users(make_bench: MakeBench) -> None:
    bench = make_bench(unit="example")
    with pytest.raises(Refused, match=r"privacy.unit = 'user'; the organization's unit is 'example', for ever"):
        bench.vault.train(bench.request())
    assert bench.ledger.spent() == []


def test_a_ledger_of_records_never_serves_users(make_bench: MakeBench, tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.db", "st-mary", "example").close()
    with pytest.raises(InputError, match="unit = 'example'; it should be 'user'"):
        Ledger(tmp_path / "ledger.db", "st-mary", "user")


@pytest.mark.parametrize("count", [1, 2, 200])
def test_a_user_more_moves_the_release_by_at_most_one_clipped_gradient(make_bench: MakeBench, count: int) -> None:
    """One step at q = 1 and a learning rate of 1: the update is minus the noised sum over the public batch."""
    training = {"rounds": 1, "local_steps": 1, "batch_size": 40, "optimizer": "sgd", "learning_rate": 1.0}
    plan: dict[str, Any] = {"training": training, "privacy": {**USER, "clipping_norm": 0.01, "delta": 4e-3}}
    more = make_bench([*RECORDS, *texts("new", count)], **plan).update()
    moved = np.linalg.norm(more - make_bench(**plan).update())
    assert 0.9 * 0.01 / 40 < moved <= 0.01 / 40 * (1 + 1e-3)  # the release is rounded to float32


def test_a_step_uses_as_many_records_of_a_user_as_the_plan_says(make_bench: MakeBench) -> None:
    """Users have 1 to 5 records: with 5 or more all are used, so that nothing is left to choose."""
    training = {"rounds": 1, "local_steps": 1, "batch_size": 40}
    one, four, five, many = (
        make_bench(training=training, privacy={**USER, "delta": 4e-3, "records_per_user": number}).update()
        for number in (1, 4, 5, 10**9)
    )
    assert np.array_equal(five, many)
    assert not np.array_equal(four, five)
    assert not np.array_equal(one, four)


def test_records_that_belong_to_nobody_change_nothing(make_bench: MakeBench) -> None:
    lost: Records = [{"text": "lost"}, {"patient": "", "text": "lost"}, {"patient": 2.5, "text": "lost"}]
    plain = make_bench().update()
    assert np.array_equal(make_bench([*lost, *RECORDS, *lost]).update(), plain)
    assert not np.array_equal(make_bench([*texts("new", 1), *RECORDS]).update(), plain)


def test_a_user_whose_records_are_all_broken_changes_nothing_as_the_last_one(make_bench: MakeBench) -> None:
    broken: Records = [{"patient": "new"}, {"patient": "new", "text": ""}]
    assert np.array_equal(make_bench([*RECORDS, *broken]).update(), make_bench().update())


@pytest.mark.parametrize("uniform", [0.19, 0.25])
def test_users_are_drawn_at_the_public_rate_not_the_true_one(make_bench: MakeBench, uniform: float) -> None:
    """The public rate is 8 / 40 = 0.2; of the 30 users it would be 0.27, of the 90 records 0.09."""

    class Constant(Keystream):
        def uniforms(self, count: int) -> Any:
            return np.full(count, uniform)

    class Same:
        def stream(self, organization: str, run: str, round_number: int) -> Keystream:
            return Constant(bytes(32))

    noised, empty = make_bench(entropy=Same()).update(), make_bench([], entropy=Same()).update()
    assert np.array_equal(noised, empty) == (uniform > 8 / 40)


def test_a_run_for_users_costs_what_one_for_as_many_records_costs(make_bench: MakeBench) -> None:
    users, records = make_bench(), make_bench(unit="example", privacy={})
    for bench in (users, records):
        bench.vault.train(bench.request())
    left, right = (bench.vault.statement("test-run") for bench in (users, records))
    assert (left.unit, right.unit) == ("user", "example")
    assert left.mechanisms == right.mechanisms
    assert left.epsilon == right.epsilon == epsilon(left.mechanisms[0], 1e-3)
    assert "for one user with all their records there" in guarantee([left])
    assert "for one example]" in guarantee([right])


def test_the_operator_is_told_of_users_and_of_a_field_that_no_record_has(make_bench: MakeBench) -> None:
    def held(field: str | None) -> str:
        data = {"train": "r.jsonl", "public_size": 40, "unit": "user" if field else "example", "user_field": field}
        policy = {"max_epsilon": 20.0, "max_epsilon_per_run": 8.0, "max_delta": 5e-3}
        values = {"name": "st-mary", "data": data, "models": {"base": "base"}, "policy": policy}
        return record_summary([*RECORDS, {"text": "lost"}], validate(values, Organization, "test"))

    assert held(None) == "91 records"
    assert held("patient") == "91 records of 30 users (1 belong to no user)"
    with pytest.raises(InputError, match=r"data.user_field = 'pateint': none of the 91 records has such a field"):
        held("pateint")
