"""kill -9 of whole vaults, made by `sotto vault start`, at random moments; and a vault whose disk is full."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from client.relay.vault_client import RemoteVault
from common.errors import Refused
from common.protocol.protocol import REASONS, Release
from tests.client.vault.kills.audit import (
    PRIVACY,
    ROUNDS,
    STEPS,
    Attempt,
    Audit,
    Chance,
    Home,
    Key,
    make_home,
    read_books,
)
from tests.client.vault.kills.pace import Pace
from tests.client.vaults import VaultProcess
from tests.conftest import MakePlan
from tests.waiting import LONG, wait_until

PROCESS_KILLS = int(os.environ.get("SOTTO_SOAK_KILLS", "10"))


def fill(disk: Path) -> Path:
    """Leave no byte on a disk; the file that takes them all."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    return filler


@pytest.mark.slow
def test_a_vault_whose_disk_is_full_refuses_and_goes_on_when_there_is_space_again(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    training = {"rounds": 1, "local_steps": 40, "batch_size": 40}
    home = make_home(tmp_path, make_plan(training=training, privacy=PRIVACY), ledger="disk/ledger.db")
    home.ledger.parent.mkdir()
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount += ['mount -t tmpfs -o size=256k none "$0" && exec "$@"', str(home.ledger.parent)]
    if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not permit unshare --mount")
    request = home.request(("test-run", 1))
    with (
        VaultProcess(home.path, *mount).wait_ready() as vault,
        RemoteVault(tmp_path / "vault.sock", LONG, LONG) as asked,
        ThreadPoolExecutor(1) as caller,
    ):
        # The vault alone has its small disk mounted; SQLite would follow this link to the folder below.
        ledger = Path(f"/proc/{vault.process.pid}/root{home.ledger}")

        def books() -> tuple[list[str], dict[Key, bytes]]:
            found = read_books(ledger, tmp_path / "scratch")
            return list(found.charges), found.stored

        filler = fill(ledger.parent)
        assert refusal_of(caller.submit(asked.train, request)) == ("training-failed", "")
        assert books() == ([], {})
        filler.unlink()
        answer = caller.submit(asked.train, request)
        wait_until(lambda: is_charged(asked, "test-run"), "the charge")
        filler = fill(ledger.parent)
        assert refusal_of(answer) == ("training-failed", "")
        assert books() == (["test-run"], {})
        filler.unlink()
        release = asked.train(request)
        assert asked.train(request) == release
        assert books() == (["test-run"], {("test-run", 1): release.update})
        code, log = vault.end(signal.SIGTERM)
    assert code == 0
    assert log.count("OperationalError (SQLITE_FULL)") == 2


def is_charged(asked: RemoteVault, run: str) -> bool:
    try:
        return asked.statement(run).run == run
    except Refused:
        return False


def refusal_of(answer: Future[Release]) -> tuple[str, str]:
    with pytest.raises(Refused) as caught:
        answer.result(LONG)
    assert caught.value.code in REASONS
    return caught.value.code, caught.value.detail


def charged(ledger: Path) -> list[str]:
    """The runs that are charged, while a vault writes."""
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=30)) as database:
        entries = [json.loads(entry) for (entry,) in database.execute("SELECT entry FROM chain ORDER BY number")]
    return [entry["run"] for entry in entries if entry["kind"] == "run"]


# Whole vaults


class AskedProcess:
    """`sotto vault start`, asked one thing over its socket by a thread.

    Args:
        home: of the vault, which nobody else uses.
        process: answers already.
        key: what is asked.
        is_stored: whether its answer is in the ledger already.
        asked: the vault's relay, without patience.
        caller: the thread.
    """

    def __init__(
        self,
        home: Home,
        process: VaultProcess,
        key: Key,
        is_stored: bool,
        asked: RemoteVault,
        caller: ThreadPoolExecutor,
    ) -> None:
        self.began = time.perf_counter()
        self.journal = home.journal
        self._process = process
        self._home = home
        self._key = key
        self._is_stored = is_stored
        self._answer = caller.submit(asked.train, home.request(key))

    def has_charged(self) -> bool:
        return self.has_answered() or self._key[0] in charged(self._home.ledger)

    def has_answered(self) -> bool:
        return self._answer.done()

    def kill(self) -> Attempt:
        self._process.kill()
        assert self._process.errors.read_text() == ""
        try:
            return Attempt(self._answer.result(LONG).update, whole=True, trained=not self._is_stored)
        except Refused as refused:
            return Attempt(refusal=refused.code)


def test_vault_processes_that_are_killed_at_random_moments_never_count_less_than_they_released(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    chance = Chance()
    # With q = 1 the noise is found in a fraction of the time; each vault process has to find it again.
    training = {"rounds": ROUNDS, "local_steps": STEPS, "batch_size": 40}
    home = make_home(tmp_path, make_plan(training=training, privacy=PRIVACY))
    audit = Audit(home)
    # Each process loads the model, before the charge if that is still to be made.
    paces = {False: Pace(), True: Pace()}
    for number in range(PROCESS_KILLS):
        key = audit.next_key(chance)
        was_charged = key[0] in audit.books.charges
        pace = paces[was_charged]
        aim = pace.choose_aim(was_charged, chance)
        with chance.told(f"kill {number}: {aim} of {key}"):
            asked = RemoteVault(tmp_path / "vault.sock", LONG, patience=0.0)
            with VaultProcess(home.path).wait_ready() as process, ThreadPoolExecutor(1) as caller, asked:
                attempt = pace.kill(
                    AskedProcess(home, process, key, key in audit.books.stored, asked, caller), aim, chance
                )
            assert attempt.whole or attempt.refusal == "vault-unavailable"
            audit.check(key, attempt)
    with chance.told(audit.hit):
        assert audit.hits("settled") >= PROCESS_KILLS // 10
        assert audit.hits("before the charge") + audit.hits("charged") >= PROCESS_KILLS // 10
