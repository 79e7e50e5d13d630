"""The supervisor: it starts children again with growing pauses, and nothing that they started outlives it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.waiting import wait_until

# A supervisor in a process of its own: it takes over signals, and adopts whatever its descendants leave behind.
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from common.errors import SottoError
from common.system.processes import Supervisor

with Supervisor(lambda text: print(text, flush=True)) as supervisor:
    {body}
print("ended", flush=True)
"""

# Ignores SIGTERM, as does the child that it starts; both write down who they are.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, __file__, sys.argv[1]], start_new_session=True)
    if sys.argv[2] == "leaves":
        time.sleep(1)
        sys.exit(3)
time.sleep(600)
"""

Start = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    output = (tmp_path / "printed").open("wb")

    def run(body: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR.format(body=body)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            for one in (*psutil.Process(process.pid).children(recursive=True), process):
                one.kill()
        process.wait()
    output.close()


def command(code: str) -> str:
    return f"[sys.executable, '-c', {code!r}]"


def stubborn(*arguments: str) -> str:
    return f"[sys.executable, 'stubborn.py', {', '.join(map(repr, arguments))}]"


def family(file: Path, count: int, skip: int = 0) -> list[psutil.Process]:
    """The processes that have written down who they are, without the first ones."""
    wait_until(lambda: file.exists() and len(file.read_text().split()) >= count, f"{count} processes")
    return [psutil.Process(int(number)) for number in file.read_text().split()[skip:]]


def assert_gone(processes: list[psutil.Process]) -> None:
    _, left = psutil.wait_procs(processes, timeout=30)
    assert left == []


def test_a_child_that_ends_is_started_again_after_pauses_that_double(start: Start, tmp_path: Path) -> None:
    child = command("import time; open('times', 'a').write(f'{time.monotonic()}\\n'); raise SystemExit(7)")
    process = start(f"supervisor.start('short', {child}, {{}}, Path('log')); supervisor.run()")
    printed = tmp_path / "printed"
    wait_until(lambda: printed.read_text().count("\n") >= 3, "three lines")
    said = [f"short ended with code 7; restarting in {pause} s; see log" for pause in ("0.5", "1", "2")]
    assert printed.read_text().splitlines()[:3] == said
    times = [float(line) for line in (tmp_path / "times").read_text().split()]
    assert times[1] - times[0] >= 0.5
    assert times[2] - times[1] >= 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_and_grandchildren_that_ignore_sigterm_end_with_the_supervisor(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(f"supervisor.start('one', {stubborn('pids', 'stays')}, {{}}); supervisor.run()")
    left = family(tmp_path / "pids", 2)
    process.send_signal(number)
    assert process.wait(60) == 0
    assert_gone(left)
    assert (tmp_path / "printed").read_text() == "ended\n"


def test_what_a_child_leaves_behind_ends_before_it_is_started_again(start: Start, tmp_path: Path) -> None:
    process = start(f"supervisor.start('one', {stubborn('pids', 'leaves')}, {{}}); supervisor.run()")
    first = family(tmp_path / "pids", 2)
    again = family(tmp_path / "pids", 3, skip=2)
    assert_gone(first)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert_gone(again)


def test_a_child_takes_another_along(start: Start, tmp_path: Path) -> None:
    lasting = command(
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), os._exit(0))); "
        "open('pids', 'a').write(f'{os.getpid()}\\n'); time.sleep(600)"
    )
    fails_once = command(
        "import os, time; first = not os.path.exists('seen'); open('seen', 'a'); time.sleep(2 if first else 600)"
    )
    process = start(
        f"supervisor.start('node', {lasting}, {{}}, takes_along='relay'); "
        f"supervisor.start('relay', {fails_once}, {{}}, takes_along='node'); supervisor.run()"
    )
    first = family(tmp_path / "pids", 1)
    again = family(tmp_path / "pids", 2, skip=1)
    assert_gone(first)
    time.sleep(4)  # the two do not end each other again and again
    assert (tmp_path / "printed").read_text().count("restarting in") == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert_gone(again)


def test_children_end_with_a_supervisor_that_is_killed(start: Start, tmp_path: Path) -> None:
    child = command("import os, time; open('pids', 'a').write(f'{os.getpid()}\\n'); time.sleep(600)")
    process = start(f"supervisor.start('one', {child}, {{}}); supervisor.run()")
    left = family(tmp_path / "pids", 1)
    process.kill()
    process.wait()
    assert_gone(left)


def test_a_child_that_ends_while_it_is_waited_for_is_said(start: Start, tmp_path: Path) -> None:
    process = start(
        f"""supervisor.start('one', {command("raise SystemExit(4)")}, {{}}, Path('log'))
    try:
        supervisor.wait_for(lambda: False, 60)
    except SottoError as error:
        print(error)"""
    )
    assert process.wait(60) == 0
    assert (tmp_path / "printed").read_text() == "one ended with code 4 while it started; see log\nended\n"


def test_waiting_ends_when_the_supervisor_is_stop_requested(start: Start, tmp_path: Path) -> None:
    process = start(
        "Path('here').touch(); print(supervisor.wait_for(lambda: False, 600), supervisor.stop_requested)"
    )
    while not (tmp_path / "here").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert (tmp_path / "printed").read_text() == "False True\nended\n"
