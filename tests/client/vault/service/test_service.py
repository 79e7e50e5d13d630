"""The vault on its socket: the same answers as the vault called directly, and nothing else leaves."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.channel import vault_pb2 as pb
from common.errors import Refused
from common.keys.statement_key import is_signed
from tests.client.vault.service.callers import Panic, ledger_of, remote
from tests.client.vaults import Echo, open_vault, parts, request_for, served, write_organization
from tests.conftest import MakePlan
from tests.waiting import LONG

SECRET = "record 4711"


def test_the_socket_answers_as_the_vault_itself_does(
    organization: Path, tmp_path: Path, tiny_base: Path, socket: Path, make_plan: MakePlan
) -> None:
    plan = make_plan()
    direct_vault = open_vault(write_organization(tmp_path / "direct_vault", tiny_base))
    with served(open_vault(organization), socket), remote(socket) as vault:
        assert vault.describe() == direct_vault.describe()
        for number in (1, 2):
            answered = vault.train(request_for(plan, number))
            assert answered.update == direct_vault.train(request_for(plan, number)).update
            assert answered.head == ledger_of(organization).head
        received, expected = vault.statement("test-run"), direct_vault.statement("test-run")
    ignored = {"head": None, "key": None, "signature": None}  # different in each ledger
    assert {**received.to_dict(), **ignored} == {**expected.to_dict(), **ignored}
    assert is_signed(received.signed_bytes(), received.signature, ledger_of(organization).public_key)
    assert ledger_of(organization).settled_rounds("test-run") == [1, 2]


CARRIED: dict[str, dict[str, Any]] = {
    "plan that is no JSON": {"plan": b"{"},
    "plan of other values": {"plan": b'{"name":"\\ud800"}'},
    "round zero": {"round": 0},
    "empty run": {"run": ""},
    "no adapter": {"adapter": b""},
    "broken adapter": {"adapter": b"\xff" * 1000},
    "another fingerprint": {"fingerprint": "0" * 64},
}
NOT_CARRIED: dict[str, dict[str, Any]] = {
    "oversized plan": {"plan": b" " * (2**16 + 1)},
    "enormous plan": {"plan": b" " * 2**22},
    "negative round": {"round": -1},
    "round after every integer": {"round": 2**40},
    "run of half a pair": {"run": "\ud800"},
    "enormous run": {"run": "x" * 2**22},
    "enormous fingerprint": {"fingerprint": "0" * 2**22},
}


def test_refusals_come_through_with_code_and_detail_and_cost_nothing(
    organization: Path, socket: Path, make_plan: MakePlan
) -> None:
    direct_vault = open_vault(organization)
    with served(direct_vault, socket), remote(socket) as vault:
        for what, values in CARRIED.items():
            request = dataclasses.replace(request_for(make_plan()), **values)
            with pytest.raises(Refused) as direct:
                direct_vault.train(request)
            with pytest.raises(Refused) as through:
                vault.train(request)
            assert str(through.value) == str(direct.value), what
        with pytest.raises(Refused, match="malformed-request: run never was never reserved here"):
            vault.statement("never")
    assert ledger_of(organization).spent() == []


@pytest.mark.parametrize("what", NOT_CARRIED)
def test_a_request_that_no_message_can_carry_is_malformed(what: str, socket: Path, make_plan: MakePlan) -> None:
    request = dataclasses.replace(request_for(make_plan()), **NOT_CARRIED[what])
    with served(Echo(), socket), remote(socket) as vault:
        with pytest.raises(Refused, match="malformed-request"):
            vault.train(request)
        if "run" in NOT_CARRIED[what]:
            with pytest.raises(Refused, match="malformed-request"):
                vault.statement(request.run)
        assert vault.train(request_for(make_plan())).update


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, grpc.RpcError, Panic, SystemExit])
def test_the_text_of_an_error_goes_nowhere_not_even_into_the_log(
    kind: type[BaseException], socket: Path, stub: Any, make_plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    participant = Echo(kind(SECRET))
    with served(participant, socket), caplog.at_level(logging.ERROR):
        calls = [stub.Train(parts(request_for(make_plan())), timeout=LONG)]
        received = str(list(calls[0]))
        assert '"training-failed"' in received
        if issubclass(kind, Exception):
            for method, query in (("Describe", pb.DescribeRequest()), ("Statement", pb.StatementRequest(run="x"))):
                reply, call = getattr(stub, method).with_call(query, timeout=LONG)
                assert reply.refusal == pb.Refusal(code="training-failed", detail="")
                calls.append(call)
        for call in calls:
            assert call.code() is grpc.StatusCode.OK
            received += f"{call.details()} {call.trailing_metadata()} {call.initial_metadata()}"
        with remote(socket) as vault, pytest.raises(Refused) as caught:
            vault.train(request_for(make_plan()))
    assert (caught.value.code, caught.value.detail) == ("training-failed", "")
    assert "4711" not in received
    assert f"train failed: {kind.__name__} at " in caplog.text
    assert "tests/client/vaults.py" in caplog.text  # where it was raised
    assert "4711" not in caplog.text


@pytest.mark.parametrize("rank", [None, 1, 1024])
def test_the_largest_rank_crosses_the_socket(socket: Path, rank: int | None) -> None:
    class Ranked(Echo):
        def describe(self) -> Any:
            return dataclasses.replace(super().describe(), max_rank=rank)

    with served(Ranked(), socket), remote(socket) as vault:
        assert vault.describe().max_rank == rank


def test_an_answer_that_cannot_be_sent_says_nothing(socket: Path, stub: Any) -> None:
    class Large(Echo):
        def describe(self) -> Any:
            return dataclasses.replace(super().describe(), public_size=4711 * 2**64)

    with served(Large(), socket):
        reply, call = stub.Describe.with_call(pb.DescribeRequest(), timeout=LONG)
    assert reply.refusal == pb.Refusal(code="training-failed", detail="")
    assert call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("detail", "arrives"), [("\ud800 ε", "? ε"), ("x" * 2**23, "x" * 500)], ids=["surrogate", "eight megabytes"]
)
def test_whatever_a_refusal_says_it_arrives(socket: Path, make_plan: MakePlan, detail: str, arrives: str) -> None:
    with served(Echo(Refused("policy", detail)), socket), remote(socket) as vault:
        with pytest.raises(Refused) as caught:
            vault.train(request_for(make_plan()))
        assert (caught.value.code, caught.value.detail) == ("policy", arrives)


def test_an_unknown_code_is_training_failed(socket: Path) -> None:
    with served(Echo(Refused("4711", "")), socket), remote(socket) as vault, pytest.raises(Refused) as caught:
        vault.describe()
    assert caught.value.code == "training-failed"
