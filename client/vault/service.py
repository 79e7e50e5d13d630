"""The vault over gRPC: `client/channel/vault.proto` on a unix socket.

gRPC's threads only transfer bytes; a dedicated thread trains, one request at a time. If the caller disconnects,
training continues, its release is stored, and a repetition of the same request gets it.
"""

from __future__ import annotations

import grp
import logging
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.channel import vault_pb2 as pb
from client.channel import vault_pb2_grpc as stubs
from client.channel.framing import MESSAGE_LIMIT, Reassembly, check_socket_path, grpc_address, split
from client.channel.refusal import refusal_for
from common.errors import InputError, Refused
from common.protocol.protocol import Participant, Release, TrainRequest
from common.protocol.statement import head_text, read_head

_log = logging.getLogger(__name__)

SERVICE_NAME = "sotto.vault.v1.Vault"
_MAX_CALLS = 8
_MAX_PLAN_BYTES = 2**16
_MAX_DETAIL = 500
_UPLOAD_SECONDS = 300.0
_CALLER_CHECK_SECONDS = 0.5


class VaultService(stubs.VaultServicer):
    """Serves a participant over gRPC; see the module docstring.

    Args:
        participant: the vault.
    """

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._training = TrainingThread(participant)

    @property
    def busy(self) -> bool:
        """Whether a request is being trained."""
        return self._training.busy

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeReply:  # noqa: ARG002, N802
        """The organization's public description."""
        try:
            description = self._participant.describe()
            message = pb.Description(
                organization=description.organization,
                unit=description.unit,
                public_size=description.public_size,
                max_rank=description.max_rank or 0,
            )
            return pb.DescribeReply(description=message)
        except Exception as error:  # gRPC would send its text to the caller
            return pb.DescribeReply(refusal=_refusal(error, "describe"))

    def Statement(self, request: pb.StatementRequest, context: grpc.ServicerContext) -> pb.StatementReply:  # noqa: ARG002, N802
        """What a run cost."""
        try:
            statement = self._participant.statement(request.run)
            return pb.StatementReply(statement=statement.to_json())
        except Exception as error:  # as above
            return pb.StatementReply(refusal=_refusal(error, "statement"))

    def Train(self, parts: Iterator[pb.TrainPart], context: grpc.ServicerContext) -> Iterator[pb.ReleasePart]:  # noqa: N802
        """Train one round, or answer with its stored release."""
        try:
            release = self._train(parts, context)
        except grpc.RpcError:
            return  # the caller disconnected before its request was complete
        except Exception as error:  # as above
            yield pb.ReleasePart(refusal=_refusal(error, "train"))
            return
        if release is None:
            return
        head = pb.ReleaseHead(size=len(release.update), ledger_head=head_text(release.head))
        yield pb.ReleasePart(head=head)
        for chunk in split(release.update):
            yield pb.ReleasePart(data=chunk)

    def _train(self, parts: Iterator[pb.TrainPart], context: grpc.ServicerContext) -> Release | None:
        """The release; None if the caller disconnected. The caller may repeat the request."""
        upload_limit = threading.Timer(_UPLOAD_SECONDS, context.cancel)
        upload_limit.daemon = True
        upload_limit.start()
        try:
            request = _read_request(parts)
        finally:
            upload_limit.cancel()
        future = self._training.submit(request)
        del request  # during training, only the training thread should reference the adapter
        while context.is_active():
            try:
                return future.result(timeout=_CALLER_CHECK_SECONDS)
            except TimeoutError:
                continue
        return None


