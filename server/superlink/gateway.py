"""The gateway: the only listener that the network reaches. The SuperLink behind it listens on loopback.

Flower serves its Fleet API (for SuperNodes), its Control API (for submitting runs) and its Runtime API (for the
ServerApp) on one port, the last two without authentication. The gateway forwards ten calls of the Fleet API and
nothing else: the path of a request is looked up in a table and never passed on, nor are its query, its `Host` and
its `X-Forwarded-For`. Every request must be signed by a registered node key; this is checked before its body is
read. A request for messages is held until there may be one (`server/superlink/held_requests.py`).

`python -m server.superlink.gateway ADDRESS CERTIFICATE KEY SUPERLINK REGISTRY DATABASE WAKEUP` serves it.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.keys.node_key import NODE_HEADER, NodePublicKey, NotSigned, signer
from common.system.logs import configure
from common.system.network import Address, any_address
from common.system.wakeup import Wakeup
from server.registry.members import Members
from server.superlink.database import Database, Query
from server.superlink.held_requests import HeldRequests, Outcome

IDENTITY_PATH = "/who"

_MIB = 2**20
# The calls of the Fleet API that a registered node needs, with the maximum size of their bodies. Nodes do not
# register themselves: `sotto server register` does that.
_CALLS = {
    b"/v1/fleet/activate-node": _MIB,
    b"/v1/fleet/deactivate-node": _MIB,
    b"/v1/fleet/send-node-heartbeat": _MIB,
    b"/v1/fleet/pull-messages": 2**16,
    b"/v1/fleet/push-messages": 16 * _MIB,
    b"/v1/fleet/get-run": _MIB,
    b"/v1/fleet/get-fab": _MIB,
    b"/v1/fleet/push-object": 1100 * _MIB,
    b"/v1/fleet/pull-object": _MIB,
    b"/v1/fleet/confirm-message-received": _MIB,
}
_PULL_MESSAGES = b"/v1/fleet/pull-messages"
_PUSH_MESSAGES = b"/v1/fleet/push-messages"
_ACTIVATE = b"/v1/fleet/activate-node"
_FORWARDED_HEADERS = ("content-type", "accept")
_FORWARDED_PREFIX = "flwr-"
_SECONDS = 120.0
# The SuperLink closes connections after 5 idle seconds: none is reused that may be closing.
_IDLE_SECONDS = 3.0
_KEEP_ALIVE_SECONDS = 75
_MOST_CONNECTIONS = 1000
_FIRST_REQUEST_SECONDS = 10.0
_TICK_SECONDS = 0.5

_log = logging.getLogger(__name__)


_Body = bytes | AsyncIterator[bytes]


class _TooLarge(Exception):
    pass


class Gateway:
    """Authenticates requests and forwards the permitted calls.

    Args:
        superlink: address of the SuperLink.
        members: the registered organizations.
        held: holds requests for messages.
    """

    def __init__(self, superlink: Address, members: Members, held: HeldRequests) -> None:
        self._superlink = f"http://{superlink}"
        self._members = members
        self._held = held
        self._client = httpx.AsyncClient(
            timeout=_SECONDS,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_SECONDS),
            # Ignore proxies in the environment: the SuperLink is on this machine.
            trust_env=False,
            # A stored cookie would be sent with the requests of other organizations.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def app(self) -> Starlette:
        """Return the gateway as an ASGI application."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with self._client:
                yield

        route = Route("/{path:path}", self._answer, methods=["GET", "POST"])
        return Starlette(routes=[route], lifespan=lifespan)

    async def _answer(self, request: Request) -> Response:
        # The raw path: neither dots nor percent signs are interpreted.
        path, query = request.scope["raw_path"], request.scope["query_string"]
        if request.method == "GET" and path == IDENTITY_PATH.encode() and not query:
            key = self._authenticate(request)
            return key if isinstance(key, Response) else self._identity(key)
        limit = _CALLS.get(path)
        if limit is None or query or request.method != "POST":
            return _refuse(404, "no-such-call")
        key = self._authenticate(request)
        if isinstance(key, Response):
            return key
        node = self._members.node_of_key(key)
        if node is None:
            return _refuse(503, "not-ready")
        try:
            body: _Body = _bounded(request, limit)
            if path in (_PULL_MESSAGES, _PUSH_MESSAGES):
                body = b"".join([piece async for piece in _bounded(request, limit)])
            if path == _PULL_MESSAGES and (refusal := await self._hold(request, key, node)):
                return refusal
            return await self._forward(request, path, body, node)
        except _TooLarge:
            return _refuse(413, "too-large")
        except ClientDisconnect:
            return _refuse(400, "incomplete")
        except httpx.HTTPError as error:
            _log.warning("the SuperLink does not answer: %s", type(error).__name__)
            return _refuse(503, "not-ready")

    def _authenticate(self, request: Request) -> NodePublicKey | Response:
        """Return the registered key that signed a request, or a refusal."""
        try:
            key = signer(request.headers)
        except NotSigned as error:
            return _refuse(401, error.reason)
        return self._refusal(key) or key

    def _refusal(self, key: NodePublicKey) -> Response | None:
        """Return a refusal if a key is not registered; None if it is."""
        if self._members.name_of_key(key) is not None:
            return None
        reason = "revoked-key" if self._members.is_revoked(key) else "unknown-key"
        _log.warning("refused: %s %s", reason, key.fingerprint)
        return _refuse(401, reason)

    async def _hold(self, request: Request, key: NodePublicKey, node: int) -> Response | None:
        """Hold a request, whose body was read, until there may be a message; then return None, or a refusal."""

        async def disconnected() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        outcome = await self._held.hold(node, lambda: self._members.node_of_key(key) == node, disconnected)
        if outcome is not Outcome.FORWARD:
            return _refuse(503, outcome.value)
        # The key may have been revoked meanwhile, or the node may have got a new id: then it repeats the request.
        if refusal := self._refusal(key):
            return refusal
        return None if self._members.node_of_key(key) == node else _refuse(503, "not-ready")

    def _identity(self, key: NodePublicKey) -> Response:
        name, node = self._members.name_of_key(key), self._members.node_of_key(key)
        now = datetime.now(UTC).isoformat()
        return JSONResponse({"organization": name, "node": str(node or 0), "time": now})

    async def _forward(self, request: Request, path: bytes, body: _Body, node: int) -> Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in _FORWARDED_HEADERS or name.startswith(_FORWARDED_PREFIX)
        }
        if path == _PUSH_MESSAGES and not (isinstance(body, bytes) and _is_from(body, node)):
            return _refuse(403, "another-node")
        url = self._superlink + path.decode("ascii")
        try:
            reply = await self._client.post(url, content=body, headers=headers)
        except httpx.HTTPError:
            self._held.forget(node)
            raise
        kind = reply.headers.get("content-type")
        answer = Response(reply.content, reply.status_code, media_type=kind)
        if path == _ACTIVATE and reply.status_code >= 400:
            # Flower treats a dead node as connected for a minute. With its id, a restarted one can sign off first.
            answer.headers[NODE_HEADER] = str(node)
        return answer


