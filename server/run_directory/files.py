"""Files of a run: they appear whole or not at all, and are read as what they should be or not at all."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from common.errors import InputError
from common.untrusted import printable

T = TypeVar("T")


def read_as(kind: type[T], data: bytes, path: Path) -> T:
    """The JSON of a file as a value of a type.

    Args:
        kind: a dataclass; its `__pydantic_config__` says how strict it is.
        data: what the file holds.
        path: of the file, for messages.

    Raises:
        InputError: it is anything else.
    """
    try:
        value: T = _adapter(kind).validate_json(data)  # type: ignore[arg-type]  # a class can be hashed
        return value
    except ValueError as error:
        raise InputError(f"{path}: cannot be read: {printable(' '.join(str(error).split()), 300)}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def as_json(values: Any) -> bytes:
    """A value as the text of a JSON file."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def write(path: Path, data: bytes) -> None:
    """Write a file beside its place, and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    # What lies there may be a link that somebody made, which leads elsewhere.
    part.unlink(missing_ok=True)
    with part.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make sure that a folder's entries outlast a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
