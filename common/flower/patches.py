"""Flower's pace: it looks for what is not there yet a second later at the earliest. Sotto looks sooner.

This file, `runtime.py` and `pace.py` of `client/relay`, and `nodes.py`, `superexec.py` and `database.py` (by the
tables of Flower's database) of `server/superlink` alone lean on private names of flwr, and so on one version.
"""

from __future__ import annotations

import functools
import json
from types import ModuleType
from typing import Any

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_children_ids_from_object_content,
)
from flwr.supercore.version import package_version

from common.adapter.adapter import MOST_BYTES

VERSION = "1.41.0"

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# What Flower writes of an array of a gibibyte, beside its pieces, is a hundredth of this.
_MOST_LIST_BYTES = 2**16


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


def bound_arrays() -> None:
    """Let Flower put no array together that would be larger than any adapter.

    An array comes as pieces and a list of them, in which a piece may stand again and again: a few megabytes would
    fill any memory.
    """
    setattr(Array, "inflate", functools.partial(_inflate, Array.inflate))  # noqa: B010 - it is a method to mypy


def _inflate(inflate: Any, content: bytes, children: Any = None) -> Any:
    if len(content) > _MOST_LIST_BYTES:
        raise ValueError("an array of too many pieces")
    pieces = [children[name].data for name in get_object_children_ids_from_object_content(content)]
    places = json.loads(get_object_body(content, Array))["arraychunk_ids"]
    if sum(len(pieces[place]) for place in places) > MOST_BYTES:
        raise ValueError(f"an array of more than {MOST_BYTES} bytes")
    return inflate(content, children)
