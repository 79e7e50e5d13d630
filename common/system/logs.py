"""What the programs say of themselves: one line an event, for people or as JSON, from one place.

A log is read by more people than the records are, and copied to more machines. So where records are opened
(`private`), an error is logged without its text, see `redaction.py`, and nothing of libraries is passed on but
who spoke and where: their messages, their warnings and whatever they print past Python may hold a record.

The format is `human` or `json`, from the environment variable `SOTTO_LOG_FORMAT`, which children inherit. What is
for information goes to standard output, warnings and errors go to standard error.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from common.errors import InputError
from common.system.redaction import failure, short

FORMATS = ("human", "json")
FORMAT_VARIABLE = "SOTTO_LOG_FORMAT"
# Set for the programs of Flower that an organization's relay starts.
ORGANIZATION_VARIABLE = "SOTTO_LOG_ORGANIZATION"
_OURS = ("sotto", "common", "client", "server", "simulations", "__main__")

_log = logging.getLogger("sotto")


def log_format() -> str:
    """The format that the environment asks for.

    Raises:
        InputError: there is no such format.
    """
    asked = os.environ.get(FORMAT_VARIABLE) or "human"
    if asked not in FORMATS:
        raise InputError(f"log format = {asked!r}: it should be one of {', '.join(FORMATS)}")
    return asked


def is_json() -> bool:
    """Whether the lines are for machines."""
    return os.environ.get(FORMAT_VARIABLE) == "json"


def begin(
    part: str,
    organization: str = "",
    *,
    private: bool = False,
    timed: bool = False,
    level: int = logging.INFO,
) -> None:
    """Log as one part of the system from now on.

    Called again, for instance when the name is known, it replaces what was begun before, and takes over what
    libraries have set up for themselves meanwhile.

    Args:
        part: server, vault, relay, …
        organization: its name; where it is empty, the one in the environment.
        private: whether this process opens records.
        timed: whether lines for people begin with the time: for files that nothing else adds it to.
        level: below which nothing is logged.

    Raises:
        InputError: the environment asks for an unknown format.
    """
    global _handler
    as_json = log_format() == "json"
    end()
    for library in list(logging.root.manager.loggerDict):
        _take_over(logging.getLogger(library))
    # Plain ones only: those of other kinds were put there on purpose, by a test for instance.
    for plain in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
        logging.root.removeHandler(plain)
    name = organization or os.environ.get(ORGANIZATION_VARIABLE, "")
    _handler = _Lines(_Writer(part, name, private, timed, as_json))
    logging.root.addHandler(_handler)
    for ours in _OURS:
        logging.getLogger(ours).setLevel(level)
    if private or as_json:
        sys.excepthook = lambda _kind, error, _trace: _uncaught(error)
        threading.excepthook = lambda hook: _uncaught(hook.exc_value)
        sys.unraisablehook = lambda hook: _uncaught(hook.exc_value)
    _show_warning.append(warnings.showwarning)
    warnings.showwarning = _handler.warn


def end() -> None:
    """Log no more; what `begin` changed in this process is as before."""
    global _handler
    if _handler is not None:
        logging.root.removeHandler(_handler)
        warnings.showwarning = _show_warning.pop()
        for name in _OURS:
            logging.getLogger(name).setLevel(logging.NOTSET)
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
    _handler = None


def report(text: str, fields: Mapping[str, Any] | None = None) -> None:
    """Say something for information, in one line.

    Args:
        text: the line.
        fields: numbers and names that a JSON line has besides, for machines.
    """
    _log.info("%s", text, extra={"fields": fields or {}})


def warn(text: str) -> None:
    """Say something that an operator should look at, in one line."""
    _log.warning("%s", text)


class _Writer:
    """Makes lines of log records."""

    def __init__(self, part: str, organization: str, private: bool, timed: bool, as_json: bool) -> None:
        self.private = private
        self._part, self._organization = part, organization
        self._timed, self._as_json = timed, as_json

    def line(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        time = time.removesuffix("+00:00") + "Z"
        level, message = record.levelname.lower(), self._message(record)
        if self._as_json:
            values = {"time": time, "level": level, "part": self._part}
            if self._organization:
                values["organization"] = self._organization
            values |= {"logger": record.name, "message": message}
            return json.dumps({**values, **getattr(record, "fields", {}), **values}, default=str)
        before = f"{time} " if self._timed else ""
        before += f"{level}: " if record.levelno > logging.INFO else ""
        # A name that came over the network must not begin a line of its own.
        return before + "".join(one if one.isprintable() else repr(one)[1:-1] for one in message)

    def _message(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if self.private and not _is_ours(record.name):
            message = f"a message of {record.name} at {short(record.pathname)}:{record.lineno} is not shown"
            return f"{message}: {failure(error)}" if error else message
        message = record.getMessage().strip()
        return f"{message}: {failure(error, text=not self.private)}" if error else message


class _Lines(logging.Handler):
    """Writes every record as one line."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self.writer = writer
        # In place of the process's own, see `nothing_else`.
        self.streams: tuple[TextIO, TextIO] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not _is_ours(record.name):
            return
        out, errors = self.streams or (sys.stdout, sys.stderr)
        stream = errors if record.levelno >= logging.WARNING else out
        try:
            line = self.writer.line(record)
            encoding = stream.encoding or "utf-8"
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except Exception:  # as every handler of `logging` does: a log must not stop what it tells of
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the interface is logging's
        """Nothing: Python would print the record. A log that cannot be written must not stop a training either."""

    def warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002 - the interface is that of `warnings`
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        """In place of `warnings.showwarning`, which prints the source's line as well."""
        text = "" if self.writer.private else f": {message}"
        _log.warning("%s at %s:%d%s", category.__name__, short(filename), lineno, text)


_handler: _Lines | None = None
_show_warning: list[Any] = []


def _is_ours(name: str) -> bool:
    return name.split(".")[0] in _OURS


def _take_over(logger: logging.Logger) -> None:
    """Libraries that print by themselves speak through the root logger, as the others do."""
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
            logger.propagate = True


def _uncaught(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt):
        text = _handler is not None and not _handler.writer.private
        _log.critical("an error of ours: %s", failure(error, text=text))


def bug(error: Exception) -> bool:
    """Log an error that nobody foresaw.

    Returns:
        False if that is left to Python's own traceback: nothing private is open, and a person reads it.
    """
    if sys.excepthook is sys.__excepthook__:
        return False
    _uncaught(error)
    return True


@contextlib.contextmanager
def nothing_else() -> Iterator[None]:
    """As long as the context lasts, standard output and standard error take the lines of this log alone.

    Libraries of C++ and Rust print past Python: a panic of a tokenizer quotes the text that it was splitting. What
    they print is lost.
    """
    if _handler is None:
        raise RuntimeError("`begin` comes first")
    flush = ctypes.CDLL(None).fflush
    handler, kept = _handler, [os.dup(number) for number in (1, 2)]
    out, errors = (open(number, "w", encoding="utf-8", closefd=False) for number in kept)  # noqa: SIM115
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        _flush()
        for number in (1, 2):
            os.dup2(nothing, number)
        handler.streams = (out, errors)
        yield
    finally:
        # What was printed so far must not come out afterwards.
        _flush()
        flush(None)
        handler.streams = None
        for number, own in zip((1, 2), kept, strict=True):
            os.dup2(own, number)
            os.close(own)
        os.close(nothing)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # None where a program has no streams; a closed pipe is no concern of ours.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
