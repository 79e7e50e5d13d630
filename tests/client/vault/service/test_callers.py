"""Concurrent callers of the vault: one training at a time, no release lost, no caller that blocks the others."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.channel import vault_pb2 as pb
from client.relay.vault_client import RemoteVault
from client.vault import service
from client.vault.service import TrainingThread
from client.vault.training.entropy import SystemEntropy
from common.errors import Refused
from common.protocol.protocol import TrainRequest
from tests.client.vault.service.callers import Panic, ledger_of, remote
from tests.client.vaults import Echo, Gate, open_vault, parts, request_for, served
from tests.conftest import ROOT, MakePlan
from tests.waiting import LONG, wait_until


def test_one_request_is_trained_at_a_time_and_questions_are_answered_meanwhile(
    organization: Path, socket: Path, make_plan: MakePlan
) -> None:
    plan = make_plan()
    gate = Gate(open_vault(organization, SystemEntropy()))
    with served(gate, socket), remote(socket) as vault, ThreadPoolExecutor(2) as callers:
        first = callers.submit(vault.train, request_for(plan))
        gate.wait_reached()
        same = callers.submit(vault.train, request_for(plan))
        with pytest.raises(Refused, match="busy"):
            vault.train(request_for(plan, 2))
        with pytest.raises(Refused, match="busy"):
            vault.train(request_for(plan, run="another"))
        assert vault.describe().organization == "st-mary"
        with pytest.raises(Refused, match="never reserved"):
            vault.statement("test-run")
        gate.open()
        assert first.result(LONG) == same.result(LONG)
        assert vault.train(request_for(plan, 2)) != first.result()
    ledger = ledger_of(organization)
    assert len(ledger.spent()) == 1
    assert ledger.settled_rounds("test-run") == [1, 2]


def test_a_request_that_is_being_trained_is_joined(make_plan: MakePlan) -> None:
    gate = Gate(Echo())
    training = TrainingThread(gate)
    request = request_for(make_plan())
    first, second = training.submit(request), training.submit(dataclasses.replace(request))
    gate.wait_reached()
    assert training.busy
    with pytest.raises(Refused, match="busy"):
        training.submit(request_for(make_plan(), 2))
    gate.open()
    assert first.result(LONG) is second.result(LONG)
    assert first.result().update == request.adapter
    assert gate.trained == [request]
    assert not training.busy


@pytest.mark.parametrize("error", [None, RuntimeError("x"), Panic("x")])
def test_whoever_has_an_answer_may_ask_for_the_next_round_at_once(
    make_plan: MakePlan, error: BaseException | None
) -> None:
    gate = Gate(Echo(error))
    training = TrainingThread(gate)
    following: list[Any] = []
    first = training.submit(request_for(make_plan()))
    first.add_done_callback(lambda _: following.append(training.submit(request_for(make_plan(), 2))))
    gate.open()
    first.exception(LONG)
    wait_until(lambda: len(following) == 1, "the next request")
    following[0].exception(LONG)
    assert [request.round for request in gate.trained] == [1, 2]


def test_nothing_of_a_request_is_kept_when_it_is_answered(make_plan: MakePlan) -> None:
    training = TrainingThread(Echo())
    data = bytes(2**20) + b"own"
    before = sys.getrefcount(data)
    future = training.submit(dataclasses.replace(request_for(make_plan()), adapter=data))
    assert future.result(LONG).update is data
    del future
    wait_until(lambda: sys.getrefcount(data) == before, "the adapter to be released")


CALL = """
import json, pathlib, sys
from client.relay.vault_client import RemoteVault
from common.keys.statement_key import StatementKey, is_signed
from common.protocol.protocol import TrainRequest
folder = pathlib.Path(sys.argv[1])
head = json.loads((folder / "head").read_text())
request = TrainRequest(*head[:2], (folder / "plan").read_bytes(), head[2], (folder / "adapter").read_bytes())
with RemoteVault(pathlib.Path(sys.argv[2]), 600, 600) as vault:
    vault.train(request)
