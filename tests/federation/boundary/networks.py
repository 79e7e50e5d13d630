"""Another machine on this one: a network namespace that reaches this machine by a cable of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator


def namespaces_are_permitted() -> bool:
    """Whether this user may make network namespaces and connect them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    name = f"sotto-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "delete", name], check=True)
    return made


class Elsewhere:
    """A network namespace.

    Attributes:
        here: the address under which it reaches this machine.
    """

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._cable = f"sotto{number}"
        self.here = f"10.199.{number}.1"
        self._there = f"10.199.{number}.2"

    def command(self, *command: object) -> list[str]:
        """A command, run there."""
        return ["ip", "netns", "exec", self._name, *map(str, command)]

    def plug_in(self) -> None:
        """Lay the cable."""
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
        ip("address", "add", f"{self.here}/24", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        ip("-n", self._name, "address", "add", f"{self._there}/24", "dev", "eth0")
        ip("-n", self._name, "link", "set", "eth0", "up")
        ip("-n", self._name, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Let nothing through, as when a cable is cut: no packet says so to anybody."""
        ip("link", "set", self._cable, "down")

    def mend(self) -> None:
        """Let everything through again."""
        ip("link", "set", self._cable, "up")


@contextlib.contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """A namespace that is gone afterwards."""
    number = os.getpid() % 250 + 1
    name = f"sotto-{os.getpid()}"
    ip("netns", "add", name)
    try:
        there = Elsewhere(name, number)
        there.plug_in()
        yield there
    finally:
        ip("netns", "delete", name)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
