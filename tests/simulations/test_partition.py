"""Partitioning records: each to exactly one organization, reproducibly, with valid names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.plan.coordinator import Simulation
from common.records import Record
from common.settings import validate
from simulations.partition import partition

NAME = r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"


def simulation(**values: Any) -> Simulation:
    return validate(values, Simulation, "the test's plan")


def records(fields: list[Any]) -> list[Record]:
    return [{"id": number, "client": field} for number, field in enumerate(fields)]


def ids(dealt: dict[str, list[Record]]) -> dict[str, list[int]]:
    return {name: [record["id"] for record in own] for name, own in dealt.items()}


KINDS = st.sampled_from(["iid", "dirichlet", "field"])
CLIENTS = st.lists(st.sampled_from(["North", "South 2", "9 West", "Ost-West", 4]), min_size=1, max_size=40)


@settings(deadline=None, max_examples=150)
@given(KINDS, CLIENTS, st.integers(1, 6), st.sampled_from([0.05, 0.5, 50.0]), st.integers(0, 5))
def test_every_record_is_assigned_to_exactly_one_organization_in_file_order(
    kind: str, clients: list[Any], organizations: int, alpha: float, seed: int
) -> None:
    own = records(clients)
    asked = simulation(partition=kind, field="client", organizations=organizations, alpha=alpha, seed=seed)
    if kind == "field":
        dealt = partition(own, asked)
    else:
        try:
            dealt = partition(own, asked)
        except InputError:
            return  # an organization would have had no records
    numbers = ids(dealt)
    assert sorted(number for some in numbers.values() for number in some) == list(range(len(clients)))
    assert all(some == sorted(some) and some for some in numbers.values())
    assert all(re.fullmatch(NAME, name) for name in dealt)
    assert all(own[record["id"]] is record for some in dealt.values() for record in some)
    if kind == "field":
        assert all(len({str(record["client"]) for record in some}) == 1 for some in dealt.values())
        assert len(dealt) == len(set(map(str, clients)))
    else:
        assert len(dealt) == organizations


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
@example("!!!")
@example("東京")
@example("1" * 26 + " 2")
@example("a" * 39 + " b")
def test_any_value_of_a_field_gives_a_name_that_a_plan_would_accept_or_an_input_error(value: str) -> None:
    try:
        (name,) = partition(records([value]), simulation(partition="field", field="client"))
    except InputError:
        return
    assert re.fullmatch(NAME, name)


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_the_partition_depends_on_the_seed(kind: str) -> None:
    own = records(["a", "b"] * 30)
    asked = {"partition": kind, "field": "client", "organizations": 3, "alpha": 5.0}
    dealt = ids(partition(own, simulation(**asked, seed=1)))
    assert ids(partition(own, simulation(**asked, seed=1))) == dealt
    assert ids(partition(own, simulation(**asked, seed=2))) != dealt


@pytest.mark.parametrize(("count", "organizations"), [(40, 4), (41, 4), (7, 7), (100, 9)])
def test_iid_gives_equal_sizes_up_to_one_record(count: int, organizations: int) -> None:
    dealt = partition(records(["a"] * count), simulation(organizations=organizations))
    sizes = [len(own) for own in dealt.values()]
    assert max(sizes) - min(sizes) <= 1
    assert list(dealt) == [f"organization-{number}" for number in range(1, organizations + 1)]


def test_iid_mixes_the_file() -> None:
    (first, second) = ids(partition(records(["a"] * 200), simulation(organizations=2))).values()
    assert 20 < sum(number < 100 for number in first) < 80
    assert 20 < sum(number < 100 for number in second) < 80


def largest_share(alpha: float) -> float:
    """The largest share of an organization in the records of one value, averaged over values and seeds."""
    own = records([str(number % 4) for number in range(800)])
    shares = []
    for seed in range(5):
        asked = simulation(partition="dirichlet", field="client", organizations=4, alpha=alpha, seed=seed)
        try:
            dealt = partition(own, asked)
        except InputError:
            continue
        for value in "0123":
            counts = [sum(record["client"] == value for record in some) for some in dealt.values()]
            assert sum(counts) == 200
            shares.append(max(counts) / 200)
    assert shares
    return sum(shares) / len(shares)


def test_a_small_alpha_is_uneven_and_a_large_one_is_even() -> None:
    # An even split is 1/4; of one Dirichlet(0.1) draw over four the largest share is near 0.9.
    assert largest_share(0.1) > 0.75
    assert largest_share(10_000.0) < 0.27


def test_organizations_are_named_after_the_values_of_the_field() -> None:
    dealt = partition(
        records(["St. Mary's", 2024, "St. Mary's", "Nord/Süd"]), simulation(partition="field", field="client")
    )
    assert ids(dealt) == {"organization-2024": [1], "nord-s-d": [3], "st-mary-s": [0, 2]}


def test_two_values_that_would_give_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two of its values give the same"):
        partition(records(["North", "north"]), simulation(partition="field", field="client"))


@pytest.mark.parametrize("kind", ["field", "dirichlet"])
@pytest.mark.parametrize("value", [None, 1.5, ["a"], {}])
def test_a_record_without_the_field_is_named(kind: str, value: Any) -> None:
    asked = simulation(partition=kind, field="client", organizations=1)
    with pytest.raises(InputError, match="record 3 has no such field"):
        partition([*records(["a", "b"]), {"client": value} if value is not None else {"id": 2}], asked)


USER_FIELDS = st.lists(
    st.tuples(st.sampled_from(["ann", "ben", 3, "3", "cat", "dan"]), st.sampled_from(["North", "South"])),
    min_size=1,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["iid", "dirichlet"]), USER_FIELDS, st.integers(1, 4), st.integers(0, 5))
def test_all_records_of_a_user_are_assigned_to_one_organization(
    kind: str, rows: list[tuple[Any, str]], organizations: int, seed: int
) -> None:
    own = [{**record, "user": user} for record, (user, _) in zip(records([c for _, c in rows]), rows, strict=True)]
    values = {"field": "client", "user_field": "user", "organizations": organizations, "seed": seed}
    try:
        dealt = partition(own, simulation(partition=kind, **values))
    except InputError:
        return  # an organization would have had no records
    homes: dict[tuple[type, Any], set[str]] = {}
    for name, some in dealt.items():
        for record in some:
            homes.setdefault((type(record["user"]), record["user"]), set()).add(name)
    assert all(len(names) == 1 for names in homes.values())
    assert sorted(number for some in ids(dealt).values() for number in some) == list(range(len(own)))
    assert all(some == sorted(some) for some in ids(dealt).values())
    if kind == "iid":
        users = [sum(name in names for names in homes.values()) for name in dealt]
        assert max(users) - min(users) <= 1


def test_dirichlet_assigns_a_user_by_the_field_of_the_first_record() -> None:
    """With a tiny alpha each value goes to one organization: users with the same first value stay together."""
    own = [{"user": f"{client}{n}", "client": client} for n in range(20) for client in ("North", "South")]
    own += [{"user": f"North{n}", "client": "South"} for n in range(20)]
    for seed in range(20):
        values = {"field": "client", "user_field": "user", "organizations": 2, "alpha": 1e-3, "seed": seed}
        try:
            dealt = partition(own, simulation(partition="dirichlet", **values))
        except InputError:
            continue
        assert sorted({record["user"][:5] for record in some} for some in dealt.values()) in (
            [{"North"}, {"South"}],
            [{"South"}, {"North"}],
        )
        return
    raise AssertionError("no seed gave both organizations records")


def test_a_user_with_records_at_two_organizations_is_refused() -> None:
    own = [{"client": client, "user": user} for client, user in [("a", 1), ("b", "1"), ("b", 2), ("a", 2)]]
    asked = simulation(partition="field", field="client", user_field="user")
    assert [len(some) for some in partition(own[:3], asked).values()] == [1, 2]
    with pytest.raises(InputError, match="'2' has records at a and at b"):
        partition(own, asked)


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "field"])
@pytest.mark.parametrize("value", [None, "", " ", 1.5, True, ["a"]])
def test_a_record_without_a_user_is_named(kind: str, value: Any) -> None:
    asked = simulation(partition=kind, field="client", user_field="user", organizations=1)
    own = [{"client": "a", "user": "x"}, {"client": "a", "user": value}]
    with pytest.raises(InputError, match=r"simulation.user_field = 'user': record 2 has no such field"):
        partition(own, asked)


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_an_organization_without_records_is_refused(kind: str) -> None:
    asked = simulation(partition=kind, field="client", organizations=4)
    with pytest.raises(InputError, match=r"simulation.organizations = 4: organization-\d would have no records"):
        partition(records(["a", "b", "a"]), asked)
