"""`sotto run`: one federated run, submitted to the SuperLink of this machine and watched to its true end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import SottoError
from common.plan.plan import Plan
from common.system.lock import is_held
from common.system.network import Address
from server.run.flwr_cli import Flower
from server.run_directory.run_directory import RunDirectory, ensure_free
from server.run_directory.selection import result_line
from server.run_directory.status import Status
from server.superlink.settings import Server, is_ready
from server.tracking.observer import Observer, Observers

_POLL_SECONDS = 0.1
# Flower starts the ServerApp within seconds; when it does not, Flower is asked why.
_START_SECONDS = 15.0
_STOP_SECONDS = 15.0
_SERVER_SECONDS = 15.0
# When an organization has not answered for so long, its name is told; then after twice as long.
_LATE_SECONDS = 30.0


def run_federated(
    plan: Plan, out: Path, server: Server, *, resume: bool, run: str | None, observer: Observer
) -> tuple[RunDirectory, dict[str, Any]]:
    """Run a plan with the organizations that are connected to a SuperLink.

    Args:
        plan: of the run.
        out: the run directory; it holds no run yet, unless `resume`.
        server: the SuperLink's settings.
        resume: continue the run that `out` holds.
        run: the id of a new run; one is made if it is missing.
        observer: told of the progress.

    Returns:
        The run directory and the privacy report.

    Raises:
        InputError: the plan does not fit the model, or `out` does not fit; nothing is spent.
        SottoError: there is no SuperLink, or the run ended before it was complete; it can be resumed.
    """
    address = server.superlink_at
    if not resume:
        ensure_free(out)
    _wait_for_server(address)
    # Torch takes seconds to load: the mistakes above are told before.
    from common.model.model import LoraModel
    from server.results.adapter_folder import write_result
    from server.run.start import resume_run, start_run
    from server.tracking.tensorboard import TensorBoard

    model = LoraModel(plan.base_folder(), plan)
    if resume:
        directory = resume_run(plan, out, True, model, authenticated=not server.insecure)
    else:
        directory = start_run(plan, out, True, model, run, server.registry, authenticated=not server.insecure)
    with TensorBoard(directory.path / "tensorboard") as board:
        _run(directory, address, Observers(observer, board))
    adapter = directory.checkpoint(result_line(directory.plan, directory.rounds()).round)
    return directory, write_result(directory, model, adapter)


def _wait_for_server(address: Address) -> None:
    """A SuperLink that was killed is being started again: it is given a moment."""
    deadline = time.monotonic() + _SERVER_SECONDS
    while not is_ready(address):
        if time.monotonic() > deadline:
            raise SottoError(f"no server answers at {address}; start it with: sotto server start")
        time.sleep(_POLL_SECONDS)


def _run(directory: RunDirectory, address: Address, observer: Observer) -> None:
    flower = Flower(address)
    if is_held(directory.path / "run"):
        # An earlier `sotto run` was killed, but its ServerApp goes on: watch that one.
        status = directory.status.read()
        identity = status.flower_run if status else ""
    else:
        earlier = directory.status.read()
        if earlier is not None:
            # Its ServerApp may have died: organizations would wait for what that had begun to send.
            with suppress(SottoError):
                flower.stop(earlier.flower_run)
        directory.status.forget()
        identity = flower.submit(directory.path.absolute())
    with _stopped_on_error(flower, identity, directory):
        _follow(directory, observer, (flower, identity))


@contextmanager
def _stopped_on_error(flower: Flower, identity: str, directory: RunDirectory) -> Iterator[None]:
    """Whatever ends the watching, Ctrl-C for instance, ends the run as well: it can be resumed."""
    try:
        yield
    except BaseException:
        status = directory.status.read()
        # Flower may be about to start the ServerApp. One that said that it failed ends by itself.
        if status is None or status.state != "failed":
            with suppress(SottoError):
                flower.stop(identity)
            deadline = time.monotonic() + _STOP_SECONDS
            while is_held(directory.path / "run") and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
        raise


def _follow(directory: RunDirectory, observer: Observer, submitted: tuple[Flower, str]) -> None:
    """Pass on the progress of a ServerApp until it ends.

    Raises:
        SottoError: it ended before the run was complete.
    """
    # Round 0 has its line before anybody answers: a run without another round begins before it.
    told, done = Status(""), directory.latest_checkpoint()[0] or -1
    begin = time.monotonic()
    silence = _Silence()
    while True:
        # In this order: a ServerApp that says "complete" and then lets go is never taken for a dead one.
        held = is_held(directory.path / "run")
        status = directory.status.read()
        if status is not None:
            if status != told:
                done = _pass_on(directory, observer, told, status, done)
                silence = _Silence()
            silence.tell(status, observer)
            if status.state == "complete":
                return
            if status.state == "failed":
                raise SottoError(f"{status.reason}; continue with --resume")
            # One that speaks for the first time may have begun after the look at the lock.
            if not held and told.state:
                raise SottoError("the ServerApp ended before the run was complete; continue with --resume")
            told = status
        elif time.monotonic() - begin > _START_SECONDS:
            _raise_if_over(*submitted)
            begin = time.monotonic()
        time.sleep(_POLL_SECONDS)


class _Silence:
    """How long nothing was heard of the organizations that a round waits for."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._next = _LATE_SECONDS

    def tell(self, status: Status, observer: Observer) -> None:
        """Name them, now and then."""
        if time.monotonic() - self._began < self._next:
            return
        missing = [name for name in status.organizations if name not in status.answered]
        if status.state == "running" and missing:
            observer.late(missing, self._next)
        self._next *= 2


def _pass_on(directory: RunDirectory, observer: Observer, told: Status, status: Status, done: int) -> int:
    """Tell what is new since the last look. A round's line is written before the status that follows it.

    Args:
        directory: of the run.
        observer: told of it.
        told: the status at the last look.
        status: the status now, another one.
        done: the last round that was told as complete, or that was complete when the watching began.

    Returns:
        `done` for the next look.
    """
    if status.state == "waiting":
        observer.waiting(status.organizations, directory.plan.federation.min_organizations)
    for line in directory.rounds():
        if line.round > done:
            observer.finished(line)
            done = line.round
    # The line of a round may be there before the last answer of that round was told.
    if status.state == "running" and status.round > done:
        if (status.round, status.organizations) != (told.round, told.organizations):
            observer.started(status.organizations, status.round - 1)
            told = Status("running", status.round, status.organizations)
        for name in status.answered[len(told.answered) :]:
            observer.answered(name)
    return done


def _raise_if_over(flower: Flower, identity: str) -> None:
    state, details = flower.state(identity)
    if state.startswith("finished"):
        raise SottoError(f"the ServerApp did not start ({state}): {details or 'see the log of the server'}")
