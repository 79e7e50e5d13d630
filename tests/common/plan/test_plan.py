"""The plan: what is wrong in one is said in one line; what binds everybody has canonical bytes."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.plan.aggregation import Aggregation
from common.plan.plan import Plan
from common.settings import Section, template, validate
from tests.conftest import ROOT

SMALLEST: dict[str, Any] = {
    "name": "triage",
    "model": {"base": "base"},
    "training": {"rounds": 3, "batch_size": 8},
    "privacy": {"epsilon": 8.0, "delta": 1e-5},
}

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
USERS = {"unit": "user", "records_per_user": 4}


def plan(**sections: Any) -> Plan:
    values = dict(SMALLEST)
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return validate(values, Plan, "plan.toml")


def complaint(**sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        plan(**sections)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("plan.toml: ")
    return text.removeprefix("plan.toml: ")


def dumped(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# What is wrong, in one line


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
    # The coordinator's own: nothing that an organization does depends on it.
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
def test_a_name_that_would_not_do_as_a_folder_is_refused(name: str) -> None:
    assert complaint(name=name).startswith(f"name = {name!r}: ")


@pytest.mark.parametrize("name", ["a", "9", "a-b", "a" * 40])
def test_a_plain_name_is_accepted(name: str) -> None:
    assert plan(name=name).name == name


@pytest.mark.parametrize("kind", ["dirichlet", "field"])
def test_a_partition_by_a_field_needs_the_field(kind: str) -> None:
    assert "simulation.field is missing" in complaint(simulation={"partition": kind})
    assert plan(simulation={"partition": kind, "field": "client"}).simulation.field == "client"


def test_records_per_user_belong_to_users_and_users_need_them() -> None:
    assert complaint(privacy={"unit": "user"}) == (
        'privacy: records_per_user is missing: unit = "user" needs it, 1 or more'
    )
    assert complaint(privacy={"records_per_user": 4}) == 'privacy: records_per_user = 4 needs unit = "user"'
    assert plan(privacy=USERS).privacy.records_per_user == 4


def test_a_user_field_belongs_to_users() -> None:
    assert 'needs privacy.unit = "user"' in complaint(simulation={"user_field": "user"})
    assert plan(privacy=USERS, simulation={"user_field": "user"}).simulation.user_field == "user"


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


def test_the_agreement_as_a_file_holds_nothing_of_the_coordinators_own(tmp_path: Path) -> None:
    made = plan(lora={"rank": 3}, evaluation={"data": "public.jsonl"}, simulation={"data": "all.jsonl"})
    path = tmp_path / "plan.toml"
    path.write_text(made.agreement_toml(), encoding="utf-8")
    assert "jsonl" not in path.read_text(encoding="utf-8")
    assert Plan.read(path).digest() == made.digest()


def test_a_plan_for_users_has_a_digest_of_its_own_for_each_number_of_records_and_comes_back(
    tmp_path: Path,
) -> None:
    made = [plan(), *(plan(privacy={**USERS, "records_per_user": number}) for number in (1, 4, 10**6))]
    assert len({each.digest() for each in made}) == 4
    path = tmp_path / "plan.toml"
    for each in made:
        assert Plan.from_canonical(each.canonical()) == each
        for text in (each.agreement_toml(), each.to_toml()):
            path.write_text(text, encoding="utf-8")
            assert Plan.read(path).digest() == each.digest()


def test_a_key_without_a_value_is_no_part_of_the_agreement() -> None:
    values = json.loads(plan().canonical())
    assert "records_per_user" not in values["privacy"]
    values["privacy"]["records_per_user"] = None
    with pytest.raises(InputError, match="not in canonical form"):
        Plan.from_canonical(dumped(values))


ROBUST = {"robust": "multi-krum", "byzantine": 2}


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        ({"robust": "median"}, 'byzantine is missing: robust = "median" needs it, 1 or more'),
        ({"byzantine": 2}, 'byzantine = 2 needs robust = "median", for instance'),
        ({**ROBUST, "byzantine": 0}, "byzantine = 0: it should be greater than or equal to 1"),
        ({**ROBUST, "weights": "public-size"}, 'weights = "public-size": robust = "multi-krum" needs "equal"'),
        ({"max_update_norm": 0.0}, "max_update_norm = 0.0: it should be greater than 0"),
        ({"max_update_norm": math.nan}, "max_update_norm = nan: it should be a finite number"),
        ({"method": "svd", **ROBUST}, 'robust = \'multi-krum\' needs method = "ffa" or "fedavg"; it is "svd"'),
        ({"method": "stack", "average": 0.5}, 'average = 0.5 needs method = "ffa" or "fedavg"; it is "stack"'),
        ({"method": "svd", "server_optimizer": "fedavgm"}, "server_optimizer = 'fedavgm' needs method"),
        ({"server_learning_rate": 0.5}, "server_learning_rate = 0.5 needs a server_optimizer"),
        (
            {"server_optimizer": "fedyogi"},
            'server_learning_rate is missing: server_optimizer = "fedyogi" needs it',
        ),
        (
            {"server_optimizer": "fedavgm", "server_momentum": 1.0},
            "server_momentum = 1.0: it should be less than 1",
        ),
        ({"average": 1.0}, "average = 1.0: it should be less than 1"),
        ({"robust": "krum"}, "robust = 'krum': it should be 'none', 'median', 'trimmed-mean' or 'multi-krum'"),
    ],
)
def test_an_aggregation_that_does_not_fit_together_is_named(aggregation: dict[str, Any], said: str) -> None:
    assert said in complaint(aggregation=aggregation)


@pytest.mark.parametrize("method", ["ffa", "fedavg"])
def test_ranks_that_the_method_cannot_join_are_named(method: str) -> None:
    said = complaint(lora={"rank": 8, "min_rank": 4}, aggregation={"method": method})
    assert said == (
        'lora.min_rank = 4: ranks below lora.rank = 8 need aggregation.method = "svd" or "stack"; it is '
        f'"{method}"'
    )
    plan(lora={"rank": 8, "min_rank": 8}, aggregation={"method": method})
    assert "min_rank = 9 should be at most rank = 8" in complaint(lora={"rank": 8, "min_rank": 9})


@pytest.mark.parametrize("method", ["svd", "stack"])
def test_the_least_rank_is_part_of_the_agreement_and_the_ranks_of_a_simulation_are_not(method: str) -> None:
    aggregation = {"method": method}
    plans = [plan(lora={"min_rank": least}, aggregation=aggregation) for least in (2, 4, 8)]
    assert len({one.digest() for one in [*plans, plan(aggregation=aggregation)]}) == 4
    simulated = plan(lora={"min_rank": 4}, aggregation=aggregation, simulation={"ranks": [4, 8]})
    assert simulated.digest() == plans[1].digest()
    assert Plan.from_canonical(simulated.canonical()).simulation.ranks == []


def test_a_robust_aggregation_is_part_of_the_agreement() -> None:
    assert len({plan(aggregation={**ROBUST, "byzantine": f}).digest() for f in (1, 2, 3)}) == 3
    assert plan(aggregation=ROBUST).digest() != plan(aggregation={**ROBUST, "robust": "median"}).digest()


# Canonical bytes


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


def test_what_only_the_coordinator_does_leaves_the_digest_alone() -> None:
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


def test_a_default_that_is_written_out_and_an_integer_for_a_number_change_nothing() -> None:
    assert plan(lora={"alpha": 16, "rank": 8}, privacy={"epsilon": 8}).digest() == plan().digest()


PARTS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True),
        "model": st.fixed_dictionaries({"base": st.text(min_size=1, max_size=8)}),
        "lora": st.fixed_dictionaries(
            {
                "target_modules": st.just("all-linear") | st.lists(st.text(max_size=4), max_size=2),
                "alpha": st.floats(min_value=1e-300, max_value=1e300),
            }
        ),
        "privacy": st.fixed_dictionaries(
            {
                "epsilon": st.floats(min_value=0, max_value=20, exclude_min=True),
                "delta": st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True),
            }
        ),
        "training": st.fixed_dictionaries({"rounds": st.integers(1, 5_000), "batch_size": st.integers(1, 3)}),
    }
)


@settings(deadline=None, max_examples=60)
@given(PARTS, PARTS)
def test_digests_are_equal_just_when_the_agreements_are(left: dict[str, Any], right: dict[str, Any]) -> None:
    one, other = plan(**left), plan(**right)
    assert (one.digest() == other.digest()) == (left == right)
    assert one.digest() == plan(**left).digest()


@settings(deadline=None, max_examples=60)
@given(PARTS)
def test_canonical_bytes_come_back_as_the_same_plan(parts: dict[str, Any]) -> None:
    made = plan(**parts)
    read = Plan.from_canonical(made.canonical())
    assert read.agreement() == made.agreement()
    assert read.canonical() == made.canonical()


def test_sections_outside_the_agreement_come_back_at_their_defaults() -> None:
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
def test_random_bytes_raise_nothing_but_an_input_error(data: bytes) -> None:
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


# Files and paths

EXAMPLES = sorted((ROOT / "examples").glob("*/plan*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_plan_of_every_example_is_valid_and_protects_at_epsilon_8(path: Path) -> None:
    assert Plan.read(path).privacy.epsilon <= 8


def test_the_commented_file_is_a_valid_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(template(Plan), encoding="utf-8")
    assert Plan.read(path).name == "triage"


def test_the_commented_file_puts_in_force_what_a_plan_needs_and_nothing_that_it_may_leave_out() -> None:
    written = tomllib.loads(template(Plan))
    needed = {
        "name": "triage",
        "model": {"base": "HuggingFaceTB/SmolLM2-135M"},
        "lora": {"rank": 8, "alpha": 16.0},
        "training": {"rounds": 20, "local_steps": 4, "batch_size": 256, "learning_rate": 0.001},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }
    assert validate(written, Plan, "written") == validate(needed, Plan, "needed")


def test_the_commented_file_holds_every_key_and_its_documentation() -> None:
    lines = template(Plan).splitlines()
    prose = " ".join(line.removeprefix("# ") for line in lines)
    keys = {line.removeprefix("# ").split(" = ")[0] for line in lines if " = " in line}
    for name, field in Plan.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else {name: field}
        for key, documented in inner.items():
            assert key in keys
            assert documented.description
            assert " ".join(documented.description.split()) in prose


def test_paths_are_relative_to_the_file_and_variables_are_filled_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "plan.toml"
    path.parent.mkdir()
    path.write_text(template(Plan), encoding="utf-8")
    monkeypatch.setenv("SOTTO_TEST_FOLDER", str(tmp_path / "elsewhere"))
    read = Plan.read(path)
    assert read.path("records.jsonl") == tmp_path / "deep" / "records.jsonl"
    assert read.path("${SOTTO_TEST_FOLDER}/a/b.gz") == tmp_path / "elsewhere" / "a" / "b.gz"
    assert read.path("/somewhere/c") == Path("/somewhere/c")


def test_an_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOTTO_TEST_UNSET", raising=False)
    with pytest.raises(InputError, match="SOTTO_TEST_UNSET"):
        plan().path("${SOTTO_TEST_UNSET}/records.jsonl")


def test_an_unknown_home_folder_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no-such-user"):
        plan().path("~no-such-user-of-this-machine/records.jsonl")


def test_the_base_is_a_folder_beside_the_plan_or_a_name(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(plan().to_toml(), encoding="utf-8")
    assert Plan.read(path).base_folder() == "base"
    (tmp_path / "base").mkdir()
    assert Plan.read(path).base_folder() == str(tmp_path / "base")


def test_the_plan_as_it_ran_means_the_same_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOTTO_TEST_FOLDER", "/data")
    first = tmp_path / "plan.toml"
    first.write_text(
        """
        name = "triage"
        model.base = "base"
        training = {rounds = 3, batch_size = 8}
        privacy = {epsilon = 8, delta = 1e-5}
        evaluation.data = "public.jsonl"
        simulation.data = "${SOTTO_TEST_FOLDER}/all.jsonl"
        """,
        encoding="utf-8",
    )
    second = tmp_path / "run" / "plan.toml"
    second.parent.mkdir()
    second.write_text(Plan.read(first).to_toml(), encoding="utf-8")
    again = Plan.read(second)
    assert again.digest() == plan().digest()
    assert again.evaluation.data == str(tmp_path / "public.jsonl")
    assert again.simulation.data == "/data/all.jsonl"


@settings(deadline=None, max_examples=60)
@given(PARTS, st.lists(st.text(max_size=6), max_size=2))
def test_the_written_plan_reads_back_with_the_same_digest(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, Any], prompts: list[str]
) -> None:
    made = plan(**parts, evaluation={"prompts": prompts})
    path = tmp_path_factory.getbasetemp() / "written.toml"
    path.write_text(made.to_toml(), encoding="utf-8")
    read = Plan.read(path)
    assert read.digest() == made.digest()
    assert read.evaluation.prompts == prompts


# How tensors travel


def test_a_plan_that_sends_float32_is_the_same_agreement_as_one_that_does_not_say_so() -> None:
    silent = plan()
    assert silent.wire.update == silent.wire.adapter == "float32"
    assert "wire" not in silent.agreement()
    said = plan(wire={"update": "float32", "adapter": "float32"})
    assert said.canonical() == silent.canonical()
    assert Plan.from_canonical(silent.canonical()).wire == silent.wire


def test_fewer_bits_are_part_of_the_agreement() -> None:
    digests = {plan().digest()}
    for key in ("update", "adapter"):
        for form in ("bfloat16", "int8", "int4"):
            made = plan(wire={key: form})
            assert made.agreement()["wire"][key] == form
            assert Plan.from_canonical(made.canonical()).wire == made.wire
            digests.add(made.digest())
    assert len(digests) == 7


def test_a_default_that_is_written_out_is_not_canonical() -> None:
    values = {**plan().agreement(), "wire": {"update": "float32", "adapter": "float32"}}
    with pytest.raises(InputError, match="not in canonical form"):
        Plan.from_canonical(dumped(values))


def test_an_unknown_number_format_is_named_with_those_that_there_are() -> None:
    text = complaint(wire={"update": "int2"})
    assert text.startswith("wire.update = 'int2': ")
    assert all(form in text for form in ("float32", "bfloat16", "int8", "int4"))
