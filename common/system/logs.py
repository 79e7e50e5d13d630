"""Logging: one line per event, for people or as JSON.

More people read logs than records, and logs are copied to more machines. So in a process that opens records
(`private`), an error is logged without its text, see `redaction.py`, and of a library's message only the logger
and the location are logged: messages, warnings and direct output of libraries can contain a record.

The format is `human` or `json`, from the environment variable `SOTTO_LOG_FORMAT`, which child processes inherit.
Information goes to standard output, warnings and errors to standard error.
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
# Set for the Flower programs that an organization's relay starts.
ORGANIZATION_VARIABLE = "SOTTO_LOG_ORGANIZATION"
_OWN_PACKAGES = ("sotto", "common", "client", "server", "simulations", "__main__")

_log = logging.getLogger("sotto")


def log_format() -> str:
    """The log format that the environment selects.

    Raises:
        InputError: the format is unknown.
    """
    chosen = os.environ.get(FORMAT_VARIABLE) or "human"
    if chosen not in FORMATS:
        raise InputError(f"log format = {chosen!r}: it should be one of {', '.join(FORMATS)}")
    return chosen


def is_json() -> bool:
    """Whether the log format is JSON."""
    return os.environ.get(FORMAT_VARIABLE) == "json"


def configure(
    part: str,
    organization: str = "",
    *,
    private: bool = False,
    timed: bool = False,
    level: int = logging.INFO,
) -> None:
    """Configure logging for this process.

    A second call, for instance when the organization's name is known, replaces the configuration, and takes over
    handlers that libraries have installed meanwhile.

    Args:
        part: the part of the system: server, vault, relay, …
        organization: its name; if empty, the name in the environment.
        private: whether this process opens records.
        timed: whether lines of the human format start with the time, for log files without timestamps.
        level: the lowest level that is logged.

    Raises:
        InputError: the format in the environment is unknown.
    """
    global _handler
    as_json = log_format() == "json"
    reset()
    for library in list(logging.root.manager.loggerDict):
        _take_over(logging.getLogger(library))
    # Plain stream handlers only: subclasses were installed on purpose, for instance by a test.
    for handler in [item for item in logging.root.handlers if type(item) is logging.StreamHandler]:
        logging.root.removeHandler(handler)
    name = organization or os.environ.get(ORGANIZATION_VARIABLE, "")
    _handler = _Lines(_Writer(part, name, private, timed, as_json))
    logging.root.addHandler(_handler)
    for package in _OWN_PACKAGES:
        logging.getLogger(package).setLevel(level)
    if private or as_json:
        sys.excepthook = lambda _kind, error, _trace: _uncaught(error)
        threading.excepthook = lambda hook: _uncaught(hook.exc_value)
        sys.unraisablehook = lambda hook: _uncaught(hook.exc_value)
    _show_warning.append(warnings.showwarning)
    warnings.showwarning = _handler.warn


def reset() -> None:
    """Stop logging and undo what `configure` changed in this process."""
    global _handler
    if _handler is not None:
        logging.root.removeHandler(_handler)
        warnings.showwarning = _show_warning.pop()
        for package in _OWN_PACKAGES:
            logging.getLogger(package).setLevel(logging.NOTSET)
        sys.excepthook, threading.excepthook = sys.__excepthook__, threading.__excepthook__
        sys.unraisablehook = sys.__unraisablehook__
    _handler = None


def report(text: str, fields: Mapping[str, Any] | None = None) -> None:
    """Log a line for information.

    Args:
        text: the line.
        fields: additional keys of the JSON line.
    """
    _log.info("%s", text, extra={"fields": fields or {}})


def warn(text: str) -> None:
    """Log a line that an operator should look at."""
    _log.warning("%s", text)


class _Writer:
    """Formats log records as lines."""

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
        # A name from the network must not be able to start a new line.
        return before + "".join(char if char.isprintable() else repr(char)[1:-1] for char in message)

    def _message(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        if self.private and not _is_own(record.name):
            message = f"a message of {record.name} at {short(record.pathname)}:{record.lineno} is not shown"
            return f"{message}: {failure(error)}" if error else message
        message = record.getMessage().strip()
        return f"{message}: {failure(error, text=not self.private)}" if error else message


class _Lines(logging.Handler):
    """Writes each log record as one line."""

    def __init__(self, writer: _Writer) -> None:
        super().__init__()
        self.writer = writer
        # Replace standard output and error, see `nothing_else`.
        self.streams: tuple[TextIO, TextIO] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and not _is_own(record.name):
            return
        out, errors = self.streams or (sys.stdout, sys.stderr)
        stream = errors if record.levelno >= logging.WARNING else out
        try:
            line = self.writer.line(record)
            encoding = stream.encoding or "utf-8"
            stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            stream.flush()
        except Exception:  # like every handler of `logging`: a failing log must not stop the program
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the interface is logging's
        """Ignored: Python would print the record, and a log that cannot be written must not stop a training."""

    def warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,  # noqa: ARG002 - the interface is that of `warnings`
        line: str | None = None,  # noqa: ARG002
    ) -> None:
        """Replaces `warnings.showwarning`, which also prints the source line."""
        text = "" if self.writer.private else f": {message}"
        _log.warning("%s at %s:%d%s", category.__name__, short(filename), lineno, text)


_handler: _Lines | None = None
_show_warning: list[Any] = []


def _is_own(name: str) -> bool:
    return name.split(".")[0] in _OWN_PACKAGES


def _take_over(logger: logging.Logger) -> None:
    """Make a library with its own stream handler log through the root logger instead."""
    for handler in list(logger.handlers):
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            logger.removeHandler(handler)
            logger.propagate = True


def _uncaught(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, KeyboardInterrupt):
        text = _handler is not None and not _handler.writer.private
        _log.critical("unexpected error: %s", failure(error, text=text))


def bug(error: Exception) -> bool:
    """Log an unexpected error.

    Returns:
        False if Python's traceback should be printed instead: no records are open, and the format is for people.
    """
    if sys.excepthook is sys.__excepthook__:
        return False
    _uncaught(error)
    return True


@contextlib.contextmanager
def nothing_else() -> Iterator[None]:
    """Within the context, standard output and standard error receive only the lines of this log.

    Libraries in C++ and Rust print directly to the file descriptors: a panic of a tokenizer quotes the text that
    it was splitting. Their output is discarded.
    """
    if _handler is None:
        raise RuntimeError("call `configure` first")
    flush = ctypes.CDLL(None).fflush
    handler, saved = _handler, [os.dup(number) for number in (1, 2)]
    out, errors = (open(number, "w", encoding="utf-8", closefd=False) for number in saved)  # noqa: SIM115
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        _flush()
        for number in (1, 2):
            os.dup2(nothing, number)
        handler.streams = (out, errors)
        yield
    finally:
        # Buffered output must not be written to the restored streams.
        _flush()
        flush(None)
        handler.streams = None
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)
        os.close(nothing)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        # A stream is None in a program without streams; a closed pipe is ignored.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
