"""The plan: a mistake gives a one-line error."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.errors import InputError
from common.plan.aggregation import Aggregation
from common.plan.plan import Plan
from common.settings import validate
from tests.common.plan.plans import SMALLEST, complaint, plan


def test_an_unknown_key_names_the_nearest_one() -> None:
    assert complaint(training={"round": 3}) == "[training] has no key 'round'; did you mean 'rounds'?"


def test_an_unknown_key_is_named_before_the_one_that_is_missing_for_it() -> None:
    with pytest.raises(InputError, match=r"\[training\] has no key 'round'; did you mean 'rounds'\?"):
        validate({**SMALLEST, "training": {"round": 3, "batch_size": 8}}, Plan, "plan.toml")


def test_an_unknown_key_that_resembles_nothing_lists_the_known_ones() -> None:
    text = complaint(aggregation={"zzz": 1})
    known = ", ".join(Aggregation.model_fields)
    assert text == f"[aggregation] has no key 'zzz'; known keys: {known}"


def test_an_unknown_table_names_the_nearest_one() -> None:
    assert complaint(trainning={}) == "the file has no key 'trainning'; did you mean 'training'?"


def test_patience_needs_data_to_evaluate_on() -> None:
    text = complaint(evaluation={"patience": 3})
    assert text == "evaluation: patience = 3 needs data, a file of public records to evaluate on"
    assert "evaluation.patience = 0" in complaint(evaluation={"data": "public.jsonl", "patience": 0})
    # Concerns the coordinator alone: an organization does not depend on it.
    patient = plan(evaluation={"data": "public.jsonl", "patience": 3})
    assert patient.digest() == plan().digest()
    assert "patience = 3" in patient.to_toml()
    assert "patience" not in patient.agreement_toml()


@pytest.mark.parametrize(
    ("section", "key"),
    [("model", "base"), ("training", "rounds"), ("training", "batch_size"), ("privacy", "delta")],
)
def test_a_missing_key_is_named(section: str, key: str) -> None:
    values = {**SMALLEST, section: {k: v for k, v in SMALLEST[section].items() if k != key}}
    with pytest.raises(InputError) as caught:
        validate(values, Plan, "plan.toml")
    assert str(caught.value) == f"plan.toml: {section}.{key} is missing"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("privacy", "epsilon", 0),
        ("privacy", "epsilon", -1.0),
        ("privacy", "epsilon", math.nan),
        ("privacy", "epsilon", math.inf),
        ("privacy", "epsilon", 20.5),
        ("privacy", "epsilon", "8"),
        ("privacy", "delta", 0.0),
        ("privacy", "delta", 1.0),
        ("privacy", "delta", True),
        ("privacy", "clipping_norm", 0.0),
        ("privacy", "clipping_norm", 5e-324),
        ("privacy", "clipping_norm", 1e300),
        ("privacy", "unit", "person"),
        ("privacy", "records_per_user", 0),
        ("privacy", "records_per_user", 2.0),
        ("simulation", "user_field", ""),
        ("lora", "rank", 0),
        ("lora", "rank", True),
        ("lora", "rank", 1.0),
        ("lora", "min_rank", 0),
        ("lora", "min_rank", 1025),
        ("lora", "alpha", math.inf),
        ("lora", "alpha", 10**400),
        ("lora", "seed", -1),
        ("lora", "seed", 2**63),
        ("training", "rounds", 0),
        ("training", "rounds", True),
        ("training", "local_steps", 2.5),
        ("training", "batch_size", -8),
        ("training", "batch_size", 10**10),
        ("training", "learning_rate", math.nan),
        ("training", "momentum", 1.0),
        ("training", "gradient_checkpointing", 1),
        ("training", "optimizer", "adam"),
        ("task", "max_length", 1),
        ("task", "kind", "poetry"),
        ("model", "base", ""),
        ("model", "dtype", "float16"),
        ("federation", "round_timeout", 0.0),
        ("simulation", "organizations", 0),
    ],
)
def test_an_impossible_value_is_named_with_its_key(section: str, key: str, value: Any) -> None:
    text = complaint(**{section: {key: value}})
    assert text.startswith(f"{section}.{key} = {value!r}: ")


def test_target_modules_of_another_type_are_named_by_their_key() -> None:
    assert complaint(lora={"target_modules": 5}).startswith("lora.target_modules = 5: ")


@pytest.mark.parametrize(
    "text",
    [
        "{a.b}", "{a[0]}", "{0}", "{}", "{a!r}", "{a:>9}", "{a:{b}}", "{a b}", "{text", "text}", "{{text}}",
        "no field", "", "{text} {a.__class__}", "{ text}",
    ],
)  # fmt: skip
def test_a_template_names_plain_fields_and_at_least_one(text: str) -> None:
    assert complaint(task={"template": text}).startswith(f"task.template = {text!r}: ")


def test_the_fields_of_a_template_are_those_in_single_braces() -> None:
    task = plan(task={"template": "{question} {{not this}}\n{answer} {question}"}).task
    assert task.fields == ["question", "answer"]


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a b", "../a", "a\n", "é", "a" * 41])
def test_a_name_that_is_not_a_valid_folder_name_is_refused(name: str) -> None:
    assert complaint(name=name).startswith(f"name = {name!r}: ")


@pytest.mark.parametrize("name", ["a", "9", "a-b", "a" * 40])
def test_a_plain_name_is_accepted(name: str) -> None:
    assert plan(name=name).name == name


@pytest.mark.parametrize("kind", ["dirichlet", "field"])
def test_a_partition_by_a_field_needs_the_field(kind: str) -> None:
    assert "simulation.field is missing" in complaint(simulation={"partition": kind})
    assert plan(simulation={"partition": kind, "field": "client"}).simulation.field == "client"


def test_a_plan_of_more_steps_than_can_be_accounted_is_refused() -> None:
    text = complaint(training={"rounds": 5_001, "local_steps": 4})
    assert "20004" in text
    assert "20000" in text
    assert plan(training={"rounds": 5_000, "local_steps": 4}).training.rounds == 5_000


def test_the_learning_rate_is_constant_or_falls_in_equal_steps() -> None:
    training = {"rounds": 4, "learning_rate": 2.0}
    constant = plan(training=training).training
    assert [constant.rate(number) for number in (1, 2, 3, 4)] == [2.0, 2.0, 2.0, 2.0]
    linear = plan(training={**training, "schedule": "linear"}).training
    assert [linear.rate(number) for number in (1, 2, 3, 4)] == [2.0, 1.5, 1.0, 0.5]
