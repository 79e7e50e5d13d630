"""The wire: messages survive Flower's own serialization, and nothing else is accepted."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter.adapter import AdapterError, initial, to_bytes
from common.errors import Refused
from common.flower import codec
from common.flower.codec import MessageError
from common.privacy.mechanism import Mechanism
from common.protocol.protocol import REASONS, Description, Release, TrainRequest
from common.protocol.statement import Head, Lifetime, Statement

SHAPES = {"q_proj.lora_A.weight": (2, 6), "q_proj.lora_B.weight": (4, 2)}
REQUEST = TrainRequest("triage-2026-11-22-1a2b3c4d", 3, b'{"name":"triage"}', "ab" * 32, b"\x00adapter\xff" * 50)
DESCRIPTION = Description("st-mary", "example", 10_000)
HEAD = Head("0f" * 16, 7, "ee" * 32, "aa" * 64)
STATEMENT = Statement(
    organization="st-mary",
    run=REQUEST.run,
    plan="cd" * 32,
    fingerprint="ab" * 32,
    unit="example",
    public_size=10_000,
    mechanisms=(Mechanism(0.0256, 0.56, 80),),
    epsilon=7.8,
    delta=1e-5,
    lifetime=Lifetime(7.8, 8.0, 1e-5, "basic-composition-filter"),
    boundary="same user",
    versions={"sotto": "0.1.0"},
    head=HEAD,
)
ANSWERS: list[Callable[[RecordDict], Any]] = [
    codec.unpack_release,
    codec.unpack_description,
    codec.unpack_statement,
]


def sent(content: RecordDict) -> RecordDict:
    """The content after a round trip through Flower's serialization."""
    message = recorddict_to_proto(content)
    return recorddict_from_proto(type(message).FromString(message.SerializeToString()))


def head(**values: Any) -> RecordDict:
    return RecordDict({"sotto": ConfigRecord(values)})


def text(values: Any) -> RecordDict:
    """In canonical form, so that a refusal is due to the content."""
    return head(json=json.dumps(values, sort_keys=True))


# Round trips


READ: dict[str, tuple[Callable[[], RecordDict], Callable[[RecordDict], object]]] = {
    "a request": (lambda: codec.pack_train(REQUEST), codec.unpack_train),
    "a request with a head": (
        lambda: codec.with_seen(codec.pack_train(REQUEST), None),
        codec.unpack_train,
    ),
    "a release": (lambda: codec.pack_release(Release(b"update")), codec.unpack_release),
    "its size": (lambda: codec.pack_release(Release(b"update")), codec.payload_size),
}


@pytest.mark.parametrize("name", READ)
def test_messages_are_freed_without_the_garbage_collector(name: str) -> None:
    """The server reads a thousand messages in a round."""
    pack, unpack = READ[name]
    gc.collect()
    gc.disable()
    try:
        content = pack()
        arrays = weakref.ref(content["adapter"])
        unpack(content)
        del content
        assert arrays() is None
    finally:
        gc.enable()


def test_a_train_request_comes_back() -> None:
    back = codec.unpack_train(sent(codec.pack_train(REQUEST)))
    assert back == REQUEST
    assert back.digest() == REQUEST.digest()


def test_a_release_comes_back() -> None:
    release = Release(bytes(range(256)))
    assert codec.unpack_release(sent(codec.pack_release(release))) == release


def test_a_release_holds_its_tensors_and_its_ledgers_head_and_nothing_else() -> None:
    content = sent(codec.pack_release(Release(to_bytes(initial(SHAPES, 0)), HEAD)))
    assert {name: set(record) for name, record in content.items()} == {
        "sotto": {"answer", "head"},
        "adapter": {"safetensors"},
    }


def test_a_query_comes_back_and_may_be_about_no_run() -> None:
    assert codec.unpack_query(sent(codec.pack_query(REQUEST.run))) == REQUEST.run
    assert codec.unpack_query(sent(codec.pack_query())) == ""


def test_a_description_and_a_statement_come_back() -> None:
    for said in (DESCRIPTION, Description("st-mary", "user", 10, max_rank=4)):
        assert codec.unpack_description(sent(codec.pack_description(said))) == said
    assert codec.unpack_statement(sent(codec.pack_statement(STATEMENT))) == STATEMENT


def test_an_adapter_comes_back_exactly() -> None:
    adapter = initial(SHAPES, 1)
    back = codec.adapter_from_record(codec.adapter_record(adapter), SHAPES)
    assert to_bytes(back) == to_bytes(adapter)
    with pytest.raises(AdapterError):
        codec.adapter_from_record(codec.adapter_record(adapter), {"other": (2, 2)})


@pytest.mark.parametrize("code", sorted(REASONS))
@pytest.mark.parametrize("unpack", ANSWERS)
def test_a_refusal_is_raised_in_place_of_any_answer(unpack: Callable[[RecordDict], Any], code: str) -> None:
    with pytest.raises(Refused) as caught:
        unpack(sent(codec.pack_refusal(Refused(code, "privacy.epsilon = 9"))))
    assert (caught.value.code, caught.value.detail) == (code, "privacy.epsilon = 9")


# Refusals


@pytest.mark.parametrize("code", ["", "Budget", "the patient's name", 7, 1.5, b"budget", ["budget"], [1]])
@pytest.mark.parametrize("unpack", ANSWERS)
def test_an_unknown_code_is_replaced_by_a_known_code(unpack: Callable[[RecordDict], Any], code: Any) -> None:
    with pytest.raises((Refused, MessageError)) as caught:
        unpack(head(refused=code, detail="why"))
    if isinstance(caught.value, Refused):
        assert caught.value.code == "training-failed"