"""


def call_from_a_process(request: TrainRequest, folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    (folder / "head").write_text(json.dumps([request.run, request.round, request.fingerprint]))
    (folder / "plan").write_bytes(request.plan)
    (folder / "adapter").write_bytes(request.adapter)
    command = [sys.executable, "-c", CALL, str(folder), str(socket)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("disconnects", ["cancels", "is killed", "runs out of time"])
def test_a_caller_that_goes_away_finds_its_release_when_it_comes_back(
    disconnects: str, organization: Path, tmp_path: Path, socket: Path, stub: Any, make_plan: MakePlan
) -> None:
    request = request_for(make_plan())
    gate = Gate(open_vault(organization, SystemEntropy()))
    ledger = ledger_of(organization)
    with served(gate, socket):
        if disconnects == "is killed":
            process = call_from_a_process(request, tmp_path / "call", socket)
            gate.wait_reached()
            process.kill()
            process.wait()
        elif disconnects == "cancels":
            call = stub.Train(parts(request), timeout=LONG)
            gate.wait_reached()
            call.cancel()
        else:
            with RemoteVault(socket, timeout=0.5, patience=LONG) as hasty, pytest.raises(Refused) as caught:
                hasty.train(request)
            assert caught.value.code == "vault-unavailable"
        gate.open()
        wait_until(lambda: ledger.settled_rounds("test-run") == [1], "the settlement")
        stored = ledger.released("test-run", 1, request.digest())
        with remote(socket) as vault:
            assert vault.train(request).update == stored
    assert len(ledger.spent()) == 1
    assert ledger.settled_rounds("test-run") == [1]


def fill(stub: Any, vault: RemoteVault, request: TrainRequest) -> list[Any]:
    """Start calls for the same training until the vault accepts no other caller.

    A call may be rejected because `accepts_a_call` used the last slot; then one more is started.
    """
    calls: list[Any] = []

    def full() -> bool:
        calls.append(stub.Train(parts(request), timeout=LONG))
        return not accepts_a_call(vault)

    wait_until(full, "a vault that is full")
    return calls


def accepts_a_call(vault: RemoteVault) -> bool:
    try:
        return vault.describe().organization == "echo"
    except Refused as refusal:
        assert refusal.code == "busy"  # noqa: PT017
        return False


def answer(call: Any) -> bytes | None:
    """The data that a call received; None if the call was rejected."""
    try:
        return b"".join(part.data for part in call)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # noqa: PT017
        return None


def test_a_ninth_caller_is_told_that_the_vault_is_busy(socket: Path, stub: Any, make_plan: MakePlan) -> None:
    gate = Gate(Echo())
    request = request_for(make_plan())
    with served(gate, socket), remote(socket) as vault:
        calls = fill(stub, vault, request)
        gate.open()
        answers = [answer(call) for call in calls]
        assert [received for received in answers if received is not None] == [request.adapter] * 8
        wait_until(lambda: accepts_a_call(vault), "an answer")


def test_callers_that_went_away_keep_nobody_out(socket: Path, stub: Any, make_plan: MakePlan) -> None:
    gate = Gate(Echo())
    with served(gate, socket), remote(socket) as vault:
        for call in fill(stub, vault, request_for(make_plan())):
            call.cancel()
        wait_until(lambda: accepts_a_call(vault), "an answer")
        with pytest.raises(Refused, match="one request is trained at a time"):
            vault.train(request_for(make_plan(), 2))
        gate.open()


def test_a_caller_that_sends_nothing_for_long_is_let_go(
    socket: Path,
    stub: Any,
    make_plan: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(service, "_UPLOAD_SECONDS", 0.2)
    ended = threading.Event()

    def never_ending() -> Iterator[pb.TrainPart]:
        yield next(parts(request_for(make_plan())))
        ended.wait(LONG)

    with served(Echo(), socket):
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Train(never_ending(), timeout=LONG))
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        ended.set()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
