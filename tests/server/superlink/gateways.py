"""A gateway with one registered organization, as a process, and what stands in the SuperLink's place behind it."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flwr.supercore.state.schema.corestate_models import Task
from flwr.supercore.state.schema.linkstate_models import MessageIns
from sqlalchemy import create_engine

from client.admin.keys import make_keys
from client.relay.gateway_client import tls_context
from common.keys.node_key import NodeKey
from common.system.network import Address, free_port
from common.system.wakeup import Wakeup
from server.registry.registry import Registry
from server.superlink.certificates import make_certificates
from tests.conftest import ROOT
from tests.programs.start import Process, start

NODE = 4711


@dataclass
class Behind:
    """A server in the SuperLink's place that writes down what reaches it."""

    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 200

    def handler(self) -> type[BaseHTTPRequestHandler]:
        behind = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                if self.headers.get("transfer-encoding") == "chunked":
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if not behind.status:
                    # As one that falls over.
                    self.close_connection = True
                    return
                behind.seen.append((f"{self.command} {self.path}", headers, body))
                self.send_response(behind.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("set-cookie", "secret=1")
                self.send_header("content-length", "6")
                self.end_headers()
                self.wfile.write(b"answer")

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@dataclass
class Site:
    """A gateway with one registered organization, and what is behind it."""

    folder: Path
    address: Address
    behind: Behind
    registry: Registry
    gateway: Process

    @property
    def ca(self) -> Path:
        return self.folder / "certs" / "ca.pem"

    @property
    def key_file(self) -> Path:
        return self.folder / "keys" / "node.key"

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection((self.address.host, self.address.port), timeout=60)
        return tls_context(self.ca).wrap_socket(plain, server_hostname=self.address.host)

    def signed(self) -> dict[str, str]:
        return NodeKey.read(self.key_file).headers()

    def send(self, raw: bytes) -> bytes:
        """Raw bytes on a connection of their own, and all that comes back."""
        with self.connect() as connection:
            connection.sendall(raw)
            answer = b""
            try:
                while piece := connection.recv(65536):
                    answer += piece
            except ssl.SSLError:
                pass
            return answer

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def pull(self, key: NodeKey | None = None) -> Pull:
        """Begin a request for messages."""
        return Pull(self, (key or NodeKey.read(self.key_file)).headers())

    def pulls(self) -> int:
        """How many requests for messages were forwarded."""
        return sum(line == "POST /v1/fleet/pull-messages" for line, _, _ in self.behind.seen)

    def post(self, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        """An honest request."""
        given = self.signed() if headers is None else headers
        client = http.client.HTTPSConnection(self.address.host, self.address.port, context=tls_context(self.ca))
        client.request("POST", path, body, {"content-type": "application/x-protobuf", **given})
        reply = client.getresponse()
        answer = reply.read()
        client.close()
        self.reply_headers = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, answer


class Pull:
    """A request for messages on a connection of its own, whose answer a thread waits for."""

    def __init__(self, site: Site, headers: dict[str, str]) -> None:
        self._connection = site.connect()
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._connection.sendall(
            f"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: a\r\n{head}Content-Length: 4\r\n\r\nbody".encode()
        )
        self._answer: tuple[int, bytes] | None = None
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        reply = http.client.HTTPResponse(self._connection)
        try:
            reply.begin()
            self._answer = reply.status, reply.read()
        except (OSError, ValueError, http.client.HTTPException):
            pass

    def answer(self, seconds: float = 10.0) -> tuple[int, bytes]:
        """Status and body. A pull is kept for 20 seconds, so one that takes longer than these was not woken."""
        self._thread.join(seconds)
        assert self._answer is not None, "no answer in time"
        self._connection.close()
        return self._answer

    def is_kept(self, seconds: float = 0.7) -> bool:
        """Whether there is no answer for some time."""
        self._thread.join(seconds)
        return self._answer is None and self._thread.is_alive()

    def leave(self) -> None:
        """Close the connection, as a process does that dies."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()


@contextmanager
def opened(folder: Path) -> Iterator[Site]:
    """A gateway of its own in a folder; there is no database unless somebody makes it."""
    make_certificates(folder / "certs", ["127.0.0.1"])
    make_keys(folder / "keys", "st-mary")
    registry = Registry(folder / "organizations")
    registry.register("st-mary", folder / "keys" / "node.pub", folder / "keys" / "statement.pub")
    registry.set_node_id("st-mary", NODE)
    behind = Behind()
    server = ThreadingHTTPServer(("127.0.0.1", 0), behind.handler())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with gateway_process(folder, registry, Address("127.0.0.1", server.server_port)) as (address, gateway):
            yield Site(folder, address, behind, registry, gateway)
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def gateway_process(folder: Path, registry: Registry, superlink: Address) -> Iterator[tuple[Address, Process]]:
    """A gateway on a free port, with the certificates in a folder, before a SuperLink that need not be there."""
    address = Address("127.0.0.1", free_port())
    command = [sys.executable, "-m", "server.superlink.gateway", address, folder / "certs" / "server.pem"]
    command += [folder / "certs" / "server.key", superlink, registry.folder]
    Wakeup.create(folder / "wakeup")
    command += [folder / "state.db", folder / "wakeup"]
    with (folder / "gateway.log").open("wb") as log:
        gateway = start(command, cwd=ROOT, output=log)
    try:
        assert address.wait_until_open(120), (folder / "gateway.log").read_text()
        yield address, gateway
    finally:
        gateway.terminate()
        assert gateway.wait(60) == 0 or gateway.returncode == -15


class Messages:
    """The SuperLink's database as Flower makes it, with messages put in and taken out."""

    def __init__(self, folder: Path) -> None:
        self._wakeup = Wakeup(folder / "wakeup")
        engine = create_engine(f"sqlite:///{folder / 'state.db'}")
        for table in (MessageIns, Task):
            table.metadata.create_all(engine)
        engine.dispose()
        # As the SuperLink's own connections are made.
        self._database = sqlite3.connect(folder / "state.db", check_same_thread=False)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._number = 0

    def store(self, node: int = NODE, ttl: float = 600.0, *, signal: bool = True) -> None:
        """A message for a node."""
        self._number += 1
        # Flower writes its numbers, which have no sign, as SQLite's, which have one.
        signed = node - 2**64 if node >= 2**63 else node
        self.execute(
            "INSERT INTO message_ins (message_id, dst_node_id, created_at, ttl, delivered_at)"
            " VALUES (?, ?, ?, ?, '')",
            f"message-{self._number}",
            signed,
            time.time(),
            ttl,
        )
        if signal:
            self._wakeup.signal()

    def deliver(self) -> None:
        """As the SuperLink does when a node pulls."""
        self.execute("UPDATE message_ins SET delivered_at = 'now' WHERE delivered_at = ''")

    def execute(self, statement: str, *values: object) -> None:
        with self._database:
            self._database.execute(statement, values)

    def close(self) -> None:
        self._database.close()