class TrainingThread:
    """Trains one request at a time, always in the same thread.

    Args:
        participant: whose `train` is called.
    """

    def __init__(self, participant: Participant) -> None:
        self._participant = participant
        self._lock = threading.Lock()
        self._current: tuple[str, Future[Release]] | None = None
        self._queue: queue.SimpleQueue[tuple[TrainRequest, Future[Release]]] = queue.SimpleQueue()
        # A daemon thread: stopping the vault does not wait for training, which is repeated on the next request.
        threading.Thread(target=self._work, name="training", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether a request is being trained."""
        return self._current is not None

    def submit(self, request: TrainRequest) -> Future[Release]:
        """Start training and return its future. A request that is already being trained gets the existing future.

        Raises:
            Refused: another request is being trained.
        """
        key = request.digest()
        with self._lock:
            if self._current is not None:
                if self._current[0] != key:
                    raise Refused("busy", "one request is trained at a time")
                return self._current[1]
            future: Future[Release] = Future()
            self._current = key, future
            self._queue.put((request, future))
        return future

    def _work(self) -> None:
        while True:
            # A separate function: no local variable here keeps a request alive until the next one arrives.
            self._answer(*self._queue.get())

    def _answer(self, request: TrainRequest, future: Future[Release]) -> None:
        release: Release | None = None
        refusal: Refused | None = None
        try:
            release = self._participant.train(request)
        except (
            BaseException
        ) as error:  # a panic in a Rust extension is not an Exception, and must not end this thread
            refusal = refusal_for(error, "train")
        # Before the answer: its receiver may request the next round immediately.
        with self._lock:
            self._current = None
        if release is not None:
            future.set_result(release)
        else:
            future.set_exception(refusal)


def _read_request(parts: Iterator[pb.TrainPart]) -> TrainRequest:
    head: pb.TrainHead | None = None
    adapter = Reassembly(0)
    for part in parts:
        kind = part.WhichOneof("part")
        if head is None and kind == "head":
            head = part.head
            if len(head.plan) > _MAX_PLAN_BYTES:
                raise Refused(
                    "malformed-request",
                    f"the plan has {len(head.plan)} bytes; at most {_MAX_PLAN_BYTES} are accepted",
                )
            adapter = Reassembly(head.adapter_size)
        elif head is not None and kind == "data" and part.data:
            adapter.add(part.data)
        else:
            raise Refused("malformed-request", "the parts should be one head followed by data")
    if head is None:
        raise Refused("malformed-request", "the request is empty")
    try:
        seen = read_head(head.seen)
    except ValueError:
        raise Refused("malformed-request", "the ledger head in the request cannot be read") from None
    return TrainRequest(head.run, head.round, head.plan, head.fingerprint, adapter.complete(), seen)


def _refusal(error: Exception, task: str) -> pb.Refusal:
    refusal = refusal_for(error, task)
    # The detail may quote text from the request: an unpaired surrogate, a name of many megabytes.
    return pb.Refusal(code=refusal.code, detail=refusal.detail[:_MAX_DETAIL].encode(errors="replace").decode())


class VaultServer:
    """gRPC server of a vault on its socket. The caller must hold the locks of ledger and socket.

    Args:
        participant: the vault.
        socket: where to listen. A socket left by a killed vault is replaced.
        group: a system group that may connect; None for the vault's user only.

    Raises:
        InputError: the path is not valid for a socket, the group does not exist, or the folder is not usable.
    """

    def __init__(self, participant: Participant, socket: Path, group: str | None = None) -> None:
        self._service = VaultService(participant)
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=_MAX_CALLS, thread_name_prefix="socket"),
            options=MESSAGE_LIMIT,
            maximum_concurrent_rpcs=_MAX_CALLS,
        )
        stubs.add_VaultServicer_to_server(self._service, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _bind(self._server, socket, group)

    def start(self) -> None:
        """Start answering."""
        self._server.start()
        for name in ("", SERVICE_NAME):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> bool:
        """Stop answering.

        Returns:
            False if training is still running in its thread.
        """
        self._health.enter_graceful_shutdown()
        self._server.stop(grace=0.5).wait()
        return not self._service.busy


def make_socket_folder(socket: Path, group: str | None) -> None:
    """Create the socket's folder, if it is missing, for the vault's user; the group gets search permission only.

    Raises:
        InputError: the folder cannot be created, or the system has no such group.
    """
    gid = group_id(group)
    try:
        socket.parent.mkdir(mode=0o700, parents=True)
        if gid is not None:
            os.chown(socket.parent, -1, gid)
            socket.parent.chmod(0o710)
    except FileExistsError:
        return
    except OSError as error:
        raise InputError(f"vault.socket = {socket}: its folder cannot be created: {error}") from None


def group_id(group: str | None) -> int | None:
    """The id of a system group; None for no group.

    Raises:
        InputError: the system has no such group.
    """
    try:
        return None if group is None else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # a null byte raises ValueError
        raise InputError(f"vault.group = {group!r}: the system has no such group") from None


def _bind(server: grpc.Server, socket: Path, group: str | None) -> None:
    check_socket_path(socket)
    make_socket_folder(socket, group)
    gid = group_id(group)
    try:
        if socket.is_socket():
            socket.unlink()
        if socket.exists():
            raise InputError(f"vault.socket = {socket}: exists and is not a socket; it should be a new path")
        # With this umask no other user can connect between bind and chmod.
        previous = os.umask(0o177)
        try:
            server.add_insecure_port(grpc_address(socket))
        finally:
            os.umask(previous)
        if gid is not None:
            os.chown(socket, -1, gid)
            socket.chmod(0o660)
    except (OSError, RuntimeError) as error:
        raise InputError(f"vault.socket = {socket}: cannot be created: {error}") from None