def test_the_detail_of_a_refusal_is_truncated() -> None:
    with pytest.raises(Refused) as caught:
        codec.unpack_release(head(refused="budget", detail="x" * 10_000))
    assert len(caught.value.detail) <= 500


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run", 5),
        ("run", b"run"),
        ("run", ["run"]),
        ("round", "3"),
        ("round", 3.0),
        ("round", True),
        ("plan", "plan"),
        ("plan", 5),
        ("model", b"model"),
    ],
)
def test_a_train_request_with_a_value_of_another_type_is_refused(key: str, value: Any) -> None:
    content = codec.pack_train(REQUEST)
    content.config_records["sotto"][key] = value
    with pytest.raises(MessageError, match=key):
        codec.unpack_train(content)


@pytest.mark.parametrize("key", ["run", "round", "plan", "model"])
def test_a_train_request_that_lacks_a_value_is_refused(key: str) -> None:
    content = codec.pack_train(REQUEST)
    del content.config_records["sotto"][key]
    with pytest.raises(MessageError, match=key):
        codec.unpack_train(content)


ARRAYS = {
    "no array": ArrayRecord(),
    "another key": ArrayRecord({"weights": Array("uint8", (3,), "safetensors", b"abc")}),
    "numpy": ArrayRecord({"safetensors": Array(np.zeros(3, np.uint8))}),
    "another type": ArrayRecord({"safetensors": Array("float32", (3,), "safetensors", b"abc")}),
    "another encoding": ArrayRecord({"safetensors": Array("uint8", (3,), "numpy.ndarray", b"abc")}),
    "another length": ArrayRecord({"safetensors": Array("uint8", (4,), "safetensors", b"abc")}),
    "another shape": ArrayRecord({"safetensors": Array("uint8", (3, 1), "safetensors", b"abc")}),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_an_adapter_that_is_not_safetensors_bytes_is_refused(case: str) -> None:
    for content, unpack in (
        (codec.pack_train(REQUEST), codec.unpack_train),
        (codec.pack_release(Release(b"abc")), codec.unpack_release),
    ):
        content.array_records["adapter"] = ARRAYS[case]
        with pytest.raises(MessageError, match="adapter"):
            unpack(content)


@pytest.mark.parametrize("unpack", [codec.unpack_train, codec.unpack_query, *ANSWERS])
def test_an_empty_message_is_refused(unpack: Callable[[RecordDict], Any]) -> None:
    with pytest.raises(MessageError):
        unpack(RecordDict())


@pytest.mark.parametrize("value", ["", "{", "[1]", "null", '"text"', "[" * 100_000, "9" * 5000, b"{}", 5, ["{}"]])
@pytest.mark.parametrize("unpack", ANSWERS[1:])
def test_content_without_a_json_object_is_refused(unpack: Callable[[RecordDict], Any], value: Any) -> None:
    with pytest.raises(MessageError):
        unpack(head(json=value))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"organization": "st-mary", "unit": "example"},
        {"organization": "st-mary", "unit": "example", "public_size": 10, "records": 9},
        {"organization": 5, "unit": "example", "public_size": 10},
        {"organization": "st-mary", "unit": None, "public_size": 10},
        {"organization": "st-mary", "unit": "example", "public_size": "10"},
        {"organization": "st-mary", "unit": "example", "public_size": 10.0},
        {"organization": "st-mary", "unit": "example", "public_size": True},
        *(
            {"organization": "st-mary", "unit": "example", "public_size": 10, "max_rank": rank}
            for rank in (None, 0, -1, 1025, 4.0, "4", True)
        ),
    ],
)
def test_an_invalid_description_is_refused(values: Any) -> None:
    with pytest.raises(MessageError):
        codec.unpack_description(text(values))


@pytest.mark.parametrize("name", ["", "..", "../../st-mary", "/etc/passwd", "st/mary", "st-mary\n", "x" * 5000])
def test_an_organization_name_that_is_not_a_valid_file_name_is_refused(name: str) -> None:
    with pytest.raises(MessageError):
        codec.unpack_description(text({"organization": name, "unit": "example", "public_size": 10}))


@pytest.mark.parametrize("size", [0, -5])
def test_a_public_size_below_one_is_refused(size: int) -> None:
    # It is a weight of the mean: a negative weight would invert the other updates.
    with pytest.raises(MessageError):
        codec.unpack_description(text({"organization": "st-mary", "unit": "example", "public_size": size}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_json_is_a_statement_or_refused(data: st.DataObject) -> None:
    values = json.loads(json.dumps(STATEMENT.to_dict()))
    values[data.draw(st.sampled_from(sorted(values)) | st.text(max_size=4))] = data.draw(JSON)
    with contextlib.suppress(MessageError):
        assert isinstance(codec.unpack_statement(text(values)), Statement)


# Sizes


def test_the_size_of_a_message_is_that_of_its_bytes_and_texts() -> None:
    by_hand = len(REQUEST.run) + len(REQUEST.plan) + len(REQUEST.fingerprint) + len(REQUEST.adapter)
    assert codec.payload_size(codec.pack_train(REQUEST)) == by_hand
    release = codec.pack_release(Release(b"x" * 1000))
    assert codec.payload_size(release) == 1000 + len("release")
    assert codec.payload_size(sent(release)) == 1000 + len("release")
    assert codec.payload_size(RecordDict()) == 0
