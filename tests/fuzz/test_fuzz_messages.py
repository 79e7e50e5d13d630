"""Flower messages in both directions: damaged ones are refused or are as good, whatever their records are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from client.relay.client_app import answer
from common.adapter.adapter import initial, to_bytes
from common.errors import Refused
from common.flower import codec as wire
from common.protocol.protocol import REASONS, Description, Release, TrainRequest
from common.protocol.statement import Head
from tests.client.vaults import Echo
from tests.fuzz.hostile import ONE, VALUES, damaged_json_text, messages
from tests.fuzz.test_fuzz_texts import HEAD, NAME, STATED, assert_head, assert_statement, spelt

TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1

ADAPTER = to_bytes(initial({"q.lora_A.weight": (2, 6), "q.lora_B.weight": (4, 2)}, 0))
REQUEST = TrainRequest("triage-2026-11-22-1a2b3c4d", 3, b'{"name":"triage"}', "ab" * 32, ADAPTER, HEAD)
KINDS: dict[str, tuple[Callable[[], RecordDict], Callable[[RecordDict], Any]]] = {
    "train": (lambda: wire.pack_train(REQUEST), wire.unpack_train),
    "release": (lambda: wire.pack_release(Release(ADAPTER, HEAD)), wire.unpack_release),
    "query": (lambda: wire.pack_query("run-1"), wire.unpack_query),
    "description": (lambda: wire.pack_description(Description("a", "user", 5)), wire.unpack_description),
    "statement": (lambda: wire.pack_statement(STATED), wire.unpack_statement),
    "refusal": (lambda: wire.pack_refusal(Refused("budget", "ε = 9")), wire.unpack_release),
}
PACK: dict[type, Callable[[Any], RecordDict]] = {
    TrainRequest: wire.pack_train,
    Release: wire.pack_release,
    str: wire.pack_query,
    Description: wire.pack_description,
    type(STATED): wire.pack_statement,
}
ARRAYS = [
    Array("uint8", (3,), "safetensors", b"abc"),
    Array("uint8", (3,), "numpy.ndarray", b"abc"),
    Array("object", (3,), "safetensors", b"abc"),
    Array("uint8", (10**9,), "safetensors", b"abc"),
    Array("uint8", (10**9, 10**9), "safetensors", b""),
    Array("uint8", (-3,), "safetensors", b"abc"),
    Array("uint8", (True,), "safetensors", b"a"),
    Array("uint8", (), "safetensors", b""),
    Array(np.array([1.0, np.nan])),
    Array("uint8", (6,), "pickle", b"\x80\x04N.\x00\x00"),
]
for shape in ((3.0,), 3, ("3",), None, ((3,),)):  # past the constructor's checks
    ARRAYS.append(Array("uint8", (3,), "safetensors", b"abc"))
    ARRAYS[-1].__dict__["shape"] = shape


def put(record: Any, key: Any, value: Any) -> None:
    """A value in a record, past Flower's own checks of types where it has some: its own decoder has none."""
    try:
        record[key] = value
    except (TypeError, ValueError):
        record._data[key] = value


def mutate(content: RecordDict, draw: Callable[[Any], Any]) -> None:
    kind, number = draw(st.integers(0, 8)), draw(ONE)
    head = content.config_records["sotto"] if "sotto" in content.config_records else ConfigRecord()
    keys = sorted(head)
    key = keys[number % len(keys)] if keys else "run"
    if kind <= 2:
        put(head, key, VALUES[draw(ONE) % len(VALUES)])
    elif kind == 3 and keys:
        del head[key]
    elif kind == 4:
        put(head, draw(st.sampled_from(["records", "json", "refused", "detail", "answer", "x" * 5000])), "1")
    elif kind == 5:
        array = ARRAYS[number % len(ARRAYS)]
        name = draw(st.sampled_from(["safetensors", "other"]))
        record = ArrayRecord()
        if number % 5:
            record[name] = array
        content.pop("adapter", None)
        content["adapter"] = record
    elif kind == 6:
        name = draw(st.sampled_from(["sotto", "adapter", "metrics", "../../x"]))
        content.pop(name, None)  # Flower warns of a record of another type
        content[name] = [MetricRecord({"run": 1.0}), ConfigRecord({"run": "r"}), ArrayRecord()][number % 3]
    elif kind == 7 and "json" in head:
        values = [STATED.to_dict(), json.loads(Description("a", "user", 5).to_json())][number % 2]
        put(head, "json", draw(damaged_json_text(values, spelt)))
    elif kind == 8:
        content.pop(draw(st.sampled_from(sorted(content) or ["none"])), None)


