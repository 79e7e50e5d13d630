"""Requests and answers between the vault's own processes, as Python objects over a socket pair."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection

# What an answer begins with.
DONE, FAILED = "done", "failed"


def serve(connection: Connection, target: object, described: Callable[[BaseException], tuple[str, str]]) -> None:
    """Answer requests until the other side has closed the connection, or its process has ended.

    Args:
        connection: to the other side.
        target: has a method `_name` for each request (name, argument, …).
        described: kind and text of an error, as the other side may know them.
    """
    while True:
        try:
            name, *arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = DONE, getattr(target, f"_{name}")(*arguments)
        except BaseException as error:  # a panic in Rust is no Exception
            answer = FAILED, described(error)
        try:
            connection.send(answer)
        except OSError:
            return
