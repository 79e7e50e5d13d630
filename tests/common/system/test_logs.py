"""The log: one line an event, for people or as JSON; what it may say of an error."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from common.errors import InputError, SottoError
from common.system import logs
from common.system.redaction import failure
from tests.conftest import ROOT

SECRET = "record 4711"


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    logs.reset()


@pytest.fixture(params=logs.FORMATS)
def log_format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, request.param)
    return str(request.param)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_json_line_says_when_who_and_what(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")
    logs.configure("relay", "st-mary")
    logs.report("ε is 3\nof 8", {"round": 2, "part": "not this"})
    logging.getLogger("flwr").warning("lost %s", "it")
    out, errors = capsys.readouterr()
    (first,) = map(json.loads, out.splitlines())
    (second,) = map(json.loads, errors.splitlines())
    assert datetime.fromisoformat(first.pop("time")).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert first == {
        "level": "info",
        "part": "relay",
        "organization": "st-mary",
        "logger": "sotto",
        "message": "ε is 3\nof 8",
        "round": 2,
    }
    assert (second["level"], second["logger"], second["message"]) == ("warning", "flwr", "lost it")


def test_a_line_for_people_is_one_line_whatever_stands_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("server")
    logs.report("first\nerror: forged \x1b[31m \ud800 σ")
    logging.getLogger("client").warning("second")
    assert capsys.readouterr() == ("first\\nerror: forged \\x1b[31m \\ud800 σ\n", "warning: second\n")
    logs.configure("relay", timed=True)
    logs.report("third")
    time, text = capsys.readouterr().out.split(" ")
    assert datetime.fromisoformat(time)
    assert text == "third\n"


def test_a_library_that_prints_by_itself_speaks_through_the_log(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = logging.getLogger("a-library")
    own.propagate = False
    own.addHandler(logging.StreamHandler(sys.stderr))
    logs.configure("relay")
    own.warning("watch out")
    own.info("by the way")
    warnings.warn("soon gone", FutureWarning, stacklevel=1)
    lines = capsys.readouterr().err.splitlines()
    messages = [json.loads(line)["message"] if log_format == "json" else line for line in lines]
    assert [message.removeprefix("warning: ") for message in messages] == [
        "watch out",
        f"FutureWarning at tests/common/system/test_logs.py:{_line('soon gone')}: soon gone",
    ]


def _line(text: str) -> int:
    return next(n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if text in line)


def test_beside_records_nothing_of_libraries_but_who_and_where(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("vault", "st-mary", private=True)
    library = logging.getLogger("transformers")
    library.error("cannot split %s", SECRET)
    try:
        raise ValueError(SECRET)
    except ValueError:
        library.exception("failed at %s", SECRET)
        logging.getLogger("client.vault.vault").exception("a round failed")
    warnings.warn(SECRET, stacklevel=1)
    out, errors = capsys.readouterr()
    assert out == ""
    assert "4711" not in errors
    assert errors.count("a message of transformers at tests/common/system/test_logs.py:") == 2
    assert "a round failed: ValueError at tests/common/system/test_logs.py:" in errors
    assert "UserWarning at tests/common/system/test_logs.py:" in errors
    assert len(errors.splitlines()) == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError(SECRET), "ValueError at "),
        (KeyError(SECRET), "KeyError at "),
        (OSError(28, SECRET, SECRET), "OSError (No space left on device) at "),
        (OSError(SECRET), "OSError at "),
        (UnicodeDecodeError("utf-8", SECRET.encode(), 1, 2, SECRET), "UnicodeDecodeError at "),
        (ExceptionGroup(SECRET, [ValueError(SECRET)]), "ExceptionGroup at "),
        (SottoError("round 3 of 2"), "SottoError (round 3 of 2) at "),
        (KeyboardInterrupt(SECRET), "KeyboardInterrupt at "),
    ],
)
def test_of_an_error_its_type_and_its_places(error: BaseException, said: str) -> None:
    text = failure(raised(error))
    assert text == f"{said}tests/common/system/test_logs.py:{_line('raise error')}:raised"


def test_of_sqlite_its_own_name_of_what_happened(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "file", isolation_level=None) as database:
        database.execute("CREATE TABLE t (x TEXT CHECK (x = 'y')) STRICT")
        with pytest.raises(sqlite3.Error) as caught:
            database.execute("INSERT INTO t VALUES (?)", (SECRET,))
    database.close()
    assert failure(caught.value).startswith(
        "IntegrityError (SQLITE_CONSTRAINT_CHECK) at tests/common/system/test_logs.py:"
    )


def test_causes_are_named_too_and_a_circle_of_them_ends() -> None:
    first, second = raised(ValueError(SECRET)), raised(KeyError(SECRET))
    first.__cause__, second.__cause__ = second, first
    text = failure(first)
    assert [part.split(" ")[0] for part in text.split("; because of ")] == ["ValueError", "KeyError"]
    assert "4711" not in text


def deep(left: int) -> None:
    if left:
        deep(left - 1)
    raise ValueError(SECRET)


def test_of_a_deep_stack_the_last_thirty_places() -> None:
    with pytest.raises(ValueError, match="4711") as caught:
        deep(100)
    places = failure(caught.value).split(" < ")
    assert len(places) == 30
    assert places[0].endswith(":deep")


PROGRAM = """
import ctypes, os, sys
from common.system import logs
logs.configure("vault", private=True)
libc = ctypes.CDLL(None)
with logs.nothing_else():
    print("{secret}")
    sys.stderr.write("{secret}")
    libc.printf(b"{secret}")
    os.write(1, b"{secret}")
    os.write(2, b"{secret}")
    os.system("echo {secret}")
    logs.report("here")
    {last}
logs.report("after")
print("printed")
"""


@pytest.mark.parametrize("last", ["pass", "os._exit(0)"])
def test_what_is_printed_past_the_log_is_lost_while_records_are_open(last: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(secret=SECRET, last=last)],
        capture_output=True,
        text=True,
        check=True,
        # Buffered, also where the tests run otherwise: the text would come out when the program ends.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
    )
    assert ended.stderr == ""
    assert ended.stdout == ("here\nafter\nprinted\n" if last == "pass" else "here\n")


def test_an_unknown_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "xml")
    with pytest.raises(InputError, match="log format = 'xml': it should be one of human, json"):
        logs.configure("server")


def test_at_the_end_all_is_as_before() -> None:
    before = (logging.root.handlers[:], warnings.showwarning, sys.excepthook)
    logs.configure("vault", private=True)
    logs.configure("vault", "st-mary", private=True)
    assert sys.excepthook != before[2]
    logs.reset()
    assert (logging.root.handlers, warnings.showwarning, sys.excepthook) == before
