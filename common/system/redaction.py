"""Redact errors for logs: the type and the locations in the code are kept, the text is not.

An error's text can quote the data that the code was working on: a parser quotes the line, a tokenizer the word,
and a traceback can contain values in lines of source. The text of a `SottoError` is written by Sotto and consists
of names and public numbers.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import traceback
from pathlib import Path
from types import TracebackType

from common.errors import SottoError

_MOST_PLACES = 30
_MOST_CAUSES = 5


def failure(error: BaseException, *, text: bool = False) -> str:
    """Describe an error for a log: its type, the system's name of it, and the locations in the traceback.

    Args:
        error: of any type.
        text: whether its text is included. That of a `SottoError` always is.
    """
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(parts) < _MOST_CAUSES:
        seen.add(id(current))
        kind = type(current).__name__
        known = str(current) if text or isinstance(current, SottoError) else _known_cause(current)
        parts.append(f"{kind}{f' ({known})' if known else ''} at {_places(current.__traceback__)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; because of ".join(parts)


def _known_cause(error: BaseException) -> str:
    """The fixed name that the operating system or SQLite has for the error; never the error's text."""
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    if isinstance(error, sqlite3.Error):
        name = str(getattr(error, "sqlite_errorname", ""))
        return name if name.startswith("SQLITE_") and hasattr(sqlite3, name) else ""
    return ""


def _places(trace: TracebackType | None) -> str:
    """file:line:function of each frame, innermost first. No source lines: they can contain values."""
    places = [
        f"{short(frame.f_code.co_filename)}:{line}:{frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(trace)
    ]
    return " < ".join(reversed(places[-_MOST_PLACES:])) or "an unknown place"


def short(filename: str) -> str:
    """The path of a file within its package, for logs."""
    path = Path(filename)
    for above in path.parents:
        if above.name in ("site-packages", "dist-packages") or (above / "sotto.py").is_file():
            return str(path.relative_to(above))
    return str(Path(*path.parts[-2:]))
