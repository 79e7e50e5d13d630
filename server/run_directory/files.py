"""Files of a run: written atomically, and validated when they are read."""

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
    """Parse a JSON file into a dataclass.

    Args:
        kind: the dataclass; its `__pydantic_config__` determines the strictness.
        data: contents of the file.
        path: of the file, for error messages.

    Raises:
        InputError: the data does not match the type.
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
    """Return a value as the contents of a JSON file."""
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def write(path: Path, data: bytes) -> None:
    """Write a file atomically: under a temporary name, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    # An existing file may be a symbolic link to another place.
    part.unlink(missing_ok=True)
    with part.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
