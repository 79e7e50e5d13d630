"""`sotto vault start` whose socket meets programs that speak another language, or none."""

from __future__ import annotations

import random
import socket as sockets
import struct
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from client.relay.vault_client import RemoteVault
from common.protocol.protocol import Description
from tests.client.vaults import VaultProcess, request_for, write_organization
from tests.conftest import MakePlan
from tests.waiting import LONG, wait_until

SILENT = 200
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHANCE = random.Random(0)


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame of HTTP/2; its length may be a lie."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def random_frame() -> bytes:
    return frame(CHANCE.randrange(12), CHANCE.randrange(256), CHANCE.randrange(9), CHANCE.randbytes(40))


SETTINGS = PREFACE + frame(4, 0, 0, b"")
GARBAGE = {
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: vault\r\n\r\n" * 20,
    "a POST that never ends": b"POST /sotto.vault.v1.Vault/Train HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nx",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "half a preface": PREFACE[:11],
    "a preface and nothing": PREFACE,
    "a frame of 16 megabytes announced": SETTINGS + frame(0, 0, 1, b"x", 2**24 - 1),
    "headers that are no HPACK": SETTINGS + frame(1, 4, 1, b"\xff" * 200),
    "data without a stream": SETTINGS + frame(0, 0, 77, b"x" * 1000),
    "a thousand pings": SETTINGS + frame(6, 0, 0, bytes(8)) * 1000,
    "a thousand resets": SETTINGS + frame(3, 0, 1, bytes(4)) * 1000,
    "settings that are impossible": SETTINGS + frame(4, 0, 0, b"\x00\x05\xff\xff\xff\xff" * 100),
    "zero bytes": bytes(100_000),
    "random": CHANCE.randbytes(100_000),
    "random frames": SETTINGS + b"".join(random_frame() for _ in range(300)),
}


def connected(socket: Path) -> sockets.socket:
    caller = sockets.socket(sockets.AF_UNIX)
    caller.settimeout(LONG)
    caller.connect(str(socket))
    return caller


def test_a_vault_that_meets_garbage_and_silence_still_describes_and_trains(
    tmp_path: Path, tiny_base: Path, make_plan: MakePlan
) -> None:
    request = request_for(make_plan(training={"rounds": 1, "local_steps": 1}))
    socket = tmp_path / "vault.sock"
    with VaultProcess(write_organization(tmp_path, tiny_base)).wait_ready() as vault, ExitStack() as open_calls:
        own = psutil.Process(vault.process.pid)
        with RemoteVault(socket, LONG, LONG) as asked:
            assert asked.describe() == Description("st-mary", "example", 40)
        before = own.num_fds()
        for garbage in GARBAGE.values():
            with connected(socket) as caller, suppress(OSError):
                caller.sendall(garbage)
            # Half open: the caller says that it has finished and never goes away.
            half = open_calls.enter_context(connected(socket))
            with suppress(OSError):
                half.sendall(garbage)
                half.shutdown(sockets.SHUT_WR)
        for _ in range(SILENT):
            open_calls.enter_context(connected(socket))
        with RemoteVault(socket, LONG, LONG) as asked:
            assert asked.describe() == Description("st-mary", "example", 40)
            release = asked.train(request)
            assert asked.train(request) == release
            assert asked.statement(request.run).run == request.run
        open_calls.close()
        wait_until(lambda: own.num_fds() < before + 20, "the connections to be let go")
        assert vault.answers
        assert vault.errors.read_text() == ""
