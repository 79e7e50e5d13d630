"""Patches of Flower: shorter polling intervals, and a bound on the size of arrays.

Only this file, `runtime.py` and `pace.py` of `client/relay`, and `nodes.py`, `superexec.py` and `database.py` (the
tables of Flower's database) of `server/superlink` depend on private names of flwr, and so on one version.
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
# For an array of a gibibyte, Flower's own metadata besides the pieces takes a hundredth of this.
_MOST_LIST_BYTES = 2**16


def pull_sooner(module: ModuleType, name: str) -> None:
    """Make a module of flwr poll after 50 ms, then 100 ms, …, for the parts of a message that is still arriving.

    Flower waits a second at least. With another version of flwr nothing is changed, and rounds take seconds
    longer.

    Args:
        module: the module that calls the function.
        name: `pull_objects` of flwr, or a function that passes its keywords on to it.
    """
    if package_version == VERSION:
        quick = functools.partial(getattr(module, name), initial_backoff=_FIRST_PAUSE, backoff_cap=_LONGEST_PAUSE)
        setattr(module, name, quick)


def bound_arrays() -> None:
    """Make Flower refuse to assemble an array that is larger than any adapter.

    An array arrives as pieces and a list of them in which a piece may be repeated: a few megabytes could otherwise
    exhaust the memory.
    """
    setattr(Array, "inflate", functools.partial(_inflate, Array.inflate))  # noqa: B010 - mypy refuses to assign to a method


def _inflate(inflate: Any, content: bytes, children: Any = None) -> Any:
    if len(content) > _MOST_LIST_BYTES:
        raise ValueError("an array of too many pieces")
    pieces = [children[name].data for name in get_object_children_ids_from_object_content(content)]
    places = json.loads(get_object_body(content, Array))["arraychunk_ids"]
    if sum(len(pieces[place]) for place in places) > MOST_BYTES:
        raise ValueError(f"an array of more than {MOST_BYTES} bytes")
    return inflate(content, children)
