"""A seeded bug, and how it is put into the program in memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_OURS = ("client", "common", "server", "simulations")


@dataclass(frozen=True)
class Mutant:
    """A bug, and the tests that catch it.

    Attributes:
        apply: makes the change; its docstring says what is wrong.
        caught_by: a test, relative to the tests' folder.
    """

    apply: Callable[[], None]
    caught_by: str

    @property
    def name(self) -> str:
        """As in the table of `docs/privacy.md`."""
        return self.apply.__name__.replace("_", "-")

    @property
    def row(self) -> str:
        """Its row of that table."""
        return f"| {self.apply.__doc__} | `{self.name}` | `{self.caught_by}` |"


def replace_everywhere(old: Any, new: Any) -> None:
    """Set a new function wherever a module of ours holds the old one."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in _OURS:
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)
