"""Start a program for a test: as a fork of a warm process where that is the same, cold where it is not."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from common.system.processes import FLOWER_ENVIRONMENT
from tests.programs.forked import module_or_script

ROOT = Path(__file__).parent.parent.parent
# Where the server of a test run listens, and the process that it ends with; set in tests/conftest.py.
FOLDER_VARIABLE = "SOTTO_TEST_PROGRAMS"
OWNER_VARIABLE = "SOTTO_TEST_OWNER"
_START_SECONDS = 120.0
# Forked programs write their own command line where the server's is.
_ROOM = "/" * 4096


class Process(Protocol):
    """What tests do with a process; `subprocess.Popen` is one."""

    pid: int
    returncode: Any

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class ForkedProcess:
    """A program that the server forked.

    Args:
        connection: to the server, which has the request.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._answers = connection.makefile("rb")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._end(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, when it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        code = self._end(timeout)
        if code is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        return code

    def _end(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            # An answer is a few bytes in one piece: once it begins it is there.
            self._connection.settimeout(timeout)
            try:
                begun = self._connection.recv(1, socket.MSG_PEEK)
            except (TimeoutError, BlockingIOError):
                return None
            assert begun, "the server of forked programs is gone"
            self._connection.settimeout(None)
            self.returncode = int(self._answers.readline())
            self._connection.close()
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[object], *, cwd: Path, output: IO[bytes], errors: IO[bytes] | None = None, **environment: str
) -> Process:
    """Start a program with this process's environment.

    Args:
        command: what to run. Forked if it is a module of this Python or a script of Flower.
        cwd: its working directory.
        output: for its standard output.
        errors: for its standard error; None for the same file.
        environment: added to this process's. With a `PYTHONPATH` of its own, or `SOTTO_TEST_COLD`, a program is
            started cold, as a user starts it.
    """
    words = [str(part) for part in command]
    added = {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), "COLUMNS": "400", **environment}
    env = {**os.environ, **added}
    cold = env["PYTHONPATH"] != python_path() or env.get("SOTTO_TEST_COLD") or module_or_script(words) is None
    streams = [output.fileno(), (errors or output).fileno()]
    if cold:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            cwd=cwd,
            env=env,
            # A test run in a shell's background ignores the signal, and its children would inherit that.
            preexec_fn=_hear_interrupts,
        )
    connection = _connect()
    request = json.dumps({"command": words, "cwd": str(cwd), "env": env}).encode() + b"\n"
    with Path(os.devnull).open("rb") as nothing:
        sent = socket.send_fds(connection, [request], [nothing.fileno(), *streams])
        connection.sendall(request[sent:])
        return ForkedProcess(connection)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def python_path() -> str:
    """Programs run the code under test, also where that is a copy."""
    inherited = [
        part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part not in ("", str(ROOT))
    ]
    return os.pathsep.join([str(ROOT), *inherited])


def _connect() -> socket.socket:
    folder = Path(os.environ[FOLDER_VARIABLE])
    path = folder / "socket"
    with (folder / "lock").open("wb") as lock:
        # Workers come here at the same time: one starts the server, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _start_server(folder, path)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


def _start_server(folder: Path, path: Path) -> None:
    environment = {**os.environ, **FLOWER_ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path()}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.programs.server", str(path), os.environ[OWNER_VARIABLE], _ROOM],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=environment,
            # It serves all workers, and outlives the one that started it.
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_SECONDS
    while not path.exists():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
