"""What both ends of the vault's socket agree on: how long its path may be, and adapters in bounded pieces."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes

from common.adapter.adapter import MOST_BYTES
from common.errors import InputError, Refused

PIECE_BYTES = 2**20
MESSAGE_LIMIT = [
    ("grpc.max_receive_message_length", 2 * PIECE_BYTES),
    ("grpc.max_send_message_length", 2 * PIECE_BYTES),
]
# sockaddr_un holds 108 bytes with the final zero.
_LONGEST_SOCKET_PATH = 107


def check_socket_path(path: Path) -> Path:
    """The path, if a unix socket can have it.

    Raises:
        InputError: it is too long for the system, or holds a comma, at which gRPC cuts an address in two.
    """
    if "," in str(path):
        raise InputError(f"socket = {path}: the path of a socket cannot have a comma")
    length = len(os.fsencode(path))
    if length > _LONGEST_SOCKET_PATH:
        raise InputError(f"socket = {path}: the path has {length} bytes; the system allows {_LONGEST_SOCKET_PATH}")
    return path


def grpc_address(path: Path) -> str:
    """The path as gRPC names it: a `%` or `#` in a folder's name would otherwise lead elsewhere."""
    return f"unix:{quote_from_bytes(os.fsencode(path))}"


def split(data: bytes) -> Iterator[bytes]:
    """Pieces of at most 1 MiB, in order."""
    view = memoryview(data)
    for start in range(0, len(data), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


class Assembly:
    """Bytes put together again. Memory grows with what arrives, never with what was announced.

    Args:
        size: announced by the other side.

    Raises:
        Refused: more was announced than an adapter can have.
    """

    def __init__(self, size: int) -> None:
        if size > MOST_BYTES:
            raise Refused("malformed-request", f"{size} bytes were announced; at most {MOST_BYTES} are taken")
        self._size = size
        self._buffer = io.BytesIO()

    def add(self, piece: bytes) -> None:
        """Take the next piece.

        Raises:
            Refused: more arrives than was announced.
        """
        if self._buffer.tell() + len(piece) > self._size:
            raise Refused("malformed-request", f"more bytes arrived than the {self._size} that were announced")
        self._buffer.write(piece)

    def complete(self) -> bytes:
        """All bytes. They are handed over, not copied.

        Raises:
            Refused: fewer arrived than were announced.
        """
        if self._buffer.tell() != self._size:
            raise Refused("malformed-request", f"{self._buffer.tell()} bytes arrived; {self._size} were announced")
        return self._buffer.getvalue()
