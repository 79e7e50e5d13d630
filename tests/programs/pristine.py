"""How a process was before it ran anything: a fork of a program that runs is set back to that."""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
import threading
import warnings
from types import ModuleType
from typing import Any

_OURS = ("sotto", "common", "client", "server", "simulations")


class Pristine:
    """What our programs change of a process and of their own modules, as it is now."""

    def __init__(self) -> None:
        ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in _OURS]
        self._modules = [(module, _values(module)) for module in ours]
        self._loggers = [(logger, _settings(logger)) for logger in _loggers()]
        # As Python makes them in this environment.
        self._streams = [_stream_settings(stream) for stream in (sys.stdin, sys.stdout, sys.stderr)]
        self._hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning

    def restore(self) -> None:
        """Set everything back."""
        for module, values in self._modules:
            vars(module).update({name: _fresh(value) for name, value in values.items()})
        for logger in _loggers():
            vars(logger).update(handlers=[], level=logging.NOTSET, propagate=True, disabled=False)
        for logger, settings in self._loggers:
            vars(logger).update({**settings, "handlers": list(settings["handlers"])})
        logging.Logger.manager._clear_cache()
        sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning = self._hooks

    def stream(self, number: int) -> io.TextIOWrapper:
        """A new standard stream on a descriptor."""
        mode, encoding, errors, line_buffering, write_through = self._streams[number]
        opened = os.fdopen(number, mode, encoding=encoding, errors=errors, closefd=False)
        opened.reconfigure(line_buffering=line_buffering, write_through=write_through)
        return opened


def _loggers() -> list[logging.Logger]:
    known = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(one for one in known if isinstance(one, logging.Logger))]


def _settings(logger: logging.Logger) -> dict[str, Any]:
    names = ("handlers", "level", "propagate", "disabled")
    return {name: copy.copy(getattr(logger, name)) for name in names}


def _stream_settings(stream: object) -> tuple[str, str, str | None, bool, bool]:
    assert isinstance(stream, io.TextIOWrapper)
    return stream.mode, stream.encoding, stream.errors, stream.line_buffering, stream.write_through


def _values(module: ModuleType) -> dict[str, Any]:
    return {name: _fresh(value) for name, value in vars(module).items() if not name.startswith("__")}


def _fresh(value: Any) -> Any:
    # What is changed in place is copied; all else is rebound at most.
    return copy.copy(value) if type(value) in (list, dict, set) else value
