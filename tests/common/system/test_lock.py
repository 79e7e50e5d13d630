"""One process at a time: a lock that ends with its holder, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.system.lock import Held, exclusive, is_held
from tests.conftest import ROOT

HOLD = """
import sys, pathlib
from common.system.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its input ends."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_process_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with (
        holder(tmp_path / "ledger.db") as process,
        pytest.raises(Held) as caught,
        exclusive(tmp_path / "ledger.db"),
    ):
        pass
    assert caught.value.holder == str(process.pid)


def test_two_in_one_process_exclude_each_other_too(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a"), exclusive(tmp_path / "b"), pytest.raises(Held), exclusive(tmp_path / "a"):
        pass


def test_the_lock_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with holder(path) as process:
        assert is_held(path)
        process.kill()
        process.wait()
        with exclusive(path):
            assert is_held(path)
    assert not is_held(path)


def test_the_lock_ends_with_an_exception(tmp_path: Path) -> None:
    with pytest.raises(LookupError), exclusive(tmp_path / "a"):
        raise LookupError
    with exclusive(tmp_path / "a"):
        pass


def test_who_is_patient_gets_the_lock_when_it_is_given_back(tmp_path: Path) -> None:
    with holder(tmp_path / "a") as process:
        assert process.stdin is not None
        threading.Timer(0.2, process.stdin.close).start()
        with exclusive(tmp_path / "a", patience=60):
            process.wait()
    assert process.returncode is not None


def test_patience_has_an_end(tmp_path: Path) -> None:
    with holder(tmp_path / "a"):
        began = time.monotonic()
        with pytest.raises(Held), exclusive(tmp_path / "a", patience=0.3):
            pass
        assert time.monotonic() - began >= 0.3


def test_to_look_makes_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    assert not is_held(path)
    assert not is_held(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []
    with holder(path) as process:
        assert is_held(path)
        assert (path.parent / "ledger.db.lock").read_text() == str(process.pid)
    assert not is_held(path)
    assert (path.parent / "ledger.db.lock").read_text() == str(process.pid)


def test_one_who_looks_is_no_holder_for_another_who_looks(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with exclusive(path):
        pass
    looks: list[bool] = []

    def look() -> None:
        looks.extend(is_held(path) for _ in range(500))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert looks == [False] * 2000


def test_a_link_to_a_file_has_the_files_lock(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "ledger.db")
    (tmp_path / "folder").symlink_to(tmp_path)
    with exclusive(tmp_path / "ledger.db"):
        assert is_held(tmp_path / "link.db")
        with pytest.raises(Held), exclusive(tmp_path / "folder" / "link.db"):
            pass


def test_a_program_that_is_started_meanwhile_does_not_inherit_the_lock(tmp_path: Path) -> None:
    with exclusive(tmp_path / "a"):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert not is_held(tmp_path / "a")
    finally:
        child.kill()
        child.wait()


def test_lock_and_new_folder_are_for_their_own_user_alone(tmp_path: Path) -> None:
    with exclusive(tmp_path / "new" / "a"):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "new" / "a.lock").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "new" / "a").exists()
