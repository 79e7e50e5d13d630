"""Conventions of both ends of the vault's socket: its path, and adapters sent in chunks of bounded size."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

from common.adapter.adapter import MOST_BYTES
from common.errors import InputError, Refused

CHUNK_BYTES = 2**20
MESSAGE_LIMIT = [
    ("grpc.max_receive_message_length", 2 * CHUNK_BYTES),
    ("grpc.max_send_message_length", 2 * CHUNK_BYTES),
]
# sockaddr_un has room for 108 bytes including the terminating zero.
_MAX_SOCKET_PATH_BYTES = 107


def check_socket_path(path: Path) -> Path:
    """Return the path if it is valid for a unix socket.

    Raises:
        InputError: it is too long for the system, or contains a comma, at which gRPC splits an address.
    """
    if "," in str(path):
        raise InputError(f"socket = {path}: the path of a socket cannot contain a comma")
    length = len(os.fsencode(path))
    if length > _MAX_SOCKET_PATH_BYTES:
        raise InputError(
            f"socket = {path}: the path has {length} bytes; the system allows {_MAX_SOCKET_PATH_BYTES}"
        )
    return path


def grpc_address(path: Path) -> str:
    """The path as a gRPC address. Without quoting, gRPC would interpret a `%` or `#` and use another path."""
    return f"unix:{quote_from_bytes(os.fsencode(path))}"


def split(data: bytes) -> Iterator[bytes]:
    """Split data into chunks of at most 1 MiB, in order."""
    view = memoryview(data)
    for start in range(0, len(data), CHUNK_BYTES):
        yield bytes(view[start : start + CHUNK_BYTES])


class Reassembly:
    """Reassembles data from its chunks. Memory grows with what has arrived, never with the announced size.

    Args:
        size: the size that the sender announced.

    Raises:
        Refused: the announced size is larger than any adapter.
    """

    def __init__(self, size: int) -> None:
        if size > MOST_BYTES:
            raise Refused("malformed-request", f"{size} bytes were announced; at most {MOST_BYTES} are accepted")
        self._size = size
        self._buffer = io.BytesIO()

    def add(self, chunk: bytes) -> None:
        """Append the next chunk.

        Raises:
            Refused: more bytes arrived than were announced.
        """
        if self._buffer.tell() + len(chunk) > self._size:
            raise Refused("malformed-request", f"more bytes arrived than the {self._size} that were announced")
        self._buffer.write(chunk)

    def complete(self) -> bytes:
        """The complete data, without a copy.

        Raises:
            Refused: fewer bytes arrived than were announced.
        """
        if self._buffer.tell() != self._size:
            raise Refused("malformed-request", f"{self._buffer.tell()} bytes arrived; {self._size} were announced")
        return self._buffer.getvalue()
