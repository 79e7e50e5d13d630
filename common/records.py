"""Records as files: JSON Lines, plain or gzip. Strict: for the terminal of whoever owns the file."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

from common.errors import InputError

Record = dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Read every record of a file.

    Args:
        path: `.jsonl` or `.jsonl.gz`, UTF-8, one JSON object a line; empty lines are skipped.

    Raises:
        InputError: no such file, another format, a line that is not a JSON object (which line), or no record.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"{path}: records should be a .jsonl or .jsonl.gz file")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    records: list[Record] = []
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    records.append(_record(line, path, number))
    except (OSError, EOFError, zlib.error) as error:
        # Not the error's own text, here and below: it may quote the file.
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is damaged"
        raise InputError(f"{path}: cannot be read after line {number}: {reason}") from None
    if not records:
        raise InputError(f"{path}: holds no records; one JSON object a line is needed")
    return records


def _record(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: line {number} is not JSON in UTF-8{_where(error)}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: line {number} is a {type(record).__name__}; it should be a JSON object")
    return record


def _where(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f": it breaks off at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f": byte {error.start + 1} is no UTF-8"
    return ": it is nested too deep" if isinstance(error, RecursionError) else ": a number has too many digits"
