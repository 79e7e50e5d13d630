"""Client of the vault: a `Participant` at the other end of a unix socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from client.channel import vault_pb2 as pb
from client.channel import vault_pb2_grpc as stubs
from client.channel.framing import CHUNK_BYTES, MESSAGE_LIMIT, Reassembly, grpc_address, split
from common.errors import Refused, is_refusal_code
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Head, Statement, head_text, read_head
from common.untrusted import printable

_QUERY_SECONDS = 30.0
_PROBE_SECONDS = 1.0
_RETRY_SECONDS = 0.3
_MAX_DETAIL = 500
# Timeout of a connection attempt: a running vault accepts at once, but the machine may be busy.
_CONNECT_SECONDS = 2.0
_CHANNEL_OPTIONS = [
    *MESSAGE_LIMIT,
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Despite its name, this bounds one connection attempt, not the pause between two.
    ("grpc.min_reconnect_backoff_ms", round(1000 * _CONNECT_SECONDS)),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.default_authority", "vault"),
]


class RemoteVault:
    """Client of the vault behind a socket; use it as a context manager.

    If the vault dies during a request, the request is repeated when the vault is back: a repeated request costs no
    additional budget.

    Args:
        socket: the vault's socket.
        timeout: seconds that an answer may take.
        patience: seconds that the vault may be unavailable.
    """

    def __init__(self, socket: Path, timeout: float, patience: float) -> None:
        self._socket = socket
        self._deadline = time.monotonic() + timeout
        self._patience = patience
        self._channel = grpc.insecure_channel(grpc_address(socket), options=_CHANNEL_OPTIONS)
        self._stub: Any = stubs.VaultStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> RemoteVault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def describe(self) -> Description:
        """Name, unit, public size and largest rank."""
        reply = self._ask(
            lambda limit: self._stub.Describe(pb.DescribeRequest(), timeout=min(limit, _QUERY_SECONDS))
        )
        _raise_refusal(reply)
        received = reply.description
        description = Description(
            received.organization, received.unit, received.public_size, received.max_rank or None
        )
        with _as_refusal("description"):
            description.check()
        return description

    def train(self, request: TrainRequest) -> Release:
        """Train one round."""
        head = _head(request)
        release: Release = self._ask(
            lambda limit: _read_release(self._stub.Train(_parts(head, request.adapter), timeout=limit))
        )
        return release

    def statement(self, run: str) -> Statement:
        """The statement of a run."""
        query = _query(run)
        reply = self._ask(lambda limit: self._stub.Statement(query, timeout=min(limit, _QUERY_SECONDS)))
        _raise_refusal(reply)
        with _as_refusal("statement"):
            return Statement.from_json(reply.statement)

    def _ask(self, call: Any) -> Any:
        """Make a call, and repeat it while the vault is unavailable and patience and deadline allow."""
        unavailable_since: float | None = None
        while True:
            started = time.monotonic()
            try:
                return call(max(0.1, self._deadline - started))
            except grpc.RpcError as error:
                code = error.code()
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused("busy", "the vault has too many callers")
            if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise Refused("vault-unavailable", f"no answer in time ({code.name})")
            now = time.monotonic()
            if now - started > 2 * _CONNECT_SECONDS:
                # The vault was connected, and the call has only now been interrupted.
                unavailable_since = now
            elif unavailable_since is None:
                unavailable_since = started
            unavailable = now - unavailable_since
            if unavailable >= self._patience or now >= self._deadline:
                raise Refused("vault-unavailable", f"the vault was unavailable for {unavailable:.0f} seconds")
            time.sleep(_RETRY_SECONDS)


def vault_name(socket: Path) -> str | None:
    """The name of the organization whose vault answers at a socket; None if no vault answers."""
    try:
        with RemoteVault(socket, timeout=_PROBE_SECONDS, patience=0) as vault:
            return vault.describe().organization
    except Refused:
        return None


def _head(request: TrainRequest) -> pb.TrainHead:
    try:
        head = pb.TrainHead(
            run=request.run,
            round=request.round,
            plan=request.plan,
            fingerprint=request.fingerprint,
            adapter_size=len(request.adapter),
            seen=head_text(request.seen),
        )
    except ValueError:
        raise Refused("malformed-request", "a value of the request has the wrong type") from None
    _check_size(head)
    return head


def _query(run: str) -> pb.StatementRequest:
    try:
        query = pb.StatementRequest(run=run)
    except ValueError:
        raise Refused("malformed-request", "the run's id is not text") from None
    _check_size(query)
    return query


def _check_size(message: pb.TrainHead | pb.StatementRequest) -> None:
    if message.ByteSize() > CHUNK_BYTES:
        raise Refused(
            "malformed-request",
            f"the request has {message.ByteSize()} bytes besides its adapter; at most {CHUNK_BYTES} are accepted",
        )


def _parts(head: pb.TrainHead, adapter: bytes) -> Iterator[pb.TrainPart]:
    yield pb.TrainPart(head=head)
    for piece in split(adapter):
        yield pb.TrainPart(data=piece)


def _read_release(parts: Iterator[pb.ReleasePart]) -> Release:
    update: Reassembly | None = None
    head: Head | None = None
    for part in parts:
        _raise_refusal(part)
        kind = part.WhichOneof("part")
        if update is None and kind == "head":
            update = Reassembly(part.head.size)
            with _as_refusal("release"):
                head = read_head(part.head.ledger_head)
        elif update is not None and kind == "data" and part.data:
            update.add(part.data)
        else:
            raise Refused("vault-unavailable", "the vault's answer is not a release")
    if update is None:
        raise Refused("vault-unavailable", "the vault's answer is empty")
    return Release(update.complete(), head)


@contextmanager
def _as_refusal(what: str) -> Iterator[None]:
    """Refuse an answer that cannot be decoded; the text of the error is not passed on."""
    try:
        yield
    except ValueError:
        raise Refused("vault-unavailable", f"the vault's answer is not a valid {what}") from None


def _raise_refusal(reply: Any) -> None:
    if reply.HasField("refusal"):
        code = reply.refusal.code
        detail = printable(reply.refusal.detail, _MAX_DETAIL)
        raise Refused(code if is_refusal_code(code) else "training-failed", detail)
