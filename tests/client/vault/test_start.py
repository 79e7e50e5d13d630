"""`sotto vault start` as an operator meets it: it answers, ends when it is told, and refuses what is wrong."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import sotto
from client.channel.framing import grpc_address
from client.relay.vault_client import RemoteVault
from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.start import check_count
from common.errors import InputError, Refused
from common.keys.statement_key import StatementKey
from common.plan.plan import Plan
from common.protocol.protocol import Description
from common.system.lock import is_held
from tests.client.vaults import VaultProcess, request_for, write_organization
from tests.conftest import ROOT, MakePlan
from tests.waiting import LONG, wait_until

ST_MARY = Description("st-mary", "example", 40)


@pytest.fixture
def organization(tmp_path: Path, tiny_base: Path) -> Path:
    return write_organization(tmp_path, tiny_base)


Start = Callable[[Path], tuple[int, str]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Start]:
    """Starts a vault that does not come to answer, in this process: (exit code, standard error)."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(path: Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sotto", "vault", "start", str(path)])
        code = 0
        # A vault that starts after all is told to end.
        limit = threading.Timer(60, os.kill, (os.getpid(), signal.SIGTERM))
        limit.start()
        try:
            sotto.main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            limit.cancel()
        printed, errors = capfd.readouterr()
        assert printed == ""
        return code, errors

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def remote(organization: Path) -> RemoteVault:
    return RemoteVault(organization.parent / "vault.sock", timeout=LONG, patience=LONG)


def spent(organization: Path) -> list[tuple[float, float]]:
    """What the ledger says, read as any other program would."""
    with sqlite3.connect(f"file:{organization.parent / 'ledger.db'}?mode=ro", uri=True, timeout=30) as database:
        entries = [json.loads(entry) for (entry,) in database.execute("SELECT entry FROM chain ORDER BY number")]
    return [(entry["epsilon"], entry["delta"]) for entry in entries if entry["kind"] == "run"]


def rounds(organization: Path) -> list[int]:
    with sqlite3.connect(f"file:{organization.parent / 'ledger.db'}?mode=ro", uri=True, timeout=30) as database:
        return [row[0] for row in database.execute("SELECT round FROM releases ORDER BY round")]


def long_round(make_plan: MakePlan) -> Plan:
    """A plan whose round takes far longer than it takes to end a process."""
    return make_plan(training={"rounds": 1, "local_steps": 500})


def gone(organization: Path) -> bool:
    """Whether nothing of a vault is left: neither its socket nor a process that names its file."""
    named = [process for process in psutil.process_iter(["cmdline"]) if str(organization) in str(process.info)]
    return not named and not (organization.parent / "vault.sock").exists()


def test_a_vault_answers_refuses_a_second_one_and_ends_at_control_c(
    organization: Path, tiny_base: Path, tmp_path: Path, make_plan: MakePlan, start: Start
) -> None:
    with VaultProcess(organization).wait_ready() as vault:
        assert vault.output.read_text() == (
            f"st-mary: the vault answers at {tmp_path / 'vault.sock'} for 30 records\n"
        )
        with grpc.insecure_channel(grpc_address(tmp_path / "vault.sock")) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for name in ("", "sotto.vault.v1.Vault"):
                reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=LONG)
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
        seconds = {
            "vault.ledger": write_organization(tmp_path / "ledger", tiny_base, ledger="../ledger.db"),
            "vault.socket": write_organization(tmp_path / "socket", tiny_base, socket="../vault.sock"),
        }
        for key, path in seconds.items():
            code, errors = start(path)
            assert code == 2
            (line,) = errors.splitlines()
            assert line.startswith(f"error: {key} = ")
            assert line.endswith(f"in use by another vault, process {vault.process.pid}")
        with remote(organization) as asked:
            assert asked.describe() == ST_MARY
            assert asked.train(request_for(make_plan())).update
            assert asked.statement("test-run").boundary == "same user"
        assert vault.end(signal.SIGINT) == (0, "")
    assert gone(organization)
    assert len(spent(organization)) == 1


def test_a_vault_that_is_told_to_end_does_not_wait_for_its_training(
    organization: Path, make_plan: MakePlan
) -> None:
    hasty = RemoteVault(organization.parent / "vault.sock", LONG, patience=0.0)
    with VaultProcess(organization).wait_ready() as vault, ThreadPoolExecutor(1) as caller, hasty as asked:
        answer = caller.submit(asked.train, request_for(long_round(make_plan)))
        wait_until(lambda: len(spent(organization)) == 1, "the reservation")
        code, errors = vault.end(signal.SIGTERM)
        with pytest.raises(Refused, match="vault-unavailable"):
            answer.result(LONG)
    assert code == 0
    (line,) = errors.splitlines()
    assert line.endswith("training is interrupted; it is already charged, and is repeated at the next request")
    assert gone(organization)
    assert rounds(organization) == []


def test_a_killed_vault_that_is_started_again_answers_the_one_who_waits_and_charges_once(
    organization: Path, make_plan: MakePlan
) -> None:
    request = request_for(make_plan(training={"rounds": 1, "local_steps": 60}))
    with remote(organization) as asked, ThreadPoolExecutor(1) as caller:
        with VaultProcess(organization).wait_ready() as vault:
            answer = caller.submit(asked.train, request)
            wait_until(lambda: len(spent(organization)) == 1, "the reservation")
            vault.kill()
        assert (organization.parent / "vault.sock").is_socket()
        assert rounds(organization) == []
        with VaultProcess(organization).wait_ready() as vault:
            release = answer.result(LONG)
            assert asked.train(request) == release
            assert vault.end(signal.SIGTERM) == (0, "")
    assert len(spent(organization)) == 1
    assert rounds(organization) == [1]
    key = StatementKey.read(organization.parent / "keys" / "statement.key")
    ledger = Ledger(organization.parent / "ledger.db", "st-mary", "example", key)
    assert ledger.released("test-run", 1, request.digest()) == release.update


