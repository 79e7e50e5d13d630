"""Network addresses: where a server listens and is reached."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from dataclasses import dataclass

from common.errors import InputError

_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.IGNORECASE)


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: a name or an IP address; IPv6 without brackets.
        port: from 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def is_open(self) -> bool:
        """Whether a server accepts connections at the address."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False

    def wait_until_open(self, seconds: float) -> bool:
        """Wait for a server to accept connections; returns whether one did in time."""
        deadline = time.monotonic() + seconds
        while not (opened := self.is_open()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return opened


def any_address(text: str, key: str) -> Address:
    """Parse `host:port`.

    Args:
        text: for instance "coordinator.example:8443", "0.0.0.0:8443" or "[::1]:8443".
        key: the name of the setting, for the error.

    Raises:
        InputError: it is not such an address.

    >>> any_address("coordinator.example:8443", "server").port
    8443
    """
    host, _, port = text.rpartition(":")
    number = int(port) if len(port) <= 5 and port.isascii() and port.isdecimal() else 0
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not 1 <= number <= 65535 or not _is_host(bare, bracketed=bare != host):
        raise InputError(f"{key} = {text!r}: it should be host:port, for instance 127.0.0.1:8000")
    return Address(bare, number)


def _is_host(host: str, *, bracketed: bool) -> bool:
    try:
        return (ipaddress.ip_address(host).version == 6) == bracketed
    except ValueError:
        return not bracketed and _HOST_NAME.fullmatch(host) is not None


def loopback_address(text: str, key: str, why: str) -> Address:
    """Parse `host:port` and require a loopback address.

    Args:
        text: for instance "127.0.0.1:8000" or "localhost:8000".
        key: the name of the setting, for the error.
        why: the reason for the requirement, for the error.

    Raises:
        InputError: it is not an address, or not a loopback address.

    >>> str(loopback_address("127.0.0.1:8000", "superlink", "it stays here"))
    '127.0.0.1:8000'
    """
    address = any_address(text, key)
    if not address.is_loopback or ":" in address.host:
        raise InputError(f"{key} = {text!r}: it should be 127.0.0.1:{address.port}; {why}")
    return Address("127.0.0.1" if address.host == "localhost" else address.host, address.port)


def free_port() -> int:
    """A port of 127.0.0.1 that is unused now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
