"""The vault as its relay sees it: a `Participant` at the other end of a unix socket."""

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
from client.channel.framing import MESSAGE_LIMIT, PIECE_BYTES, Assembly, grpc_address, split
from common.errors import Refused
from common.protocol.protocol import REASONS, Description, Release, TrainRequest
from common.protocol.statement import Head, Statement, head_text, read_head
from common.untrusted import printable

_QUERY_SECONDS = 30.0
_TRY_SECONDS = 1.0
_RETRY_SECONDS = 0.3
_MOST_DETAIL = 500
# How long a connection may take: a vault that is there accepts at once, but a busy machine is slow.
_CONNECT_SECONDS = 2.0
_CHANNEL_OPTIONS = [
    *MESSAGE_LIMIT,
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name this bounds an attempt to connect, not the pause between two.
    ("grpc.min_reconnect_backoff_ms", round(1000 * _CONNECT_SECONDS)),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.default_authority", "vault"),
]


class RemoteVault:
    """Asks the vault behind a socket; use it as a context.

    A vault that dies while it is asked is waited for and asked again: the same request costs nothing twice.

    Args:
        socket: of the vault.
        timeout: seconds that an answer may take.
        patience: seconds that the vault may be away.
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
        """Name, unit and public size."""
        reply = self._ask(
            lambda limit: self._stub.Describe(pb.DescribeRequest(), timeout=min(limit, _QUERY_SECONDS))
        )
        _raise_refusal(reply)
        said = reply.description
        description = Description(said.organization, said.unit, said.public_size, said.max_rank or None)
        with _as_refusal("description"):
            description.check()
        return description

    def train(self, request: TrainRequest) -> Release:
        """One round of training."""
        head = _head(request)
        release: Release = self._ask(
            lambda limit: _read_release(self._stub.Train(_parts(head, request.adapter), timeout=limit))
        )
        return release

    def statement(self, run: str) -> Statement:
        """The cost of a run."""
        query = _query(run)
        reply = self._ask(lambda limit: self._stub.Statement(query, timeout=min(limit, _QUERY_SECONDS)))
        _raise_refusal(reply)
        with _as_refusal("statement"):
            return Statement.from_json(reply.statement)

    def _ask(self, call: Any) -> Any:
        """What a call returns; made again while the vault is away, as long as patience and deadline allow."""
        away_since: float | None = None
        while True:
            began = time.monotonic()
            try:
                return call(max(0.1, self._deadline - began))
            except grpc.RpcError as error:
                code = error.code()
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused("busy", "the vault has too many callers")
            if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise Refused("vault-unavailable", f"no answer in time ({code.name})")
            now = time.monotonic()
            if now - began > 2 * _CONNECT_SECONDS:
                # It was there, and the call broke off just now.
                away_since = now
            elif away_since is None:
                away_since = began
            if now - away_since >= self._patience or now >= self._deadline:
                raise Refused("vault-unavailable", f"the vault was away for {now - away_since:.0f} seconds")
            time.sleep(_RETRY_SECONDS)


def vault_name(socket: Path) -> str | None:
    """Whose vault answers at a socket just now; None if none does."""
    try:
        with RemoteVault(socket, timeout=_TRY_SECONDS, patience=0) as vault:
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
        raise Refused("malformed-request", "the request's values are not of their types") from None
    _check_size(head)
    return head


def _query(run: str) -> pb.StatementRequest:
    try:
        query = pb.StatementRequest(run=run)
    except ValueError:
        raise Refused("malformed-request", "the run's id is no text") from None
    _check_size(query)
    return query


def _check_size(message: pb.TrainHead | pb.StatementRequest) -> None:
    if message.ByteSize() > PIECE_BYTES:
        raise Refused("malformed-request", f"the request has {message.ByteSize()} bytes beside its adapter")


def _parts(head: pb.TrainHead, adapter: bytes) -> Iterator[pb.TrainPart]:
    yield pb.TrainPart(head=head)
    for piece in split(adapter):
        yield pb.TrainPart(data=piece)


def _read_release(parts: Iterator[pb.ReleasePart]) -> Release:
    update: Assembly | None = None
    head: Head | None = None
    for part in parts:
        _raise_refusal(part)
        kind = part.WhichOneof("part")
        if update is None and kind == "head":
            update = Assembly(part.head.size)
            with _as_refusal("release"):
                head = read_head(part.head.ledger_head)
        elif update is not None and kind == "data" and part.data:
            update.add(part.data)
        else:
            raise Refused("vault-unavailable", "the vault's answer is no release")
    if update is None:
        raise Refused("vault-unavailable", "the vault gave no answer")
    return Release(update.complete(), head)


@contextmanager
def _as_refusal(what: str) -> Iterator[None]:
    """An answer that cannot be read is no answer; its text stays here."""
    try:
        yield
    except ValueError:
        raise Refused("vault-unavailable", f"the vault's answer is no {what}") from None


def _raise_refusal(reply: Any) -> None:
    if reply.HasField("refusal"):
        code = reply.refusal.code
        detail = printable(reply.refusal.detail, _MOST_DETAIL)
        raise Refused(code if code in REASONS else "training-failed", detail)
