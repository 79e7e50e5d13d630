"""What tests fork is as if it had been started cold, and so is what it starts itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.programs.start import FOLDER_VARIABLE, ForkedProcess, python_path, start
from tests.waiting import wait_until

PROBE = [sys.executable, "-P", "-m", "tests.programs.probe"]
COLD = {"SOTTO_TEST_COLD": "1"}
# The first of each is a fork; what is said of it holds for a program that a user starts.
BOTH = pytest.mark.parametrize("how", [{}, pytest.param(COLD, marks=pytest.mark.slow)], ids=["forked", "cold"])


def probe(folder: Path, *arguments: object, **environment: str) -> tuple[dict[str, Any], int, str, str]:
    """What a probe says, its exit code, its last line, and what it wrote to standard error."""
    with (folder / "output").open("w+b") as output, (folder / "errors").open("w+b") as errors:
        process = start([*PROBE, *arguments], cwd=folder, output=output, errors=errors, **environment)
        assert isinstance(process, ForkedProcess) != ("SOTTO_TEST_COLD" in environment)
        code = process.wait(120)
    written = (folder / "errors").read_text()
    assert (folder / "output").stat().st_size, written
    said, last = (folder / "output").read_text().splitlines()
    return json.loads(said), code, last, written


@BOTH
def test_a_program_has_what_it_was_given_and_ends_as_it_says(tmp_path: Path, how: dict[str, str]) -> None:
    here = tmp_path / "a folder"
    here.mkdir()
    said, code, last, errors = probe(here, 7, "ä", PROBE="given", TMPDIR=str(tmp_path), **how)
    assert (code, last, errors) == (7, "at the end", "to errors\n")
    assert said["arguments"] == [["7", "ä"], [*PROBE, "7", "ä"]]
    assert said["command line"] == [PROBE[0].lstrip("/"), *PROBE[1:], "7", "ä", ""]
    assert said["environment"] == {"PYTHONPATH": python_path(), "PROBE": "given", "OMP_NUM_THREADS": "1"}
    assert (said["folder"], said["temporary"]) == (str(here), str(tmp_path))
    assert (said["name"], said["input"], said["descriptors"]) == ("__main__", "", [0, 1, 2])


@BOTH
def test_a_program_finds_nothing_of_another_one(tmp_path: Path, how: dict[str, str]) -> None:
    with (tmp_path / "help").open("wb") as output:
        other = start([sys.executable, "-P", "-m", "sotto", "--help"], cwd=tmp_path, output=output, **how)
        assert other.wait(120) == 0
    said = probe(tmp_path, 0, **how)[0]
    assert said["signals"] == said["hooks"] == [True, True]
    assert (said["interrupts"], said["threads"]) == (True, 1)
    assert said["logging"] == [30, 1]


@BOTH
def test_the_child_of_a_program_has_its_environment_and_reports_to_it(tmp_path: Path, how: dict[str, str]) -> None:
    child = probe(tmp_path, 0, "child", 5, PROBE="given", **how)[0]["child"]
    assert (child["code"], child["errors"]) == (5, "to errors\n")
    assert child["arguments"] == [["5"], [*PROBE, "5"]]
    assert (child["folder"], child["environment"]["PROBE"]) == (str(tmp_path), "given")
    assert (child["descriptors"], child["threads"], child["child"]) == ([0, 1, 2], 1, None)


@pytest.mark.slow
def test_a_fork_differs_in_nothing_from_a_cold_program(tmp_path: Path) -> None:
    assert probe(tmp_path, 7, "child", 5) == probe(tmp_path, 7, "child", 5, **COLD)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_exit_code_tells_of_the_signal_that_ended_it(tmp_path: Path, number: signal.Signals) -> None:
    with (tmp_path / "output").open("wb") as output:
        process = start([sys.executable, "-m", "timeit", "-n", "100000000000"], cwd=tmp_path, output=output)
    wait_until(lambda: "timeit" in psutil.Process(process.pid).cmdline(), "the program")
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(60) == -number


@pytest.mark.slow
def test_programs_end_when_the_test_run_that_started_them_is_killed(tmp_path: Path) -> None:
    """Its owner is a process of ours here, which starts a program that would last, and is killed."""
    owner = (
        "import os, sys, time; from pathlib import Path; from tests.programs.start import start; "
        "os.environ['SOTTO_TEST_OWNER'] = str(os.getpid()); "
        "output = open('output', 'wb'); "
        "program = start([sys.executable, '-m', 'timeit', '-n', '100000000000'], cwd=Path('.'), output=output); "
        "Path('pid').write_text(str(program.pid)); time.sleep(600)"
    )
    environment = {**os.environ, FOLDER_VARIABLE: str(tmp_path), "PYTHONPATH": python_path()}
    process = subprocess.Popen([sys.executable, "-c", owner], cwd=tmp_path, env=environment)
    try:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", "the program")
        program = psutil.Process(int((tmp_path / "pid").read_text()))
        assert program.is_running()
    finally:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs([program], timeout=60)
    assert left == []
