"""Addresses of this machine: until there are keys and TLS, Sotto listens and connects on loopback only."""

from __future__ import annotations

import ipaddress
import socket
import time
from dataclasses import dataclass

from common.errors import InputError


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def is_open(self) -> bool:
        """Whether something accepts connections there."""
        try:
            with socket.create_connection((self.host, self.port), timeout=1):
                return True
        except OSError:
            return False

    def wait_until_open(self, seconds: float) -> bool:
        """Whether something accepts connections there before the time is over."""
        deadline = time.monotonic() + seconds
        while not (opened := self.is_open()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return opened


def loopback_address(text: str, key: str) -> Address:
    """An address of this machine, from `host:port`.

    Args:
        text: for instance "127.0.0.1:8000" or "localhost:8000".
        key: where it stands, for the error.

    Raises:
        InputError: it is no such address, or not one of this machine alone.
    """
    host, _, port = text.rpartition(":")
    number = int(port) if len(port) <= 5 and port.isascii() and port.isdecimal() else 0
    if not 1 <= number <= 65535 or not host:
        raise InputError(f"{key} = {text!r}: it should be host:port, for instance 127.0.0.1:8000")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or ":" in host:
        raise InputError(
            f"{key} = {text!r}: it should be 127.0.0.1:{port}; this version has no TLS and stays on this machine"
        )
    return Address("127.0.0.1" if host == "localhost" else host, number)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
