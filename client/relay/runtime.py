"""Flower's programs on an organization's side. This file and `pace.py` lean on private names of flwr.

`python -m client.relay.runtime supernode …` is Flower's own SuperNode, at another pace (`pace.py`).
`python -m client.relay.runtime relay …` answers its messages in one lasting process. Flower would start a
process for each message, unpack the coordinator's app and run it. Here the app is looked at and never unpacked:
only code that the organization installed runs.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec

import httpx
import uvicorn.config
from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.fleet_pb2 import ActivateNodeRequest, ActivateNodeResponse, DeactivateNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.version import package_version
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.channel.refusal import refusal_for
from client.relay.client_app import app
from common.errors import Refused, SottoError
from common.flower.codec import pack_refusal
from common.flower.fab import check_app
from common.flower.patches import VERSION, bound_arrays, pull_sooner
from common.keys.node_key import NODE_HEADER
from common.system.bell import Bell
from common.system.logs import begin
from common.system.redaction import failure

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
# The SuperNode rings when there is a message. What it lost and takes up again itself is found without.
_LONGEST_SECONDS = 20.0
_RETRY_SECONDS = 1.0
# The server looks every half second who is connected.
_AWAY_SECONDS = 2.0

P = ParamSpec("P")

_log = logging.getLogger(__name__)


def check_version() -> None:
    """Make sure of the Flower that this file was written for.

    Raises:
        SottoError: another version is installed.
    """
    if package_version != VERSION:
        raise SottoError(f"flwr {package_version} is installed; Sotto works with flwr {VERSION} only")


def run_supernode(bell: Path, arguments: list[str]) -> None:
    """Flower's SuperNode at a pace of our own.

    Args:
        bell: is rung for each message.
        arguments: of `flower-supernode`.
    """
    import flwr.supernode.fleet_http_connection as connection
    import flwr.supernode.start_client_internal as loop
    from flwr.supernode.cli.flower_supernode import flower_supernode

    from client.relay.pace import quicken

    quicken(Bell(bell))
    pull_sooner(loop, "pull_objects")
    vars(loop)["pull_objects"] = _forgotten_with_its_run(vars(loop)["pull_objects"])
    # Its own settings would print past our log.
    uvicorn.config.LOGGING_CONFIG.clear()
    uvicorn.config.LOGGING_CONFIG.update(version=1, disable_existing_loggers=False)
    vars(connection)["FleetHttpClient"] = _ReturningClient
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


class _ReturningClient(FleetHttpClient):
    """Takes the place of a SuperNode of the same key that died.

    Flower would refuse the key for the minute that it takes the dead one for connected. The gateway adds the
    node's number to such a refusal, and with it the dead one can be signed off: so long that the server sees that it
    was away, and asks again what the dead one may have received.
    """

    def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802 - Flower's name
        """Sign on."""
        try:
            return super().ActivateNode(request)
        except httpx.HTTPStatusError as error:
            node = error.response.headers.get(NODE_HEADER, "")
            if not node.isdecimal():
                raise
            self.DeactivateNode(DeactivateNodeRequest(node_id=int(node)))
        time.sleep(_AWAY_SECONDS)
        return super().ActivateNode(request)


def _forgotten_with_its_run(pull: Callable[P, dict[str, bytes]]) -> Callable[P, dict[str, bytes]]:
    """Let a message whose run ends while it arrives fail like any other that cannot be received.

    Flower would keep the part of it that is there, and the relay wait minutes for the rest.
    """

    @functools.wraps(pull)
    def pull_or_fail(*arguments: P.args, **keywords: P.kwargs) -> dict[str, bytes]:
        try:
            return pull(*arguments, **keywords)
        except RunNotRunningException:
            raise ObjectPullError("", "the run has ended") from None

    return pull_or_fail


def run_relay(address: str, secret: Path, bell: Path, socket: str) -> None:
    """Answer the messages that a SuperNode receives, one after the other, until the process is ended.

    Args:
        address: of the SuperNode's Runtime API on this machine.
        secret: a file that proves to the SuperNode that this is its relay.
        bell: rings when there is a message. It promises none: whoever dies while he waits for it holds nothing.
        socket: of the vault.
    """
    pull_sooner(run_clientapp, "pull_and_inflate_object_from_tree")
    bound_arrays()
    tasks = _client(
        address,
        SuperExecAuthHttpInterceptor(master_secret=secret.read_bytes(), protected_methods=frozenset({_ACQUIRE})),
    )
    # Flower interrupts a task whose run has ended by this signal, also where a shell has had it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Agents and connectors are kinds of app that would run code here: they are never taken.
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    waiting = Bell(bell)
    while True:
        try:
            acquired = tasks.AcquireTask(wanted)
            if acquired.HasField("task") and acquired.token:
                _relay_one(_client(address, RuntimeTokenHttpInterceptor(acquired.token)), socket)
            else:
                waiting.wait(_LONGEST_SECONDS)
        except httpx.HTTPError as error:
            _log.warning("the SuperNode does not answer: %s", error)
            time.sleep(_RETRY_SECONDS)
        except KeyboardInterrupt:
            _log.warning("a message was left: its run has ended")


def _client(address: str, *interceptors: Any) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), *interceptors],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _relay_one(client: RuntimeHttpClient, socket: str) -> None:
    """Take one message, ask the vault, hand over the reply."""
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context: Context | None = None
    state = SubStatus.FAILED
    try:
        message, context, run, fab = pull_task_input(client)
        # The socket is the relay's own: nothing that came over the network can name another.
        context.node_config = {"socket": socket}
        push_message(client, _reply(message, context, fab.content, run.fab_hash), context)
        state = SubStatus.COMPLETED
    except Exception as error:
        # A run that ended meanwhile, for instance. Whatever one message meets, the next is answered.
        _log.error("a message could not be relayed: %s", failure(error))
    finally:
        # It has ended by itself if the SuperNode refused it.
        with suppress(RuntimeError):
            heartbeat.stop()
        try:
            push_task_output(client, context, state, "" if state == SubStatus.COMPLETED else "not relayed")
        finally:
            client.close()


def _reply(message: Message, context: Context, fab: bytes, digest: str) -> Message:
    try:
        check_app(fab, digest)
        return app(message=message, context=context)
    except Refused as refusal:
        _log.warning("an app was refused: %s", refusal.detail)
        return Message(pack_refusal(refusal), reply_to=message)
    except Exception as error:
        # An unknown kind of message, for instance. Flower would send the error's text to the server.
        code = refusal_for(error, "a message").code
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code), reply_to=message)


def main() -> None:
    """Run one of the two programs."""
    check_version()
    match sys.argv[1:]:
        case ["supernode", bell, *arguments]:
            begin("supernode", timed=True)
            run_supernode(Path(bell), arguments)
        case ["relay", address, secret, bell, socket]:
            begin("relay", timed=True)
            run_relay(address, Path(secret), Path(bell), socket)
        case _:
            sys.exit(
                "usage: python -m client.relay.runtime supernode BELL ARGUMENT… | relay ADDRESS SECRET BELL SOCKET"
            )


if __name__ == "__main__":
    main()
