"""No record's text in any log: whatever fails beside the records, and whatever a library says of it.

Every record holds a word that stands nowhere else, see `leaky_vault.py` for who repeats it.
"""

from __future__ import annotations

import gzip
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sotto
from client.relay.vault_client import RemoteVault
from common.errors import Refused
from tests.client.vaults import request_for, write_organization
from tests.conftest import ROOT, MakePlan
from tests.programs.start import Process, start
from tests.waiting import LONG, wait_until

CANARY = "Zwetschgenknoedel"
RECORDS = [{"text": f"{CANARY} number {n}", "user": f"{CANARY}-{n}"} for n in range(30)]
FORMATS = ["human", "json"]


def organization(folder: Path, base: Path) -> Path:
    path = write_organization(folder, base)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@contextmanager
def leaky(path: Path, log_format: str) -> Iterator[Process]:
    """A vault that fails as the file `stage` says; it is killed at the end."""
    folder = path.parent
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        command = [sys.executable, "-m", "tests.client.vault.leaky_vault", folder, "vault", "start", path]
        process = start(command, cwd=ROOT, output=out, errors=err, SOTTO_LOG_FORMAT=log_format)
    try:
        yield process
    finally:
        process.kill()
        process.wait(LONG)


def told(folder: Path) -> str:
    return (folder / "out").read_text() + (folder / "err").read_text()


def answers(process: Process, folder: Path) -> bool:
    assert process.poll() is None, told(folder)
    return "the vault answers at" in told(folder)


def check_nothing_is_told(folder: Path, log_format: str) -> None:
    """The canary is in no file but the records', and every line has the format that was asked for."""
    for file in folder.rglob("*"):
        if file.is_file() and file.name != "records.jsonl":
            assert CANARY.encode() not in file.read_bytes(), file
    if log_format == "json":
        for line in told(folder).splitlines():
            values = json.loads(line)
            assert {"time", "level", "part", "logger", "message"} <= values.keys()
            assert values["part"] == "vault"


# What fails, and what the log says of it.
STAGES = {
    "shouting": "a message of transformers.tokenization at tests/client/vault/leaky_vault.py",
    "tokenizer": "a record: it cannot be encoded (ValueError)",
    "loss": "failed: OutOfMemoryError at tests/client/vault/leaky_vault.py",
    "train": "failed: RuntimeError at tests/client/vault/leaky_vault.py",
    "settle": "train failed: OperationalError at tests/client/vault/leaky_vault.py",
    "panic": "a record: it cannot be encoded (Panic)",
}


@pytest.mark.parametrize("log_format", FORMATS)
def test_whatever_fails_no_log_holds_a_record(
    log_format: str, tmp_path: Path, tiny_base: Path, make_plan: MakePlan
) -> None:
    path = organization(tmp_path, tiny_base)
    stage = tmp_path / "stage"
    stage.write_text("none")
    with leaky(path, log_format) as process:
        wait_until(lambda: answers(process, tmp_path), "the vault")
        with RemoteVault(tmp_path / "vault.sock", LONG, patience=0) as vault:
            for number, (name, said) in enumerate(STAGES.items()):
                before = told(tmp_path)
                stage.write_text(name)
                # Another length of a record: everything is encoded anew.
                plan = make_plan(
                    name=name, task={"max_length": 16 + number}, privacy={"epsilon": 0.5}, training={"rounds": 1}
                )
                request = request_for(plan, run=name)
                if name in ("shouting", "tokenizer", "panic"):
                    assert vault.train(request).update
                else:
                    with pytest.raises(Refused, match="training-failed"):
                        vault.train(request)
                new = told(tmp_path).replace(before, "")
                assert said in new, name
                assert "Traceback" not in new, name
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONG) == 0
    check_nothing_is_told(tmp_path, log_format)
    errors = (tmp_path / "err").read_text()
    assert "UserWarning at tests/client/vault/leaky_vault.py" in errors
    assert "unexpected error: RuntimeError at tests/client/vault/leaky_vault.py" in errors  # in a thread
    assert "because of KeyError at tests/client/vault/leaky_vault.py" in errors


@pytest.mark.parametrize("log_format", FORMATS)
def test_an_error_of_ours_at_the_start_tells_its_place_and_no_record(
    log_format: str, tmp_path: Path, tiny_base: Path
) -> None:
    path = organization(tmp_path, tiny_base)
    path.write_text(path.read_text().replace("[data]\n", '[data]\nunit = "user"\nuser_field = "user"\n'))
    (tmp_path / "stage").write_text("start")
    with leaky(path, log_format) as process:
        assert process.wait(LONG) == 1
    assert "unexpected error: RuntimeError at tests/client/vault/leaky_vault.py" in (tmp_path / "err").read_text()
    check_nothing_is_told(tmp_path, log_format)


def broken(data: bytes, name: str = "records.jsonl") -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return make


LINE = json.dumps(RECORDS[0]).encode()
PACKED = gzip.compress(LINE * 50)
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut off": (broken(LINE + b"\n" + LINE[:30]), "line 2 is not JSON in UTF-8: it breaks off at character 10"),
    "two on a line": (broken(LINE + LINE), "line 1 is not JSON in UTF-8: it breaks off at character"),
    "a bad escape": (broken(LINE.replace(CANARY.encode(), b"\\" + CANARY.encode())), "it breaks off at character"),
    "Latin-1": (broken(LINE.replace(b"oe", b"\xf6")), "line 1 is not JSON in UTF-8: byte"),
    "a text": (broken(f'"{CANARY}"'.encode()), "line 1 is a str; it should be a JSON object"),
    "a long number": (broken(b'{"text": ' + b"7" * 5000 + b"}"), "a number has too many digits"),
    "deep": (broken(f'{{"{CANARY}": {"[" * 10**5}'.encode()), "it is nested too deep"),
    "not packed": (broken(LINE, "records.jsonl.gz"), "cannot be read after line 0: it is damaged"),
    "damaged": (broken(PACKED[:-9] + b"\0" * 9, "records.jsonl.gz"), "it is damaged"),
}


@pytest.mark.parametrize("log_format", FORMATS)
@pytest.mark.parametrize("what", BROKEN)
def test_records_that_cannot_be_read_are_named_by_their_line_and_not_quoted(
    what: str,
    log_format: str,
    tmp_path: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = organization(tmp_path, tiny_base)
    make, said = BROKEN[what]
    make(tmp_path)
    if (tmp_path / "records.jsonl.gz").exists():
        path.write_text(path.read_text().replace("records.jsonl", "records.jsonl.gz"))
    monkeypatch.setenv("SOTTO_LOG_FORMAT", log_format)
    monkeypatch.setattr(sys, "argv", ["sotto", "vault", "start", str(path)])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(SystemExit) as ended:
        sotto.main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert ended.value.code == 2
    printed, errors = capfd.readouterr()
    assert printed == ""
    (line,) = errors.splitlines()
    message: Any = json.loads(line)["message"] if log_format == "json" else line
    assert said in message
    for quoted in (CANARY, CANARY[:2], "\\xf6", "777"):
        assert quoted not in line
