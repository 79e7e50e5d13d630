"""Organizations with tiny real vaults, on a socket in this process or as a process of their own."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from client.channel import vault_pb2 as pb
from client.channel.framing import split
from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.service import VaultServer
from client.vault.training.entropy import Entropy
from client.vault.vault import Vault
from common.adapter import adapter
from common.keys.statement_key import StatementKey
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import Description, Participant, Release, TrainRequest
from common.protocol.statement import Statement
from common.records import read_records
from simulations.entropy import SeededEntropy
from tests.conftest import ROOT
from tests.programs.start import start
from tests.waiting import LONG, wait_until

RECORDS = [{"text": f"Customer: where is parcel {n}?\nAgent: on its way to you."} for n in range(30)]


def write_organization(folder: Path, base: Path, **vault: Any) -> Path:
    """An organization's file and records; keywords are keys of its section `vault`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    values = {
        "name": "st-mary",
        "data": {"train": "records.jsonl", "public_size": 40},
        "models": {str(base): str(base)},
        "policy": {
            "max_epsilon": 20.0,
            "max_epsilon_per_run": 8.0,
            "max_delta": 5e-3,
            "plans": "any-within-policy",
        },
        "vault": vault,
    }
    key = folder / "keys" / "statement.key"
    if not key.exists():
        key.parent.mkdir()
        StatementKey.generate().write(key)
    path = folder / "organization.toml"
    path.write_text(tomli_w.dumps(values))
    return path


def open_vault(path: Path, entropy: Entropy | None = None) -> Vault:
    """The vault of an organization's file, in this process."""
    organization = Organization.read(path)
    section = organization.vault
    key = StatementKey.read(organization.path(section.statement_key))
    ledger = Ledger(organization.path(section.ledger), organization.name, organization.data.unit, key)
    records = read_records(organization.path(organization.data.train))
    return Vault(organization, records, ledger, LoraModel, entropy or SeededEntropy(7), "same user")


_starts: dict[bytes, tuple[str, bytes]] = {}


def request_for(plan: Plan, round_number: int = 1, run: str = "test-run") -> TrainRequest:
    """A round's request as the coordinator makes it."""
    canonical = plan.canonical()
    if canonical not in _starts:
        model = LoraModel(plan.model.base, plan)
        _starts[canonical] = model.fingerprint, adapter.to_bytes(adapter.initial(model.trained_shapes, 0))
    fingerprint, start = _starts[canonical]
    return TrainRequest(run, round_number, canonical, fingerprint, start)


def parts(request: TrainRequest) -> Iterator[pb.TrainPart]:
    """The messages of a request."""
    yield pb.TrainPart(
        head=pb.TrainHead(
            run=request.run,
            round=request.round,
            plan=request.plan,
            fingerprint=request.fingerprint,
            adapter_size=len(request.adapter),
        )
    )
    for piece in split(request.adapter):
        yield pb.TrainPart(data=piece)


class Gate:
    """Passes on what a participant is asked; what it trains waits until the gate is opened.

    Args:
        inner: the participant.
    """

    def __init__(self, inner: Participant) -> None:
        self._inner = inner
        self._open = threading.Event()
        self.reached = threading.Semaphore(0)
        self.trained: list[TrainRequest] = []

    def describe(self) -> Description:
        return self._inner.describe()

    def statement(self, run: str) -> Statement:
        return self._inner.statement(run)

    def train(self, request: TrainRequest) -> Release:
        self.trained.append(request)
        self.reached.release()
        assert self._open.wait(LONG)
        return self._inner.train(request)

    def open(self) -> None:
        self._open.set()

    def wait_reached(self) -> None:
        assert self.reached.acquire(timeout=LONG)


@dataclasses.dataclass
class Echo:
    """A participant whose release is the adapter that it was sent, or whose training fails.

    Attributes:
        error: what training raises.
    """

    error: BaseException | None = None

    def describe(self) -> Description:
        if self.error is not None:
            raise self.error
        return Description("echo", "example", 40)

    def statement(self, run: str) -> Statement:
        raise self.error or LookupError(run)

    def train(self, request: TrainRequest) -> Release:
        if self.error is not None:
            raise self.error
        return Release(request.adapter)


@contextmanager
def served(participant: Participant, socket: Path, group: str | None = None) -> Iterator[VaultServer]:
    """A server on a socket, as long as the context lasts."""
    server = VaultServer(participant, socket, group)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class VaultProcess:
    """`sotto vault start` as a user starts it; what it prints is in two files.

    Args:
        path: the organization's file.
        before: a command in front, for instance of `unshare`.
    """

    def __init__(self, path: Path, *before: str) -> None:
        self.output, self.errors = path.with_suffix(".out"), path.with_suffix(".err")
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            command = [*before, sys.executable, "-m", "sotto", "vault", "start", path]
            self.process = start(command, cwd=ROOT, output=output, errors=errors)

    def __enter__(self) -> VaultProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def answers(self) -> bool:
        """Whether it has said that it answers."""
        assert self.process.poll() is None, self.errors.read_text()
        return "the vault answers at" in self.output.read_text()

    def wait_ready(self) -> VaultProcess:
        wait_until(lambda: self.answers, "the vault's ready line")
        return self

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; the exit code and what stood on standard error."""
        self.process.send_signal(number)
        return self.process.wait(LONG), self.errors.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LONG)
