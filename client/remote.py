"""The vault as its relay sees it: a `Participant` at the other end of a unix socket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from client import vault_pb2 as pb
from client import vault_pb2_grpc as stubs
from client.wire import MESSAGE_LIMIT, Assembly, split
from common.errors import Refused
from common.protocol import REASONS, Description, Release, Statement, TrainRequest

_QUERY_SECONDS = 30.0
_RETRY_SECONDS = 0.3
_CHANNEL_OPTIONS = [
    *MESSAGE_LIMIT,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
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
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_CHANNEL_OPTIONS)
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
        return Description(said.organization, said.unit, said.public_size)

    def train(self, request: TrainRequest) -> Release:
        """One round of training."""
        release: Release = self._ask(lambda limit: _read_release(self._stub.Train(_parts(request), timeout=limit)))
        return release

    def statement(self, run: str) -> Statement:
        """The cost of a run."""
        query = pb.StatementRequest(run=run)
        reply = self._ask(lambda limit: self._stub.Statement(query, timeout=min(limit, _QUERY_SECONDS)))
        _raise_refusal(reply)
        return Statement.from_dict(json.loads(reply.statement))

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
            # A call that was answered for a while and then broke off begins the patience anew.
            now = time.monotonic()
            if away_since is None or now - began > 2 * _RETRY_SECONDS:
                away_since = now
            if now - away_since >= self._patience or now >= self._deadline:
                raise Refused("vault-unavailable", f"the vault was away for {now - away_since:.0f} seconds")
            time.sleep(_RETRY_SECONDS)


def _parts(request: TrainRequest) -> Iterator[pb.TrainPart]:
    yield pb.TrainPart(
        head=pb.TrainHead(
            run=request.run,
            round=request.round,
            plan=request.plan,
            fingerprint=request.fingerprint,
            adapter_size=len(request.adapter),
        )
    )
    for piece in split(request.adapter):
        yield pb.TrainPart(data=piece)


def _read_release(parts: Iterator[pb.ReleasePart]) -> Release:
    update: Assembly | None = None
    for part in parts:
        _raise_refusal(part)
        if part.WhichOneof("part") == "size":
            update = Assembly(part.size)
        elif update is not None:
            update.add(part.data)
    if update is None:
        raise Refused("vault-unavailable", "the vault gave no answer")
    return Release(update.complete())


def _raise_refusal(reply: Any) -> None:
    if reply.HasField("refusal"):
        code = reply.refusal.code
        raise Refused(code if code in REASONS else "training-failed", reply.refusal.detail)
