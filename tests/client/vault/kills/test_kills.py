"""kill -9 at random moments, and a full disk: no ledger ever counts less than was released.

The vaults are forked children that hold a loaded model, so that an attempt takes a tenth of a second and every
part of it is hit often; `test_process_kills.py` kills whole vault processes. After each kill the ledger is held
against everything that was seen of it before: by nothing but SQLite, JSON and SHA-256, in a copy that still has
the journal of the killed one, and by our own class, as the next vault opens it.

Not covered: a machine that loses power. What a killed process has written, the system keeps.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import struct
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from client.vault.service import TrainingThread
from client.vault.training.entropy import Keystream, SystemEntropy
from common.errors import Refused
from common.protocol.protocol import TrainRequest
from tests.client.vault.kills.audit import PRIVACY, ROUNDS, STEPS, Attempt, Audit, Chance, Home, Key, make_home
from tests.client.vault.kills.pace import ANSWER, Pace
from tests.conftest import MakePlan
from tests.waiting import LONG

FORKED_KILLS = 110


@pytest.fixture
def forkable(tmp_path: Path, make_plan: MakePlan) -> Home:
    """A home whose children find everything warm: the model, the accountant's results, PyTorch itself."""
    if torch.accelerator.is_available():
        pytest.skip("where there is an accelerator, PyTorch cannot go backward in a fork")
    plan = make_plan(training={"rounds": ROUNDS, "local_steps": STEPS}, privacy=PRIVACY)
    home = make_home(tmp_path, plan, max_tokens=256)
    with closing(home.open_ledger(tmp_path / "warm.db")) as ledger:
        home.vault(ledger, SystemEntropy()).train(home.request(("warm", 1)))
    return home


# Forked vaults


class Telling:
    """The system's entropy; says through a pipe that a keystream is asked for."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def stream(self, organization: str, run: str, round_number: int) -> Keystream:
        os.write(self._pipe, b".")
        return SystemEntropy().stream(organization, run, round_number)


class ForkedVault:
    """A vault that lives from a fork to a SIGKILL, and is asked one thing.

    Args:
        home: what is loaded.
        request: what is asked.
        file_limit: bytes that a file may have: beyond, writing fails as on a full disk.
    """

    def __init__(self, home: Home, request: TrainRequest, file_limit: int | None = None) -> None:
        self.began = time.perf_counter()
        self.journal = home.journal
        self._answer, answer = os.pipe()
        self._training, training = os.pipe()
        self._process = os.fork()
        if self._process == 0:
            _live(home, request, answer, training, file_limit)
        os.close(answer)
        os.close(training)

    def has_charged(self) -> bool:
        return select.select([self._training, self._answer], [], [], 0)[0] != []

    def has_answered(self) -> bool:
        return select.select([self._answer], [], [], 0)[0] != []

    def kill(self) -> Attempt:
        os.kill(self._process, signal.SIGKILL)
        _, status = os.waitpid(self._process, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        said, trained = _read_all(self._answer), _read_all(self._training)
        if len(said) < FRAME.size:
            return Attempt(trained=trained != b"")
        kind, size = FRAME.unpack_from(said)
        piece = said[FRAME.size :]
        if kind != RELEASE:
            return Attempt(trained=trained != b"", refusal=piece.decode(errors="replace"))
        return Attempt(piece, len(piece) == size, trained != b"")


FRAME = struct.Struct(">cI")
RELEASE, REFUSAL = b"R", b"X"


def _live(home: Home, request: TrainRequest, answer: int, training: int, file_limit: int | None) -> NoReturn:
    """What a forked vault does. It answers at once, as the service does, and lives on until it is killed."""
    try:
        signal.alarm(round(LONG))  # should the test be gone
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        kind, said = RELEASE, b""
        try:
            service = TrainingThread(home.vault(home.open_ledger(), Telling(training)))
            if file_limit is not None:
                # Python ignores SIGXFSZ: the write fails.
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
            said = service.submit(request).result().update
        except Refused as refusal:
            kind, said = REFUSAL, f"{refusal.code}: {refusal.detail}".encode()
        except BaseException:
            kind, said = REFUSAL, traceback.format_exc().encode()
        frame = FRAME.pack(kind, len(said)) + said
        while frame:
            frame = frame[os.write(answer, frame) :]
        time.sleep(LONG)
    finally:
        os._exit(1)


def _read_all(pipe: int) -> bytes:
    with os.fdopen(pipe, "rb") as file:
        return file.read()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_vaults_that_are_killed_at_random_moments_never_count_less_than_they_released(
    forkable: Home,
) -> None:
    chance = Chance()
    audit, pace = Audit(forkable), Pace()
    for number in range(FORKED_KILLS):
        key = audit.next_key(chance)
        aim = pace.choose_aim(key[0] in audit.books.charges, chance)
        with chance.told(f"kill {number}: {aim} of {key}"):
            attempt = pace.kill(ForkedVault(forkable, forkable.request(key)), aim, chance)
            assert attempt.refusal == ""
            audit.check(key, attempt)
    with chance.told(audit.hit):
        assert audit.hits("before the charge") >= 5
        assert audit.hits("charged, keystream seen") >= 5
        assert audit.hits("settled") >= 5
        assert audit.hits("asked again, stored answer given") >= 5
        assert audit.hits("trained again under the same charge") >= 5


# A full disk


def limits(ledger: Path) -> Iterator[int]:
    """Too little for a journal; enough for one, but not for the ledger to grow; at last enough."""
    yield from (0, 100, 512, 1000, 4000, 6000)
    for pages in range(-1, 7):
        yield ledger.stat().st_size + 4096 * pages


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_wherever_writing_fails_nothing_is_released_and_the_ledger_goes_on_when_there_is_space_again(
    forkable: Home,
) -> None:
    chance = Chance()
    audit, pace = Audit(forkable), Pace()

    def ask(key: Key, limit: int | None) -> Attempt:
        attempt = pace.kill(ForkedVault(forkable, forkable.request(key), limit), ANSWER, chance)
        audit.check(key, attempt)
        return attempt

    for number, limit in enumerate(limits(forkable.ledger)):
        # The first round has to be charged and settled, the second to be settled.
        for key in ((f"run-{number}", 1), (f"run-{number}", 2)):
            with chance.told(f"files of at most {limit} bytes, {key}"):
                limited = ask(key, limit)
                assert limited.whole or limited.refusal == "training-failed: "
                assert ask(key, None).whole
    with chance.told(audit.hit):
        assert audit.hits("before the charge") >= 5
        assert audit.hits("charged, keystream seen") >= 5
        assert audit.hits("asked again, stored answer given") >= 1
