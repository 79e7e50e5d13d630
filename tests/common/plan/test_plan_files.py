"""Plans as files: the examples, the commented file, paths, and round trips."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.plan.plan import Plan
from common.settings import Section, template, validate
from tests.common.plan.plans import PARTS, plan
from tests.conftest import ROOT


def test_the_agreement_as_a_file_contains_nothing_of_the_coordinators(tmp_path: Path) -> None:
    made = plan(lora={"rank": 3}, evaluation={"data": "public.jsonl"}, simulation={"data": "all.jsonl"})
    path = tmp_path / "plan.toml"
    path.write_text(made.agreement_toml(), encoding="utf-8")
    assert "jsonl" not in path.read_text(encoding="utf-8")
    assert Plan.read(path).digest() == made.digest()


EXAMPLES = sorted((ROOT / "examples").glob("*/plan*.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_plan_of_every_example_is_valid_and_protects_at_epsilon_8(path: Path) -> None:
    assert Plan.read(path).privacy.epsilon <= 8


def test_the_commented_file_is_a_valid_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(template(Plan), encoding="utf-8")
    assert Plan.read(path).name == "triage"


def test_the_commented_file_sets_required_keys_and_comments_out_optional_keys() -> None:
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
