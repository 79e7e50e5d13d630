"""The gateway: the one listener that the network reaches. Behind it, on loopback, is the SuperLink.

Flower serves its Fleet API (for SuperNodes), its Control API (who runs what) and its Runtime API (for the
ServerApp) on one port, the last two without authentication. The gateway forwards ten calls of the Fleet API and
nothing else: a request's path is looked up in a table and never passed on, nor are its query, its `Host` or who it
says that it was forwarded for. Every request must be signed by a registered node key, before its body is read. A
request for messages is kept until there may be one (`server/superlink/holds.py`).

`python -m server.superlink.gateway ADDRESS CERTIFICATE KEY SUPERLINK REGISTRY DATABASE BELL` serves it.
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
from common.system.bell import Bell
from common.system.logs import begin
from common.system.network import Address, any_address
from server.registry.members import Members
from server.superlink.database import Database, Waiting
from server.superlink.holds import Holds, Outcome

WHO_PATH = "/who"

_MIB = 2**20
# Every call of the Fleet API that a registered node needs, and how many bytes it may send. A node does not
# register itself: `sotto server register` does that.
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
_PASSED_ON = ("content-type", "accept")
_PASSED_ON_PREFIX = "flwr-"
_SECONDS = 120.0
# The SuperLink closes a connection that is idle for 5 seconds: none is used again that may just be closing.
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
    """Decides who enters and forwards what may pass.

    Args:
        superlink: where the SuperLink is.
        members: who is registered.
        holds: keeps requests for messages.
    """

    def __init__(self, superlink: Address, members: Members, holds: Holds) -> None:
        self._superlink = f"http://{superlink}"
        self._members = members
        self._holds = holds
        self._client = httpx.AsyncClient(
            timeout=_SECONDS,
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_SECONDS),
            # No proxy of the coordinator's environment: the SuperLink is on this machine.
            trust_env=False,
            # What is kept for one organization would be sent along with another's requests.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def app(self) -> Starlette:
        """The gateway as an ASGI application."""

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            async with self._client:
                yield

        route = Route("/{path:path}", self._answer, methods=["GET", "POST"])
        return Starlette(routes=[route], lifespan=lifespan)

    async def _answer(self, request: Request) -> Response:
        # As it was sent: dots and percent signs mean nothing here.
        path, query = request.scope["raw_path"], request.scope["query_string"]
        if request.method == "GET" and path == WHO_PATH.encode() and not query:
            key = self._enter(request)
            return key if isinstance(key, Response) else self._who(key)
        limit = _CALLS.get(path)
        if limit is None or query or request.method != "POST":
            return _refuse(404, "no-such-call")
        key = self._enter(request)
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

    def _enter(self, request: Request) -> NodePublicKey | Response:
        """The key that a request is signed with, or why it may not enter."""
        try:
            key = signer(request.headers)
        except NotSigned as error:
            return _refuse(401, error.reason)
        return self._refusal(key) or key

    def _refusal(self, key: NodePublicKey) -> Response | None:
        """Why a key's owner may not enter; None if he may."""
        if self._members.name_of_key(key) is not None:
            return None
        reason = "revoked-key" if self._members.is_revoked(key) else "unknown-key"
        _log.warning("refused: %s %s", reason, key.fingerprint)
        return _refuse(401, reason)

    async def _hold(self, request: Request, key: NodePublicKey, node: int) -> Response | None:
        """Keep a request, whose body was read, until there may be a message; then why it is not forwarded."""

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        outcome = await self._holds.hold(node, lambda: self._members.node_of_key(key) == node, gone)
        if outcome is not Outcome.FORWARD:
            return _refuse(503, outcome.value)
        # Who was revoked meanwhile is told so; a node that got another number asks again.
        if refusal := self._refusal(key):
            return refusal
        return None if self._members.node_of_key(key) == node else _refuse(503, "not-ready")

    def _who(self, key: NodePublicKey) -> Response:
        name, node = self._members.name_of_key(key), self._members.node_of_key(key)
        now = datetime.now(UTC).isoformat()
        return JSONResponse({"organization": name, "node": str(node or 0), "time": now})

    async def _forward(self, request: Request, path: bytes, body: _Body, node: int) -> Response:
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIX)
        }
        if path == _PUSH_MESSAGES and not (isinstance(body, bytes) and _is_from(body, node)):
            return _refuse(403, "another-node")
        url = self._superlink + path.decode("ascii")
        try:
            reply = await self._client.post(url, content=body, headers=headers)
        except httpx.HTTPError:
            self._holds.forget(node)
            raise
        kind = reply.headers.get("content-type")
        answer = Response(reply.content, reply.status_code, media_type=kind)
        if path == _ACTIVATE and reply.status_code >= 400:
            # A node that died is taken for connected for a minute. With its number it can sign off first.
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
    """Whether all messages say that they are from this node; the SuperLink looks at the request's sender only."""
    push = PushMessagesRequest()
    try:
        push.ParseFromString(body)
    except DecodeError:
        return False
    return all(message.metadata.src_node_id == node for message in push.messages_list)


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"reason": reason}, status)


class _Impatient(H11Protocol):
    """A connection over which no request begins within seconds is closed: silent ones would fill the gateway."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(_FIRST_REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    """Ends without waiting for the requests that are kept, and looks less often whether it should."""

    def __init__(self, config: uvicorn.Config, holds: Holds) -> None:
        super().__init__(config)
        self._holds = holds

    async def main_loop(self) -> None:
        # Ten times a second is all that an idle gateway would do.
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(_TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._holds.end()
        await super().shutdown(sockets)


def serve(
    address: Address, certificate: Path, key: Path, superlink: Address, members: Members, holds: Holds
) -> None:
    """Serve the gateway until SIGTERM."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config = uvicorn.Config(
        Gateway(superlink, members, holds).app(),
        host=address.host,
        port=address.port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        ws="none",
        http=_Impatient,
        access_log=False,
        log_config=None,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
        limit_concurrency=_MOST_CONNECTIONS,
    )
    server = _Server(config, holds)
    server.run()
    if not server.started:
        sys.exit("the gateway could not listen")


if __name__ == "__main__":
    begin("gateway", timed=True)
    listens, certificate_file, key_file, behind, folder, state, bell = sys.argv[1:]
    serve(
        any_address(listens, "address"),
        Path(certificate_file),
        Path(key_file),
        any_address(behind, "superlink"),
        Members(Path(folder)),
        Holds(Database(Path(state), Waiting.MESSAGES), Bell(Path(bell))),
    )
