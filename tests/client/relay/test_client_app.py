"""The relay as Flower calls it: it replies with the vault's answer, and never with the text of an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given, settings
from hypothesis import strategies as st

from client.relay import client_app
from client.relay.client_app import answer, app
from common.errors import Refused
from common.flower import codec
from common.protocol.protocol import Participant, TrainRequest
from tests.client.vaults import Echo, Gate, open_vault, request_for, served, write_organization
from tests.conftest import MakePlan

SECRET = "record 4711"


# Outside a Flower process these ids are not set, and a Message cannot be created without them.
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def message(kind: str, content: RecordDict, ttl: float = 600.0) -> Message:
    return Message(content, 1, kind, ttl=ttl)


def context(**configuration: Any) -> Context:
    return Context(run_id=1, node_id=1, node_config=configuration, state=RecordDict(), run_config={})


Ask = Callable[[Message], RecordDict]


@pytest.fixture(params=["directly", "as a ClientApp over a socket"])
def asking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Participant], Ask]]:
    """Two ways to ask a participant: by calling `answer`, and as Flower does, with a vault behind a socket."""
    servers: list[Any] = []

    def make(participant: Participant) -> Ask:
        if request.param == "directly":
            return lambda asked: answer(asked, participant).content
        socket = tmp_path / "vault.sock"
        server = served(participant, socket)
        server.__enter__()
        servers.append(server)
        return lambda asked: app(message=asked, context=context(socket=str(socket))).content

    yield make
    for server in servers:
        server.__exit__(None, None, None)


def test_each_kind_of_message_gets_the_vaults_answer(
    asking: Callable[[Participant], Ask], tmp_path: Path, tiny_base: Path, make_plan: MakePlan
) -> None:
    plan = make_plan()
    direct_vault = open_vault(write_organization(tmp_path / "direct_vault", tiny_base))
    ask = asking(open_vault(write_organization(tmp_path / "st-mary", tiny_base)))
    described = ask(message(codec.DESCRIBE, codec.pack_query()))
    assert codec.unpack_description(described) == direct_vault.describe()
    released = ask(message(codec.TRAIN, codec.pack_train(request_for(plan))))
    assert codec.unpack_release(released).update == direct_vault.train(request_for(plan)).update
    stated = ask(message(codec.STATEMENT, codec.pack_query("test-run")))
    received, expected = codec.unpack_statement(stated), direct_vault.statement("test-run")
    assert (received.run, received.mechanisms, received.lifetime) == (
        expected.run,
        expected.mechanisms,
        expected.lifetime,
    )
    with pytest.raises(Refused, match="malformed-request: run never was never reserved here"):
        codec.unpack_statement(ask(message(codec.STATEMENT, codec.pack_query("never"))))
    conflicting = dataclasses.replace(request_for(plan), adapter=b"x")
    with pytest.raises(Refused, match="round-conflict"):
        codec.unpack_release(ask(message(codec.TRAIN, codec.pack_train(conflicting))))


def test_the_text_of_an_error_stays_at_home(asking: Callable[[Participant], Ask], make_plan: MakePlan) -> None:
    ask = asking(Echo(RuntimeError(SECRET)))
    for asked in (
        message(codec.DESCRIBE, codec.pack_query()),
        message(codec.TRAIN, codec.pack_train(request_for(make_plan()))),
        message(codec.STATEMENT, codec.pack_query("run")),
    ):
        content = ask(asked)
        assert dict(content.config_records["sotto"]) == {"refused": "training-failed", "detail": ""}
        assert "4711" not in str(content)


BROKEN: dict[str, tuple[str, RecordDict]] = {
    "train with nothing": (codec.TRAIN, RecordDict()),
    "train with metrics": (codec.TRAIN, RecordDict({"sotto": MetricRecord({"run": 1.0})})),
    "train without an adapter": (
        codec.TRAIN,
        RecordDict({"sotto": ConfigRecord({"run": "r", "round": 1, "plan": b"{}", "model": "f"})}),
    ),
    "train with an empty adapter": (
        codec.TRAIN,
        RecordDict(
            {
                "sotto": ConfigRecord({"run": "r", "round": 1, "plan": b"{}", "model": "f"}),
                "adapter": ArrayRecord(),
            }
        ),
    ),
    "statement about a number": (codec.STATEMENT, RecordDict({"sotto": ConfigRecord({"run": 7})})),
    "statement about nothing": (codec.STATEMENT, RecordDict()),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_message_is_a_malformed_request(what: str, asking: Callable[[Participant], Ask]) -> None:
    gate = Gate(Echo())
    kind, content = BROKEN[what]
    reply = asking(gate)(message(kind, content))
    assert reply.config_records["sotto"]["refused"] == "malformed-request"
    assert gate.trained == []


VALUES = st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20) | st.binary(max_size=20) | st.booleans()


@given(
    st.sampled_from([codec.TRAIN, codec.STATEMENT]),
    st.dictionaries(st.sampled_from(["run", "round", "plan", "model", "json"]), VALUES),
    st.sampled_from(["sotto", "other"]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_message_holds_the_answer_is_a_release_or_a_refusal(
    kind: str, values: dict[str, Any], key: str, adapter: bool
) -> None:
    content = RecordDict({key: ConfigRecord(values)})
    if adapter:
        content["adapter"] = codec.adapter_record({})
    reply = answer(message(kind, content), Echo()).content
    if "adapter" in reply.array_records:
        assert codec.unpack_release(reply).update == codec.array_bytes(content.array_records["adapter"])
    else:
        assert set(reply.config_records["sotto"]) == {"refused", "detail"}


def test_an_unknown_kind_of_message_is_malformed() -> None:
    reply = answer(message("query.records", RecordDict()), Echo()).content
    with pytest.raises(Refused, match=r"malformed-request: unknown kind of message: 'query\.records'"):
        codec.unpack_description(reply)


def test_the_reply_goes_to_whoever_asked(tmp_path: Path) -> None:
    asked = message(codec.DESCRIBE, codec.pack_query())
    asked.metadata.__dict__["_message_id"] = "id-1"
    with served(Echo(), tmp_path / "vault.sock"):
        reply = app(message=asked, context=context(socket=str(tmp_path / "vault.sock")))
    assert reply.metadata.reply_to_message_id == "id-1"
    assert reply.metadata.message_type == codec.DESCRIBE
    assert not reply.has_error()


@pytest.mark.parametrize("field", ["_ttl", "_created_at"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_whatever_a_message_says_of_its_time_it_is_answered(field: str, value: float, tmp_path: Path) -> None:
    asked = message(codec.DESCRIBE, codec.pack_query())
    asked.metadata.__dict__[field] = value
    train = message(codec.TRAIN, codec.pack_train(TrainRequest("r", 1, b"{}", "f", b"adapter")))
    train.metadata.__dict__[field] = value
    with served(Echo(), tmp_path / "vault.sock"):
        reply = app(message=asked, context=context(socket=str(tmp_path / "vault.sock")))
        release = app(message=train, context=context(socket=str(tmp_path / "vault.sock")))
    assert codec.unpack_description(reply.content).organization == "echo"
    assert codec.unpack_release(release.content).update == b"adapter"


@pytest.mark.parametrize(("ttl", "patience"), [(600.0, 0.1), (0.1, 10.0)], ids=["no patience", "no time left"])
def test_a_vault_that_is_away_is_a_refusal_in_time(
    ttl: float, patience: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little time a message has left, the coordinator receives the reason for the failure."""
    monkeypatch.setattr(client_app, "_PATIENCE_SECONDS", patience)
    asked = message(codec.DESCRIBE, codec.pack_query(), ttl=ttl)
    reply = app(message=asked, context=context(socket=str(tmp_path / "vault.sock")))
    with pytest.raises(Refused, match=r"vault-unavailable: the vault was unavailable for [0-9] seconds"):
        codec.unpack_description(reply.content)