@st.composite
def damaged(draw: Callable[[Any], Any], kind: str) -> RecordDict:
    content = KINDS[kind][0]()
    for _ in range(draw(st.integers(1, 2))):
        mutate(content, draw)
    return content


def through_flower(content: RecordDict) -> RecordDict | None:
    """The content after the bytes that Flower would send; None if it can send no such thing."""
    try:
        message = recorddict_to_proto(content)
        return recorddict_from_proto(type(message).FromString(message.SerializeToString()))
    except (TypeError, ValueError, AttributeError):
        return None


def assert_good(kind: str, content: RecordDict) -> None:
    """What is accepted has this form, by rules that are written down here anew."""
    head = dict(content.config_records["sotto"])
    assert set(content) == {"sotto", "adapter"} if kind in ("train", "release") else set(content) == {"sotto"}
    if kind in ("train", "release"):
        (array,) = content.array_records["adapter"].values()
        assert (array.dtype, array.stype, tuple(array.shape)) == ("uint8", "safetensors", (len(array.data),))
        assert [type(length) for length in array.shape] == [int]
        seen = head["seen" if kind == "train" else "head"]
        if seen:
            assert_head(json.loads(seen))
    if kind == "train":
        types = {"run": str, "round": int, "plan": bytes, "model": str, "seen": str}
        assert {key: type(value) for key, value in head.items()} == types
    elif kind == "description":
        assert re.fullmatch(NAME, json.loads(head["json"])["organization"])
    elif kind == "statement":
        assert_statement(json.loads(head["json"]))


@messages(3000)
@given(st.data(), st.sampled_from(sorted(KINDS)), st.booleans())
def test_a_damaged_message_is_refused_or_is_one(data: st.DataObject, kind: str, is_sent: bool) -> None:
    content = data.draw(damaged(kind))
    if is_sent:
        content = through_flower(content) or content
    try:
        value = KINDS[kind][1](content)
    except wire.MessageError as error:
        assert len(str(error)) < 200
        return
    except Refused as refusal:
        assert refusal.code in REASONS
        assert refusal.detail.isprintable()
        assert len(refusal.detail) <= 500
        return
    assert_good("release" if kind == "refusal" else kind, content)
    assert PACK[type(value)](value) == content


@messages(700)
@given(
    st.data(),
    st.sampled_from(["train", "query"]),
    st.sampled_from(["train", "query.describe", "query.statement", "query.x"]),
)
def test_whatever_a_relay_is_asked_it_answers_with_a_release_or_a_reason(
    data: st.DataObject, kind: str, asked: str
) -> None:
    content = data.draw(damaged(kind))
    reply = answer(Message(content, 1, asked, ttl=60.0), Echo()).content
    try:
        released = wire.unpack_release(reply)
    except Refused as refusal:
        assert refusal.code in REASONS
    except wire.MessageError:
        assert asked == "query.describe"
        assert wire.unpack_description(reply).organization == "echo"
    else:
        assert asked == "train"
        assert_good("train", content)
        assert released.update == wire.unpack_train(content).adapter


def test_the_seeds_are_good() -> None:
    for kind, (pack, unpack) in KINDS.items():
        if kind != "refusal":
            assert PACK[type(unpack(pack()))](unpack(pack())) == pack()
    other = replace(REQUEST, seen=Head("0f" * 16, 8, "ee" * 32, ""))
    assert wire.unpack_train(wire.pack_train(other)) == other
