"""Watching a ServerApp of another process by its run directory: what is passed on, when it is taken for dead."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

import server.run.federated
from common.errors import SottoError
from common.model.model import LoraModel
from common.run.round_line import RoundLine
from common.system.lock import exclusive
from server.run.federated import _follow, _report_progress, _stopped_on_error
from server.run.flower_runs import FlowerRuns
from server.run.start import start_run
from server.run_directory.run_directory import RunDirectory
from server.run_directory.status import Status
from server.tracking.observer import Observer
from server.tracking.progress import ProgressBar
from tests.conftest import MakePlan


class Recorder(Observer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def waiting(self, connected: Iterable[str], needed: int) -> None:
        self.said.append(f"waiting {','.join(connected)} of {needed}")

    def started(self, organizations: Iterable[str], completed: int) -> None:
        self.said.append(f"started {','.join(organizations)} after {completed}")

    def answered(self, organization: str) -> None:
        self.said.append(f"answered {organization}")

    def late(self, organizations: Iterable[str], seconds: float) -> None:
        self.said.append(f"late {','.join(organizations)}")

    def finished(self, line: RoundLine) -> None:
        self.said.append(f"finished {line.round}")


class Submitted(FlowerRuns):
    """FlowerRuns as it says how a run is, and remembers that it was told to stop it."""

    def __init__(self, state: str = "running") -> None:
        self.now = state
        self.stopped: list[str] = []

    def state(self, run: str) -> tuple[str, str]:
        return self.now, "no module"

    def stop(self, run: str) -> None:
        self.stopped.append(run)
        raise SottoError("it cannot be stopped any more")


@pytest.fixture
def directory(make_plan: MakePlan, tiny_base: Path, tmp_path: Path) -> RunDirectory:
    plan = make_plan()
    return start_run(plan, tmp_path / "run", private=True, model=LoraModel(str(tiny_base), plan))


@contextmanager
def server_app(directory: RunDirectory, *steps: Callable[[], None]) -> Iterator[None]:
    """HeldRequests the lock as a ServerApp does, and does something every half a second."""
    held = threading.Event()

    def live() -> None:
        with exclusive(directory.path / "run", patience=5):
            held.set()
            for step in steps:
                step()
                time.sleep(0.5)

    thread = threading.Thread(target=live)
    thread.start()
    held.wait()
    yield
    thread.join()


def test_the_progress_of_another_process_is_passed_on(directory: RunDirectory) -> None:
    def tell(*told: Status | RoundLine) -> Callable[[], None]:
        def write() -> None:
            for one in told:
                if isinstance(one, Status):
                    directory.status.write(one)
                else:
                    directory.round_log.append(one)

        return write

    recorder = Recorder()
    with server_app(
        directory,
        tell(Status("waiting", organizations=["a"])),
        tell(RoundLine(0, {}), Status("running", 1, ["a", "b"])),
        tell(Status("running", 1, ["a", "b"], ["b"])),
        tell(RoundLine(1, {}), Status("running", 2, ["a", "b"], ["a"])),
        tell(RoundLine(2, {}), Status("complete")),
    ):
        _follow(directory, recorder, (Submitted(), "7"))
    assert recorder.said == [
        "waiting a of 2",
        "finished 0",
        "started a,b after 0",
        "answered b",
        "finished 1",
        "started a,b after 1",
        "answered a",
        "finished 2",
    ]


def test_nothing_is_told_of_a_round_after_its_line(directory: RunDirectory) -> None:
    directory.round_log.append(RoundLine(0, {}))
    directory.round_log.append(RoundLine(1, {}))
    recorder = Recorder()
    told = Status("running", 1, ["a", "b"], ["a"])
    assert _report_progress(directory, recorder, told, Status("running", 1, ["a", "b"], ["a", "b"]), 0) == 1
    assert recorder.said == ["finished 1"]


def test_who_is_waited_for_is_named(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.run.federated, "_LATE_SECONDS", 0.2)

    def tell(status: Status) -> Callable[[], None]:
        return lambda: directory.status.write(status)

    recorder = Recorder()
    running = Status("running", 1, ["a", "b", "c"], ["b"])
    with server_app(directory, tell(running), lambda: None, lambda: None, tell(Status("complete"))):
        _follow(directory, recorder, (Submitted(), "7"))
    # After 0.2 s, then after 0.4 s, 0.8 s: the pauses grow.
    assert 2 <= recorder.said.count("late a,c") <= 4
    assert not [said for said in recorder.said if said.startswith("late") and said != "late a,c"]


def test_the_bar_names_whom_it_waits_for_also_where_none_can_be_drawn(make_plan: MakePlan) -> None:
    text = io.StringIO()
    with ProgressBar(make_plan(), True, Console(file=text, width=200)) as bar:
        bar.started(["a", "b"], 2)
        bar.answered("a")
        bar.late(["b"], 30.0)
    assert "round 3: waiting for b since 30 s" in text.getvalue()
    assert "waiting for b\n" in text.getvalue().replace(" \n", "\n")


def test_a_server_app_that_ended_is_said_and_one_that_failed_says_why(directory: RunDirectory) -> None:
    with (
        server_app(directory, lambda: directory.status.write(Status("waiting"))),
        pytest.raises(SottoError, match="ended before the run was complete; continue with --resume"),
    ):
        _follow(directory, Observer(), (Submitted(), "7"))
    directory.status.write(Status("failed", reason="round 1: nobody"))
    with pytest.raises(SottoError, match="round 1: nobody; continue with --resume"):
        _follow(directory, Observer(), (Submitted(), "7"))


def test_a_server_app_that_begins_between_two_looks_is_not_taken_for_dead(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took the lock after the look at the lock, and spoke before the look at what it says."""
    looks = iter([False])
    monkeypatch.setattr(server.run.federated, "is_held", lambda _: next(looks, True))
    directory.status.write(Status("waiting"))
    threading.Timer(0.5, lambda: directory.status.write(Status("complete"))).start()
    _follow(directory, Observer(), (Submitted(), "7"))


def test_a_server_app_that_never_begins_is_asked_for(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.run.federated, "_START_SECONDS", 0.1)
    with pytest.raises(SottoError, match=r"did not start \(finished:failed\): no module"):
        _follow(directory, Observer(), (Submitted("finished:failed"), "7"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SottoError])
def test_a_run_that_has_not_begun_yet_is_stopped_too(directory: RunDirectory, error: type[BaseException]) -> None:
    flower = Submitted()
    with pytest.raises(error), _stopped_on_error(flower, "7", directory):
        raise error
    assert flower.stopped == ["7"]


def test_a_run_that_failed_by_itself_needs_no_stop(directory: RunDirectory) -> None:
    flower = Submitted()
    directory.status.write(Status("failed", reason="so"))
    with pytest.raises(SottoError), _stopped_on_error(flower, "7", directory):
        raise SottoError("so")
    assert flower.stopped == []


def test_a_run_whose_server_app_died_is_stopped(directory: RunDirectory) -> None:
    """Organizations would wait for what it had begun to send."""
    flower = Submitted()
    directory.status.write(Status("running", 1, ["a"]))
    with pytest.raises(SottoError), _stopped_on_error(flower, "7", directory):
        raise SottoError("the ServerApp ended")
    assert flower.stopped == ["7"]
