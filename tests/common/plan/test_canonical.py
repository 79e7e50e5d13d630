"""Canonical bytes: an agreement has one form and one digest, and other forms are refused."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.plan.plan import Plan
from tests.common.plan.plans import PARTS, dumped, plan

SERVER = {"server_optimizer": "fedavgm", "server_momentum": 0.5, "server_beta2": 0.5, "tau": 0.5}
# Another value for every field of the agreement that has one.
OTHER: dict[str, dict[str, Any]] = {
    "model": {"base": "another", "dtype": "bfloat16"},
    "task": {"max_length": 17, "template": "{question}"},
    "lora": {"rank": 3, "alpha": 5.0, "target_modules": ["q_proj"], "rslora": True, "seed": 9},
    "training": {
        "rounds": 4,
        "local_steps": 9,
        "batch_size": 9,
        "learning_rate": 0.5,
        "schedule": "linear",
        "warmup_rounds": 1,
        "optimizer": "sgd",
        "momentum": 0.5,
        "precision": "float32",
        "gradient_checkpointing": True,
    },
    "federation": {"min_organizations": 3, "round_timeout": 5.0},
    "aggregation": {"method": "fedavg", "weights": "public-size", "screen": False, **SERVER},
    "privacy": {"epsilon": 7.0, "delta": 1e-6, "clipping_norm": 0.5},
}
# Another unit and another kind need keys more: see `test_a_plan_for_users…` and tests/common/plan/test_task.py.
ONE_VALUE_ONLY = {("task", "kind"), ("privacy", "unit"), ("training", "head_rounds"), ("aggregation", "robust")}


def test_the_table_of_other_values_covers_every_field_of_the_agreement() -> None:
    listed = {(section, key) for section, values in OTHER.items() for key in values} | ONE_VALUE_ONLY
    agreement = json.loads(plan().canonical())
    assert set(agreement) == set(OTHER) | {"name"}
    assert listed == {(section, key) for section in OTHER for key in agreement[section]}


@pytest.mark.parametrize(("section", "key"), [(section, key) for section in OTHER for key in OTHER[section]])
def test_another_value_in_the_agreement_gives_another_digest(section: str, key: str) -> None:
    assert plan(**{section: {key: OTHER[section][key]}}).digest() != plan().digest()


def test_another_name_gives_another_digest() -> None:
    assert plan(name="another").digest() != plan().digest()


def test_the_coordinators_sections_do_not_change_the_digest() -> None:
    changed = plan(
        evaluation={"data": "public.jsonl", "prompts": ["Hello"]},
        simulation={"data": "all.jsonl", "partition": "field", "field": "client", "noise_seed": 3, "seed": 4},
    )
    assert changed.canonical() == plan().canonical()
    assert changed.digest() == plan().digest()


def test_canonical_bytes_are_sorted_json_without_spaces_and_the_digest_is_their_sha256() -> None:
    bytes_ = plan(task={"template": "Frage: {é}"}).canonical()
    assert bytes_ == dumped(json.loads(bytes_))
    assert "Frage: {é}".encode() in bytes_
    assert plan().digest() == hashlib.sha256(plan().canonical()).hexdigest()


def test_an_explicit_default_and_an_integer_for_a_float_change_nothing() -> None:
    assert plan(lora={"alpha": 16, "rank": 8}, privacy={"epsilon": 8}).digest() == plan().digest()


@settings(deadline=None, max_examples=60)
@given(PARTS, PARTS)
def test_digests_are_equal_exactly_if_the_agreements_are(left: dict[str, Any], right: dict[str, Any]) -> None:
    one, other = plan(**left), plan(**right)
    assert (one.digest() == other.digest()) == (left == right)
    assert one.digest() == plan(**left).digest()


@settings(deadline=None, max_examples=60)
@given(PARTS)
def test_canonical_bytes_are_read_back_as_the_same_plan(parts: dict[str, Any]) -> None:
    made = plan(**parts)
    read = Plan.from_canonical(made.canonical())
    assert read.agreement() == made.agreement()
    assert read.canonical() == made.canonical()


def test_sections_outside_the_agreement_get_their_defaults() -> None:
    made = plan(evaluation={"data": "public.jsonl"}, simulation={"data": "all.jsonl"})
    assert Plan.from_canonical(made.canonical()) == plan()


GOOD = plan().canonical()
BAD = {
    "spaces": json.dumps(json.loads(GOOD), sort_keys=True).encode(),
    "reordered": json.dumps(dict(reversed(json.loads(GOOD).items())), separators=(",", ":")).encode(),
    "duplicate key": b'{"name":"x",' + GOOD[1:],
    "unknown key": dumped({**json.loads(GOOD), "zzz": 1}),
    "outside the agreement": dumped({**json.loads(GOOD), "evaluation": {"data": None, "prompts": []}}),
    "a default left out": dumped({k: v for k, v in json.loads(GOOD).items() if k != "lora"}),
    "another spelling of a number": GOOD.replace(b'"epsilon":8.0', b'"epsilon":8'),
    "escaped letters": GOOD.replace(b'"triage"', b'"tri\\u0061ge"'),
    "nan": GOOD.replace(b'"epsilon":8.0', b'"epsilon":NaN'),
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "utf-16": GOOD.decode().encode("utf-16"),
    "trailing newline": GOOD + b"\n",
    "two": GOOD + GOOD,
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"plan"',
    "not utf-8": b"\xff\xfe\xfd",
    "deep": b"[" * 100_000,
    "deep value": GOOD.replace(b'"triage"', b"[" * 900 + b"]" * 900),
    "long integer": GOOD.replace(b'"rounds":3', b'"rounds":' + b"9" * 5000),
}


@pytest.mark.parametrize("case", BAD)
def test_bytes_that_are_not_canonical_are_refused(case: str) -> None:
    with pytest.raises(InputError, match="the plan in the request"):
        Plan.from_canonical(BAD[case])


@pytest.mark.parametrize("place", ["base", "template", "target", "key"])
def test_half_a_surrogate_pair_is_refused_like_any_other_wrong_value(place: str) -> None:
    values = json.loads(GOOD)
    if place == "base":
        values["model"]["base"] = "\ud800"
    elif place == "template":
        values["task"]["template"] = "\ud800{text}"
    elif place == "target":
        values["lora"]["target_modules"] = ["\ud800"]
    else:
        values["lora"]["\ud800"] = 1
    with pytest.raises(InputError):
        Plan.from_canonical(json.dumps(values, sort_keys=True, separators=(",", ":")).encode())


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64))
def test_random_bytes_raise_only_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError):
        Plan.from_canonical(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_any_json_in_the_place_of_a_value_gives_that_plan_or_an_input_error(data: st.DataObject) -> None:
    values = json.loads(GOOD)
    section = data.draw(st.sampled_from(sorted(values)))
    if isinstance(values[section], dict) and data.draw(st.booleans()):
        values[section][data.draw(st.sampled_from(sorted(values[section])) | st.text(max_size=4))] = data.draw(
            JSON
        )
    else:
        values[section] = data.draw(JSON)
    sent = dumped(values)
    text = ""
    try:
        assert Plan.from_canonical(sent).canonical() == sent
    except InputError as error:
        text = str(error)
    assert "\n" not in text
