"""A run directory: what was completed is found again, whatever a crash left beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from common.errors import InputError
from common.privacy.mechanism import Mechanism
from common.protocol.statement import Head, Lifetime, Statement
from server.aggregation.optimizers import ServerState
from server.run_directory.run_directory import RunDirectory, ensure_free, new_run_id
from tests.server.run_directory.directories import INFO, PLAN, B, adapter, created, line, refusal, tree

# Made and found again


def test_a_run_that_was_created_is_opened_as_it_was(tmp_path: Path) -> None:
    created(tmp_path / "runs" / "one")
    directory = RunDirectory.open(tmp_path / "runs" / "one")
    assert directory.info == INFO
    assert directory.plan.digest() == PLAN.digest()
    assert directory.trained_shapes == {B: (4, 2)}
    number, start = directory.latest_checkpoint()
    assert number == 0
    assert list(start) == [B]
    assert not start[B].any()


def test_a_second_run_in_one_directory_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    created(tmp_path).round_log.append(line(0))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=INFO.run):
        created(tmp_path)
    assert tree(tmp_path) == before


def test_a_start_that_was_interrupted_holds_no_run_and_can_be_made_again(tmp_path: Path) -> None:
    created(tmp_path)
    (tmp_path / "run.json").rename(tmp_path / "run.json.part")
    with pytest.raises(InputError, match="holds no run"):
        RunDirectory.open(tmp_path)
    created(tmp_path)
    assert RunDirectory.open(tmp_path).latest_checkpoint()[0] == 0


def test_a_directory_without_a_run_cannot_be_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError, match="holds no run"):
            RunDirectory.open(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"run": "a"}', '{"shapes": []}', '{"shapes": {"a": 5}}']
)
def test_a_broken_description_of_the_run_is_an_input_error(tmp_path: Path, text: str) -> None:
    created(tmp_path)
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        RunDirectory.open(tmp_path)


def test_run_ids_are_the_name_the_date_and_eight_hexadecimal_digits() -> None:
    ids = {new_run_id("triage") for _ in range(50)}
    assert len(ids) == 50
    assert all(re.fullmatch(r"triage-\d{4}-\d\d-\d\d-[0-9a-f]{8}", run) for run in ids)


# A free place


def test_a_new_and_an_empty_directory_are_free(tmp_path: Path) -> None:
    ensure_free(tmp_path / "new")
    ensure_free(tmp_path)
    assert not (tmp_path / "new").exists()


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "is a file" in refusal(tmp_path / "file")
    assert "is not empty" in refusal(tmp_path)
    created(tmp_path / "run")
    text = refusal(tmp_path / "run")
    assert INFO.run in text
    assert "--resume" in text


# Lines of rounds


def test_lines_come_back_in_their_order(tmp_path: Path) -> None:
    directory = created(tmp_path)
    assert directory.rounds() == []
    for number in range(3):
        directory.round_log.append(line(number))
    assert RunDirectory.open(tmp_path).rounds() == [line(0), line(1), line(2)]
    texts = (tmp_path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(text)["round"] for text in texts] == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 2, 30])
def test_a_last_line_that_was_cut_off_does_not_count(tmp_path: Path, cut: int) -> None:
    directory = created(tmp_path)
    for number in range(3):
        directory.round_log.append(line(number))
    path = tmp_path / "rounds.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    directory = RunDirectory.open(tmp_path)
    assert directory.rounds() == [line(0), line(1)]
    assert directory.round_log.drop_after(1) == [line(0), line(1)]
    directory.round_log.append(line(2))
    assert RunDirectory.open(tmp_path).rounds() == [line(0), line(1), line(2)]


def test_rounds_without_a_checkpoint_are_forgotten_before_they_are_run_again(tmp_path: Path) -> None:
    directory = created(tmp_path)
    assert directory.round_log.drop_after(0) == []
    for number in range(4):
        directory.round_log.append(line(number))
    (tmp_path / "rounds.jsonl.part").write_bytes(b"left behind")
    assert directory.round_log.drop_after(1) == [line(0), line(1)]
    directory.round_log.append(line(2))
    assert RunDirectory.open(tmp_path).rounds() == [line(0), line(1), line(2)]
    assert not (tmp_path / "rounds.jsonl.part").exists()


# Statements


def test_statements_come_back_by_organization(tmp_path: Path) -> None:
    directory = created(tmp_path)
    assert directory.statements.read() == []
    written = [
        Statement(
            organization=name,
            run=INFO.run,
            plan=INFO.digest,
            fingerprint=INFO.fingerprint,
            unit="example",
            public_size=100,
            mechanisms=(Mechanism(0.1, 1.0, 12),),
            epsilon=2.0,
            delta=1e-5,
            lifetime=Lifetime(2.0, 8.0, 1e-5, "basic-composition-filter"),
            boundary="same user",
            versions={"sotto": "0.1.0"},
            head=Head("0f" * 16, 3, "ee" * 32, ""),
        )
        for name in ("st-mary", "county")
    ]
    for statement in written:
        directory.statements.write(statement)
    assert RunDirectory.open(tmp_path).statements.read() == [written[1], written[0]]
    assert (tmp_path / "privacy" / "statements" / "county.json").is_file()


def test_no_half_written_file_is_left(tmp_path: Path) -> None:
    directory = created(tmp_path)
    directory.round_log.append(line(0))
    directory.round_log.drop_after(0)
    directory.checkpoints.write(1, ServerState(adapter(1)))
    directory.write_json("privacy/report.json", {"ε": 1})
    assert [name for name in tree(tmp_path) if ".part" in name] == []
    assert json.loads((tmp_path / "privacy" / "report.json").read_bytes()) == {"ε": 1}