def test_a_vault_needs_no_network_and_many_signals_end_it_as_one_does(
    organization: Path, make_plan: MakePlan
) -> None:
    before = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system does not permit unshare --net")
    with VaultProcess(organization, *before).wait_ready() as vault:
        with remote(organization) as asked:
            assert asked.train(request_for(make_plan())).update
        for number in [signal.SIGTERM, signal.SIGINT] * 20:
            vault.process.send_signal(number)
        assert vault.process.wait(LONG) == 0
        assert vault.errors.read_text() == ""
    assert gone(organization)


def other_ledger(path: Path) -> None:
    Ledger(path.parent / "ledger.db", "another", "example").close()


def edit(old: str, new: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return make


def section(line: str) -> Callable[[Path], None]:
    return edit("[vault]\n", f"[vault]\n{line}\n")


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no file": (lambda path: path.unlink(), "there is no such file"),
    "no records": (lambda path: (path.parent / "records.jsonl").unlink(), "records.jsonl: there is no such file"),
    "empty records": (lambda path: (path.parent / "records.jsonl").write_text(""), "holds no records"),
    "broken records": (lambda path: (path.parent / "records.jsonl").write_text("{"), "line 1 is not JSON"),
    "no model": (edit('" = "/', '" = "/nowhere/'), "it should be the folder of a model in Hugging Face format"),
    "unknown device": (section('device = "gpu"'), "vault.device = 'gpu': it should be a device of this machine"),
    "no such device": (section('device = "cuda:77"'), "vault.device = 'cuda:77': it should be a device"),
    "device without numbers": (section('device = "meta"'), "vault.device = 'meta': it should be a device"),
    "a device of several": (section('devices = ["cpu", "cuda:77"]'), "vault.devices = 'cuda:77': it should be a"),
    "device and devices": (section('device = "cpu"\ndevices = ["cpu"]'), "only one of them should be set"),
    "no workers": (section("workers = 0"), "vault.workers = 0"),
    "half a worker": (section("workers = 1.5"), "vault.workers = 1.5"),
    "device without a library": (section('device = "hpu"'), "vault.device = 'hpu': it should be a device"),
    "unknown group": (section('group = "no-such-group"'), "vault.group = 'no-such-group': the system has no such"),
    "path too long": (section(f'socket = "{"x" * 108}"'), "bytes; the system allows 107"),
    "path with a comma": (section('socket = "a,b.sock"'), "the path of a socket cannot contain a comma"),
    "socket is a file": (
        lambda path: (path.parent / "vault.sock").touch(),
        "exists and is not a socket; it should be a new path",
    ),
    "socket in a file": (section('socket = "records.jsonl/vault.sock"'), "vault.socket = "),
    "links in a circle": (lambda path: (path.parent / "vault.sock").symlink_to("vault.sock"), "vault.socket = "),
    "ledger of another": (other_ledger, "the ledger has organization = 'another'; it should be 'st-mary'"),
    "ledger is a file": (
        lambda path: (path.parent / "ledger.db").write_text("mine" * 300),
        "cannot be used as a ledger",
    ),
    "ledger is a folder": (lambda path: (path.parent / "ledger.db").mkdir(), "cannot be used"),
    "ledger in a file": (section('ledger = "records.jsonl/ledger.db"'), "vault.ledger = "),
    "one path for both": (section('socket = "ledger.db"'), "ledger.db"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2_and_the_ledger_stays(
    mistake: str, start: Start, organization: Path
) -> None:
    make, said = MISTAKES[mistake]
    make(organization)
    ledger = organization.parent / "ledger.db"
    before = ledger.read_bytes() if ledger.is_file() else None
    code, errors = start(organization)
    assert code == 2, errors
    assert errors.startswith("error: ")
    assert said in errors
    assert len(errors.splitlines()) == 1
    assert not (organization.parent / "vault.sock").is_socket()
    if before is not None:
        assert ledger.read_bytes() == before
    elif mistake not in ("socket is a file", "links in a circle", "ledger is a folder"):
        assert not ledger.exists()


def test_after_a_mistake_the_locks_are_free(start: Start, organization: Path) -> None:
    section('device = "gpu"')(organization)
    assert "vault.device" in start(organization)[1]
    assert not is_held(organization.parent / "ledger.db")
    assert not is_held(organization.parent / "vault.sock")


IMPORTS = """
import sys, {modules}
print(sorted(set(sys.modules) & {{"flwr", "torch", "transformers", "opacus", "httpx", "client.vault.vault"}}))
"""


@pytest.mark.parametrize(
    ("modules", "found"),
    [
        ("client.vault.start", ["client.vault.vault", "opacus", "torch", "transformers"]),
        ("client.relay.vault_client", []),
        ("client.relay.client_app, client.relay.runtime, client.relay.supernode", ["flwr", "httpx"]),
    ],
)
def test_the_vault_knows_no_flower_and_the_relay_no_torch(modules: str, found: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTS.format(modules=modules)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.stdout.strip() == str(found)


def test_more_units_than_an_exact_sum_can_hold_are_refused(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.vault.start.MOST_UNITS", 3)
    organization = Organization.read(write_organization(tmp_path, tiny_base))
    records: list[dict[str, object]] = [{"text": "a"}] * 3
    check_count(records, organization)
    with pytest.raises(InputError, match=r"4 examples; a vault takes at most 3$"):
        check_count([*records, {"text": "a"}], organization)
