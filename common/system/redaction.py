"""What may be logged of an error: its type and the places in the code that it came through, not its text.

An error's text may hold what the code was working on: a parser quotes the line, a tokenizer the word, and a
traceback shows lines of source with values in them. The text of a `SottoError` is ours, made of names and public
numbers.
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
    """What may be logged of an error: its type, what the system calls it, and the places that it came through.

    Args:
        error: of any kind.
        text: whether its text may be logged too. That of a `SottoError` always may.
    """
    said: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and len(said) < _MOST_CAUSES:
        seen.add(id(current))
        kind = type(current).__name__
        known = str(current) if text or isinstance(current, SottoError) else _known_cause(current)
        said.append(f"{kind}{f' ({known})' if known else ''} at {_places(current.__traceback__)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "; because of ".join(said)


def _known_cause(error: BaseException) -> str:
    """The system's or SQLite's own fixed name of what happened: never the error's text."""
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    if isinstance(error, sqlite3.Error):
        name = str(getattr(error, "sqlite_errorname", ""))
        return name if name.startswith("SQLITE_") and hasattr(sqlite3, name) else ""
    return ""


def _places(trace: TracebackType | None) -> str:
    """file:line:function, the place where it was raised first. No line of source: it may hold values."""
    places = [
        f"{short(frame.f_code.co_filename)}:{line}:{frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(trace)
    ]
    return " < ".join(reversed(places[-_MOST_PLACES:])) or "an unknown place"


def short(filename: str) -> str:
    """A file's path within its package: what a log shows of it."""
    path = Path(filename)
    for above in path.parents:
        if above.name in ("site-packages", "dist-packages") or (above / "sotto.py").is_file():
            return str(path.relative_to(above))
    return str(Path(*path.parts[-2:]))
