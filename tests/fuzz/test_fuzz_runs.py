"""A run directory that somebody else prepared: each file is refused in one line, or is as good as others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adapter.adapter import initial, to_bytes
from common.errors import InputError, SottoError
from common.keys.statement_key import StatementKey
from common.report.evaluation import evaluation_section
from common.run.evaluation import Evaluation
from common.tasks.class_report import class_report
from server.registry.heads import LedgerHeads
from server.run.report import read_report
from server.run_directory.evaluation import read_evaluation, write_evaluation
from server.run_directory.run_directory import RunDirectory
from server.run_directory.status import Status
from server.run_directory.summary import run_summary
from tests.common.report.sample_run import SHAPES, classes_plan, signed, statement
from tests.fuzz.hostile import damaged_bytes, damaged_json_text, messages
from tests.server.run_directory.sample_directory import make_run

KEY = StatementKey.generate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    directory = make_run(folder, [signed(statement("st-mary"), KEY)], {"st-mary": KEY})
    directory.status.write(Status("running", 3, ["st-mary"], ["st-mary"], "", "17"))
    return folder


def everything(folder: Path) -> RunDirectory:
    """All that is ever read of a run."""
    directory = RunDirectory.open(folder)
    directory.latest_checkpoint()
    directory.rounds()
    directory.status.read()
    directory.statements.keys()
    directory.statements.read()
    return directory


STATE = "checkpoints/round-0000/state.json"
JSON = ["run.json", "rounds.jsonl", "status.json", STATE, "privacy/statements/st-mary.json"]
BYTES = [*JSON, "plan.toml", "checkpoints/round-0000/adapter.safetensors", "privacy/keys/st-mary.pub"]


@st.composite
def damage(draw: Callable[[Any], Any], folder: Path) -> tuple[str, bytes]:
    """A file of the run, and what somebody put there."""
    if draw(st.booleans()):
        name = draw(st.sampled_from(JSON))
        content = (folder / name).read_text()
        if name == "rounds.jsonl":
            line = json.loads(content.splitlines()[3])
            return name, (draw(damaged_json_text(line)) + "\n").encode("utf-8", "surrogatepass")
        return name, draw(damaged_json_text(json.loads(content))).encode("utf-8", "surrogatepass")
    name = draw(st.sampled_from(BYTES))
    return name, draw(damaged_bytes([(folder / name).read_bytes()]))


@messages(300, slow=4)
@given(data=st.data())
def test_a_damaged_run_is_refused_in_one_line_or_is_one(folder: Path, data: st.DataObject) -> None:
    name, content = data.draw(damage(folder))
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    try:
        directory = everything(folder)
    except InputError as error:
        assert "\n" not in str(error).replace(str(folder), "")
        assert len(str(error)) < 3000
    else:
        info = directory.info
        assert all(type(size) is int and size > 0 for shape in info.shapes.values() for size in shape)
        assert type(info.private) is bool
        for line in directory.rounds():
            assert type(line.round) is type(line.bytes_up) is int
            assert set(line.organizations) <= {"asked", "answered", "refused"}
            assert all(type(value) in (int, float) for value in line.metrics.values())
        status = directory.status.read()
        assert status is not None
        assert status.flower_run == "" or (status.flower_run.isascii() and status.flower_run.isdigit())
    finally:
        (folder / name).write_bytes(good)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    labels = ["no", "yes", "perhaps"]
    directory = make_run(tmp_path_factory.mktemp("told"), [], {}, plan=classes_plan(labels))
    chances = [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]
    write_evaluation(directory, 20, Evaluation({}, class_report([0, 1, 2], chances, labels)))
    return directory


@messages(200, slow=4)
@given(data=st.data())
def test_a_damaged_evaluation_is_refused_in_one_line_or_makes_a_page(
    told: RunDirectory, data: st.DataObject
) -> None:
    path = told.path / "evaluation.json"
    good = path.read_bytes()
    damaged = data.draw(
        damaged_json_text(json.loads(good)).map(lambda text: text.encode("utf-8", "surrogatepass"))
        | damaged_bytes([good])
    )
    path.write_bytes(damaged)
    try:
        stored = read_evaluation(told)
    except InputError as error:
        assert "\n" not in str(error).replace(str(told.path), "")
    else:
        assert stored is not None
        assert evaluation_section(run_summary(told)) is not None
    finally:
        path.write_bytes(good)


@messages(25, slow=100)
@given(data=st.data())
def test_a_report_of_a_damaged_run_is_made_or_refused(folder: Path, data: st.DataObject) -> None:
    name, content = data.draw(damage(folder))
    good = (folder / name).read_bytes()
    (folder / name).write_bytes(content)
    try:
        _, report = read_report(folder)
        assert math.isfinite(report["epsilon"])
        json.dumps(report, allow_nan=False)
    except SottoError:
        pass
    finally:
        (folder / name).write_bytes(good)


FOREIGN = ["round-1x2", "round-٣٣٣٣", "round-0x11", "round-99999999999999999999", "round-", "round-0001.part"]


@pytest.mark.parametrize("name", FOREIGN)
def test_a_folder_that_is_no_checkpoint_is_none(tmp_path: Path, name: str) -> None:
    directory = make_run(tmp_path, [], {})
    (tmp_path / "checkpoints" / name).mkdir()
    assert directory.latest_checkpoint()[0] == 0


def test_a_checkpoint_of_other_shapes_or_none_is_refused_in_one_line(tmp_path: Path) -> None:
    directory = make_run(tmp_path, [], {})
    path = tmp_path / "checkpoints" / "round-0001"
    path.mkdir()
    with pytest.raises(InputError, match="holds no adapter of this run"):
        directory.latest_checkpoint()
    (path / "adapter.safetensors").write_bytes(to_bytes(initial({**SHAPES, "x.lora_B.weight": (1, 1)}, 0)))
    with pytest.raises(InputError, match="holds no adapter of this run"):
        directory.latest_checkpoint()


def test_sizes_that_multiply_to_nothing_in_64_bits_are_no_size(tmp_path: Path) -> None:
    """2³² × 2³² is 0 there, and an adapter of no bytes would do."""
    directory = make_run(tmp_path, [], {})
    values = json.loads((tmp_path / "run.json").read_text())
    values["shapes"] = {name: [2**32, 2**32] for name in values["shapes"]}
    (tmp_path / "run.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"{4 * 2**64} bytes of tensors were expected"):
        RunDirectory.open(tmp_path).latest_checkpoint()
    assert directory.info.run


def test_a_link_where_a_file_is_about_to_be_written_leads_nowhere(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", [], {})
    (tmp_path / "own").write_text("mine")
    (tmp_path / "run" / "status.json.part").symlink_to(tmp_path / "own")
    directory.status.write(Status("waiting"))
    assert (tmp_path / "own").read_text() == "mine"
    assert directory.status.read() == Status("waiting")


@messages(200)
@given(damaged_json_text({"data_set": "0f" * 16, "number": 7, "digest": "ee" * 32, "signature": "aa" * 64}))
def test_a_damaged_head_of_the_registry_is_none(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    registry = tmp_path_factory.getbasetemp() / "registry"
    registry.mkdir(exist_ok=True)
    (registry / "st-mary.head").write_bytes(text.encode("utf-8", "surrogatepass"))
    head = LedgerHeads(registry).newest("st-mary")
    assert head is None or head.to_json() == text
