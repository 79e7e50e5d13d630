"""Flower's pace: it looks for what is not there yet a second later at the earliest. Sotto looks sooner.

This file and `client/runtime.py` alone lean on private names of flwr, and so on one version of it.
"""

from __future__ import annotations

import functools
from types import ModuleType

from flwr.supercore.version import package_version

VERSION = "1.41.0"

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


def pull_sooner(module: ModuleType, name: str) -> None:
    """Let a module of flwr ask again within 50 ms, then 100, …, for the parts of a message that is still arriving.

    With another version of flwr nothing is changed, and rounds take seconds longer.

    Args:
        module: it calls the function below.
        name: `pull_objects` of flwr, or a function that passes its keywords on to it.
    """
    if package_version == VERSION:
        quick = functools.partial(getattr(module, name), initial_backoff=_FIRST_PAUSE, backoff_cap=_LONGEST_PAUSE)
        setattr(module, name, quick)
