"""Child processes that are bound to their parent: restarted when they fail, never left running without it."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

import psutil

from common.errors import SottoError

_POLL_SECONDS = 0.1
_TERM_SECONDS = 8.0
_ORPHAN_SECONDS = 3.0
_LONGEST_PAUSE = 30.0
# After a child has run this long, the pause before its next restart is reset.
_STEADY_SECONDS = 60.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

# For Flower's programs: no telemetry, no update check, no installation at run time.
FLOWER_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}


class ChildFailed(SottoError):
    """A child ended with an exit code after which a restart is of no use; `exit_code` is the child's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.exit_code = code


@dataclass
class _Child:
    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path | None
    process: subprocess.Popen[bytes]
    started: float
    takes_along: str | None
    final: frozenset[int]
    taken_along: bool = False
    pause: float = 0.5
    again_at: float | None = None


class Supervisor:
    """Starts children, restarts them, and ends them with all their descendants; a context manager.

    Args:
        report: called with one line for each event of a child.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._children: list[_Child] = []
        self._stop_requested = False
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def __enter__(self) -> Supervisor:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        if self._libc is not None:
            # Orphaned descendants are reparented to this process, so that it can end and reap them.
            self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        # Not a `threading.Event`: the interrupted thread may hold its lock.
        self._stop_requested = True

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path | None = None,
        takes_along: str | None = None,
        final: frozenset[int] = frozenset(),
    ) -> None:
        """Start a child.

        Args:
            name: for the reports.
            command: the program and its arguments.
            environment: variables added to those of this process.
            log: a file for its output; None for the output of this process.
            takes_along: another child that cannot continue without this one, and is restarted with it.
            final: exit codes after which a restart is of no use.
        """
        process = self._spawn(command, environment, log)
        self._children.append(
            _Child(name, command, environment, log, process, time.monotonic(), takes_along, final)
        )

    def _spawn(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path | None
    ) -> subprocess.Popen[bytes]:
        output: IO[bytes] | None = log.open("ab") if log is not None else None
        try:
            return subprocess.Popen(  # noqa: S603 - the commands come from this code base
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output is not None else None,
                # Ctrl-C reaches only this process, which then ends its children in order.
                start_new_session=True,
                preexec_fn=functools.partial(self._die_with_parent, os.getpid()),
            )
        finally:
            if output is not None:
                output.close()

    def _die_with_parent(self, parent: int) -> None:
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)  # the parent died before the death signal was set

    def run(self, watch: Callable[[], None] = lambda: None) -> None:
        """Keep the children running until this process receives SIGTERM or SIGINT.

        Args:
            watch: called repeatedly; its exceptions are not caught.

        Raises:
            ChildFailed: a child ended with a final exit code.
        """
        while not self._pause():
            watch()
            self.tend()

    def _pause(self) -> bool:
        time.sleep(_POLL_SECONDS)
        return self._stop_requested

    def wait_for(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition.

        Args:
            ready: the condition; called repeatedly.
            seconds: the longest time to wait.

        Returns:
            Whether it became true; False also if this process receives SIGTERM or SIGINT.

        Raises:
            SottoError: a child ended meanwhile.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            ended = [child for child in self._children if child.process.poll() is not None]
            if ended:
                first = ended[0]
                raise SottoError(
                    f"{first.name} ended with code {first.process.returncode} while it started{_see(first)}"
                )
            if self._pause() or time.monotonic() > deadline:
                return False
        return True

    @property
    def stop_requested(self) -> bool:
        """Whether this process has received SIGTERM or SIGINT."""
        return self._stop_requested

    def tend(self) -> None:
        """Restart children that ended, after a pause that doubles each time.

        Raises:
            ChildFailed: a child ended with a final exit code.
        """
        now = time.monotonic()
        for child in self._children:
            code = child.process.poll()
            if code is None:
                continue
            if code in child.final:
                raise ChildFailed(f"{child.name} ended with code {code}{_see(child)}", code)
            if child.again_at is None:
                if now - child.started > _STEADY_SECONDS:
                    child.pause = 0.5
                child.again_at = now + child.pause
                self._report(f"{child.name} ended with code {code}; restarting in {child.pause:g} s{_see(child)}")
                child.pause = min(2 * child.pause, _LONGEST_PAUSE)
                self._take_along(child)
            elif now >= child.again_at:
                self._end_orphans()
                child.process = self._spawn(child.command, child.environment, child.log)
                child.started, child.again_at, child.taken_along = now, None, False

    def _take_along(self, child: _Child) -> None:
        for other in self._children:
            # A child that is restarted with another does not restart a third: two may depend on each other.
            if other.name == child.takes_along and not child.taken_along and other.process.poll() is None:
                other.taken_along = True
                other.process.terminate()

    def stop(self) -> None:
        """End all children and all their descendants."""
        for child in self._children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + _TERM_SECONDS
        for child in self._children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children.clear()
        self._end_orphans()

    def _end_orphans(self) -> None:
        """End the orphaned descendants of dead children, which were reparented to this process."""
        children = {child.process.pid for child in self._children}
        left = [
            process
            for orphan in psutil.Process().children()
            if orphan.pid not in children
            for process in (orphan, *_descendants(orphan))
        ]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in left:
                _send(process, number)
            _, left = psutil.wait_procs(left, timeout=_ORPHAN_SECONDS)


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _see(child: _Child) -> str:
    return f"; see {child.log}" if child.log is not None else ""
