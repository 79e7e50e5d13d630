"""Convert the types of `common.protocol.protocol` to the content of Flower messages and back.

An adapter is sent as safetensors bytes inside one Flower array, unchanged. Content that cannot be unpacked raises
`MessageError`; nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.adapter.adapter import Adapter, Shapes, from_bytes, to_bytes
from common.errors import Refused, is_refusal_code
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Head, Statement, head_text, read_head
from common.untrusted import printable

DESCRIBE = "query.describe"
TRAIN = "train"
STATEMENT = "query.statement"

_HEAD, _BODY, _KEY = "sotto", "adapter", "safetensors"
_MOST_DETAIL = 500


class MessageError(ValueError):
    """A malformed message; the text contains nothing of its content."""


def pack_train(request: TrainRequest) -> RecordDict:
    """A train request as message content."""
    head = ConfigRecord(
        {
            "run": request.run,
            "round": request.round,
            "plan": request.plan,
            "model": request.fingerprint,
            "seen": head_text(request.seen),
        }
    )
    return RecordDict({_HEAD: head, _BODY: _array_record(request.adapter)})


def with_seen(content: RecordDict, seen: Head | None) -> RecordDict:
    """A packed train request with another ledger head. The adapter is shared, not copied."""
    head = ConfigRecord({**_head(content), "seen": head_text(seen)})
    return RecordDict({_HEAD: head, _BODY: content[_BODY]})


def unpack_train(content: RecordDict) -> TrainRequest:
    """The inverse of `pack_train`."""
    head = _values(content, {"run": str, "round": int, "plan": bytes, "model": str, "seen": str}, {_BODY})
    return TrainRequest(
        run=head["run"],
        round=head["round"],
        plan=head["plan"],
        fingerprint=head["model"],
        adapter=_bytes(content),
        seen=_ledger_head(head["seen"]),
    )


def pack_release(release: Release) -> RecordDict:
    """A release as message content."""
    head = ConfigRecord({"answer": "release", "head": head_text(release.head)})
    return RecordDict({_HEAD: head, _BODY: _array_record(release.update)})


def unpack_release(content: RecordDict) -> Release:
    """The inverse of `pack_release`; a refusal raises `Refused`."""
    _raise_refusal(content)
    head = _values(content, {"answer": str, "head": str}, {_BODY})
    if head["answer"] != "release":
        raise MessageError("the message is not a release")
    return Release(_bytes(content), _ledger_head(head["head"]))


def pack_query(run: str = "") -> RecordDict:
    """A query for the description, or for the statement about a run."""
    return RecordDict({_HEAD: ConfigRecord({"run": run})})


def unpack_query(content: RecordDict) -> str:
    """The run that a query is about."""
    run: str = _values(content, {"run": str})["run"]
    return run


def pack_description(description: Description) -> RecordDict:
    """A description as message content."""
    return _json_record(description.to_json())


def unpack_description(content: RecordDict) -> Description:
    """The inverse of `pack_description`; a refusal raises `Refused`."""
    try:
        return Description.from_json(_json_text(content))
    except ValueError as error:
        raise MessageError("not a description") from error


def pack_statement(statement: Statement) -> RecordDict:
    """A statement as message content."""
    return _json_record(statement.to_json())


def unpack_statement(content: RecordDict) -> Statement:
    """The inverse of `pack_statement`; a refusal raises `Refused`."""
    try:
        return Statement.from_json(_json_text(content))
    except ValueError as error:
        raise MessageError("not a statement") from error


def pack_refusal(refusal: Refused) -> RecordDict:
    """A refusal as message content."""
    return RecordDict({_HEAD: ConfigRecord({"refused": refusal.code, "detail": refusal.detail})})


def payload_size(content: RecordDict) -> int:
    """Bytes of everything of variable size in a message's content: arrays, byte strings and texts."""
    size = 0
    for record in content.values():
        if isinstance(record, ArrayRecord):
            size += sum(len(array.data) for array in record.values())
        elif isinstance(record, ConfigRecord):
            size += sum(len(value) for value in record.values() if isinstance(value, str | bytes))
    return size


def adapter_record(adapter: Adapter) -> ArrayRecord:
    """An adapter as Flower's strategies pass it."""
    return _array_record(to_bytes(adapter))


def adapter_from_record(arrays: ArrayRecord, shapes: Shapes) -> Adapter:
    """The inverse of `adapter_record`."""
    return from_bytes(array_bytes(arrays), shapes)


def array_bytes(arrays: ArrayRecord) -> bytes:
    """The safetensors bytes inside an `adapter_record`."""
    if set(arrays) != {_KEY}:
        raise MessageError("the message holds no adapter")
    array = arrays[_KEY]
    # Flower accepts any JSON value in a shape: 3.0 and True would compare equal to integers.
    shape = list(array.shape) if isinstance(array.shape, list | tuple) else []
    if (array.dtype, array.stype, shape) != ("uint8", "safetensors", [len(array.data)]) or type(
        shape[0]
    ) is not int:
        raise MessageError("the adapter is not safetensors bytes")
    return bytes(array.data)


def _ledger_head(text: str) -> Head | None:
    try:
        return read_head(text)
    except ValueError:
        raise MessageError("the message holds no ledger head") from None


def _raise_refusal(content: RecordDict) -> None:
    if "refused" in _head(content):
        head = _values(content, {"refused": str, "detail": str})
        code = head["refused"]
        raise Refused(
            code if is_refusal_code(code) else "training-failed", printable(head["detail"], _MOST_DETAIL)
        )


def _head(content: RecordDict) -> ConfigRecord:
    """The head of a message; an empty record if it has none.

    Records are looked up by name: Flower's `config_records` and `array_records` are views with reference cycles,
    which would keep a message's arrays in memory until the garbage collector runs.
    """
    head = content.get(_HEAD)
    return head if isinstance(head, ConfigRecord) else ConfigRecord()


def _array_record(data: bytes) -> ArrayRecord:
    return ArrayRecord({_KEY: Array("uint8", (len(data),), "safetensors", data)})


def _bytes(content: RecordDict) -> bytes:
    body = content.get(_BODY)
    if not isinstance(body, ArrayRecord):
        raise MessageError("the message holds no adapter")
    return array_bytes(body)


def _values(
    content: RecordDict, kinds: Mapping[str, type], beside: frozenset[str] | set[str] = frozenset()
) -> Any:
    """The values of a message's head: exactly these keys and types, and no record besides those in `beside`."""
    head = _head(content)
    for key, kind in kinds.items():
        if type(head.get(key)) is not kind:
            raise MessageError(f"the message has no {key} of type {kind.__name__}")
    if set(head) != set(kinds) or set(content) - {_HEAD, *beside}:
        raise MessageError("the message holds more than it should")
    return head


def _json_record(text: str) -> RecordDict:
    return RecordDict({_HEAD: ConfigRecord({"json": text})})


def _json_text(content: RecordDict) -> str:
    _raise_refusal(content)
    text: str = _values(content, {"json": str})["json"]
    return text