async def _bounded(request: Request, limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _TooLarge
        yield piece


def _is_from(body: bytes, node: int) -> bool:
    """Return whether all messages have this node as source; the SuperLink checks only the request's sender."""
    push = PushMessagesRequest()
    try:
        push.ParseFromString(body)
    except DecodeError:
        return False
    return all(message.metadata.src_node_id == node for message in push.messages_list)


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"reason": reason}, status)


class _FirstRequestTimeout(H11Protocol):
    """Closes connections without a request after some seconds: otherwise they would exhaust the gateway."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_FIRST_REQUEST_SECONDS, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Releases held requests at shutdown, and checks less often whether to shut down."""

    def __init__(self, config: uvicorn.Config, held: HeldRequests) -> None:
        super().__init__(config)
        self._held = held

    async def main_loop(self) -> None:
        # Uvicorn would check ten times a second.
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(_TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._held.stop()
        await super().shutdown(sockets)


def serve(
    address: Address, certificate: Path, key: Path, superlink: Address, members: Members, held: HeldRequests
) -> None:
    """Serve the gateway until SIGTERM."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config = uvicorn.Config(
        Gateway(superlink, members, held).app(),
        host=address.host,
        port=address.port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ws="none",
        http=_FirstRequestTimeout,
        access_log=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
        limit_concurrency=_MOST_CONNECTIONS,
    )
    server = _Server(config, held)
    server.run()
    if not server.started:
        sys.exit("the gateway could not listen")


if __name__ == "__main__":
    configure("gateway", timed=True)
    listens, certificate_file, key_file, behind, folder, state, wakeup = sys.argv[1:]
    serve(
        any_address(listens, "address"),
        Path(certificate_file),
        Path(key_file),
        any_address(behind, "superlink"),
        Members(Path(folder)),
        HeldRequests(Database(Path(state), Query.MESSAGES), Wakeup(Path(wakeup))),
    )
