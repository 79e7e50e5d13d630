"""The wire: what `common.protocol` says, as the content of Flower messages, and back.

An adapter travels as safetensors bytes inside one Flower array, untouched. Whatever cannot be unpacked is a
`MessageError`; nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from common.adapter import Adapter, Shapes, from_bytes, to_bytes
from common.errors import Refused
from common.plan import NAME_PATTERN
from common.protocol import REASONS, Description, Head, Release, Statement, TrainRequest, head_text, read_head

DESCRIBE = "query.describe"
TRAIN = "train"
STATEMENT = "query.statement"

_HEAD, _BODY, _KEY = "sotto", "adapter", "safetensors"


class MessageError(ValueError):
    """A message that is not what it should be; the text holds nothing of its content."""


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
    head = ConfigRecord({**content.config_records[_HEAD], "seen": head_text(seen)})
    return RecordDict({_HEAD: head, _BODY: content.array_records[_BODY]})


def unpack_train(content: RecordDict) -> TrainRequest:
    """The inverse of `pack_train`."""
    return TrainRequest(
        run=_value(content, "run", str),
        round=_value(content, "round", int),
        plan=_value(content, "plan", bytes),
        fingerprint=_value(content, "model", str),
        adapter=_bytes(content),
        seen=_ledger_head(_value(content, "seen", str)),
    )


def pack_release(release: Release) -> RecordDict:
    """A release as message content."""
    head = ConfigRecord({"answer": "release", "head": head_text(release.head)})
    return RecordDict({_HEAD: head, _BODY: _array_record(release.update)})


def unpack_release(content: RecordDict) -> Release:
    """The inverse of `pack_release`; a refusal raises `Refused`."""
    _raise_refusal(content)
    return Release(_bytes(content), _ledger_head(_value(content, "head", str)))


def pack_query(run: str = "") -> RecordDict:
    """A describe query, or a statement query about a run."""
    return RecordDict({_HEAD: ConfigRecord({"run": run})})


def unpack_query(content: RecordDict) -> str:
    """The run that a query is about."""
    run: str = _value(content, "run", str)
    return run


def pack_description(description: Description) -> RecordDict:
    """A description as message content."""
    return _json_record(vars(description))


def unpack_description(content: RecordDict) -> Description:
    """The inverse of `pack_description`; a refusal raises `Refused`."""
    values = _json_value(content)
    if set(values) != {"organization", "unit", "public_size"} or not (
        isinstance(values["organization"], str)
        and isinstance(values["unit"], str)
        and type(values["public_size"]) is int
        and values["public_size"] >= 1
        # A name becomes part of a path in the run directory.
        and re.fullmatch(NAME_PATTERN, values["organization"])
    ):
        raise MessageError("not a description")
    return Description(**values)


def pack_statement(statement: Statement) -> RecordDict:
    """A statement as message content."""
    return _json_record(statement.to_dict())


def unpack_statement(content: RecordDict) -> Statement:
    """The inverse of `pack_statement`; a refusal raises `Refused`."""
    try:
        return Statement.from_dict(_json_value(content))
    except ValueError as error:
        raise MessageError("not a statement") from error


def pack_refusal(refusal: Refused) -> RecordDict:
    """A refusal as message content."""
    return RecordDict({_HEAD: ConfigRecord({"refused": refusal.code, "detail": refusal.detail})})


def payload_size(content: RecordDict) -> int:
    """Bytes of everything in a message's content that grows: arrays, byte strings and texts."""
    size = sum(len(array.data) for record in content.array_records.values() for array in record.values())
    for config in content.config_records.values():
        size += sum(len(value) for value in config.values() if isinstance(value, str | bytes))
    return size


def adapter_record(adapter: Adapter) -> ArrayRecord:
    """An adapter as Flower's strategies pass it."""
    return _array_record(to_bytes(adapter))


def adapter_from_record(arrays: ArrayRecord, shapes: Shapes) -> Adapter:
    """The inverse of `adapter_record`."""
    return from_bytes(array_bytes(arrays), shapes)


def array_bytes(arrays: ArrayRecord) -> bytes:
    """The safetensors bytes inside an `adapter_record`."""
    try:
        array = arrays[_KEY]
    except KeyError:
        raise MessageError("the message holds no adapter") from None
    if (array.dtype, array.stype) != ("uint8", "safetensors") or tuple(array.shape) != (len(array.data),):
        raise MessageError("the adapter is not safetensors bytes")
    return bytes(array.data)


def _ledger_head(text: str) -> Head | None:
    try:
        return read_head(text)
    except ValueError:
        raise MessageError("the message holds no ledger head") from None


def _raise_refusal(content: RecordDict) -> None:
    head = _head(content)
    if "refused" in head:
        code = head["refused"]
        known = isinstance(code, str) and code in REASONS
        raise Refused(str(code) if known else "training-failed", str(head.get("detail", ""))[:500])


def _array_record(data: bytes) -> ArrayRecord:
    return ArrayRecord({_KEY: Array("uint8", (len(data),), "safetensors", data)})


def _bytes(content: RecordDict) -> bytes:
    if _BODY not in content.array_records:
        raise MessageError("the message holds no adapter")
    return array_bytes(content.array_records[_BODY])


def _head(content: RecordDict) -> ConfigRecord:
    return content.config_records[_HEAD] if _HEAD in content.config_records else ConfigRecord()


def _value(content: RecordDict, key: str, kind: type) -> Any:
    value = _head(content).get(key)
    if type(value) is not kind:
        raise MessageError(f"the message has no {key} of type {kind.__name__}")
    return value


def _json_record(values: dict[str, Any]) -> RecordDict:
    return RecordDict({_HEAD: ConfigRecord({"json": json.dumps(values, sort_keys=True)})})


def _json_value(content: RecordDict) -> dict[str, Any]:
    _raise_refusal(content)
    try:
        values = json.loads(_value(content, "json", str))
    except (ValueError, RecursionError):
        raise MessageError("the message holds no JSON") from None
    if not isinstance(values, dict):
        raise MessageError("the message holds no JSON object")
    return values
