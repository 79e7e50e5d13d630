"""Flower's programs on an organization's side. This file and `pace.py` depend on private names of flwr.

`python -m client.relay.runtime supernode …` runs Flower's SuperNode, without its polling intervals (`pace.py`).
`python -m client.relay.runtime relay …` answers its messages in one long-lived process. Flower would start a
process for each message, unpack the coordinator's app and run it. Here the app is checked and never unpacked: only
code that the organization installed runs.
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
from common.system.logs import configure
from common.system.redaction import failure
from common.system.wakeup import Wakeup

_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
# The SuperNode signals when there is a message. A message that it lost and fetches again is seen at this interval.
_MAX_WAIT_SECONDS = 20.0
_RETRY_SECONDS = 1.0
# Long enough for the server to notice the absence: it checks every half second which nodes are connected.
_ABSENT_SECONDS = 2.0

P = ParamSpec("P")

_log = logging.getLogger(__name__)


def check_version() -> None:
    """Check that the installed Flower is the version that this file was written for.

    Raises:
        SottoError: another version is installed.
    """
    if package_version != VERSION:
        raise SottoError(f"flwr {package_version} is installed; Sotto works with flwr {VERSION} only")


def run_supernode(wakeup: Path, arguments: list[str]) -> None:
    """Run Flower's SuperNode, without its polling intervals.

    Args:
        wakeup: signalled for each message.
        arguments: the arguments of `flower-supernode`.
    """
    import flwr.supernode.fleet_http_connection as connection
    import flwr.supernode.start_client_internal as loop
    from flwr.supernode.cli.flower_supernode import flower_supernode

    from client.relay.pace import patch_sleep

    patch_sleep(Wakeup(wakeup))
    pull_sooner(loop, "pull_objects")
    vars(loop)["pull_objects"] = _fail_if_run_ends(vars(loop)["pull_objects"])
    # Uvicorn's own logging configuration would bypass our log.
    uvicorn.config.LOGGING_CONFIG.clear()
    uvicorn.config.LOGGING_CONFIG.update(version=1, disable_existing_loggers=False)
    vars(connection)["FleetHttpClient"] = _ReconnectingClient
    sys.argv = ["flower-supernode", *arguments]
    flower_supernode()


class _ReconnectingClient(FleetHttpClient):
    """Replaces a SuperNode of the same key that died.

    Flower would refuse the key for the minute that it takes to notice that the old node is gone. The gateway adds
    the old node's id to such a refusal, so that it can be deactivated first. The pause lets the server notice that
    the node was absent, so that it sends again what the old one may have received.
    """

    def ActivateNode(self, request: ActivateNodeRequest) -> ActivateNodeResponse:  # noqa: N802 - Flower's name
        """Activate this node, deactivating its dead predecessor first."""
        try:
            return super().ActivateNode(request)
        except httpx.HTTPStatusError as error:
            node = error.response.headers.get(NODE_HEADER, "")
            if not node.isdecimal():
                raise
            self.DeactivateNode(DeactivateNodeRequest(node_id=int(node)))
        time.sleep(_ABSENT_SECONDS)
        return super().ActivateNode(request)


def _fail_if_run_ends(pull: Callable[P, dict[str, bytes]]) -> Callable[P, dict[str, bytes]]:
    """Let a message whose run ends while it is received fail like any other incomplete message.

    Flower would keep the part that has arrived, and the relay would wait minutes for the rest.
    """

    @functools.wraps(pull)
    def pull_or_fail(*arguments: P.args, **keywords: P.kwargs) -> dict[str, bytes]:
        try:
            return pull(*arguments, **keywords)
        except RunNotRunningException:
            raise ObjectPullError("", "the run has ended") from None

    return pull_or_fail


def run_relay(address: str, secret: Path, wakeup: Path, socket: str) -> None:
    """Answer the messages that a SuperNode receives, one after another, until the process is terminated.

    Args:
        address: the SuperNode's Runtime API on this machine.
        secret: file of the secret that authenticates this process to the SuperNode.
        wakeup: signalled when there is a message. Only a hint: a relay that dies while it waits holds no message.
        socket: the vault's socket.
    """
    pull_sooner(run_clientapp, "pull_and_inflate_object_from_tree")
    bound_arrays()
    tasks = _client(
        address,
        SuperExecAuthHttpInterceptor(master_secret=secret.read_bytes(), protected_methods=frozenset({_ACQUIRE})),
    )
    # Flower interrupts a task whose run has ended with SIGINT, which a shell may have set to be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Agents and connectors are kinds of app that would run code here: never accept them.
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    messages = Wakeup(wakeup)
    while True:
        try:
            acquired = tasks.AcquireTask(request)
            if acquired.HasField("task") and acquired.token:
                _relay_message(_client(address, RuntimeTokenHttpInterceptor(acquired.token)), socket)
            else:
                messages.wait(_MAX_WAIT_SECONDS)
        except httpx.HTTPError as error:
            _log.warning("the SuperNode does not answer: %s", error)
            time.sleep(_RETRY_SECONDS)
        except KeyboardInterrupt:
            _log.warning("a message was dropped: its run has ended")


def _client(address: str, *interceptors: Any) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), *interceptors],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _relay_message(client: RuntimeHttpClient, socket: str) -> None:
    """Fetch one message, ask the vault, send the reply."""
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context: Context | None = None
    state = SubStatus.FAILED
    try:
        message, context, run, fab = pull_task_input(client)
        # The socket comes from the relay's settings: nothing received over the network can choose another.
        context.node_config = {"socket": socket}
        push_message(client, _reply(message, context, fab.content, run.fab_hash), context)
        state = SubStatus.COMPLETED
    except Exception as error:  # for example, the run has ended: no error of one message may stop the loop
        _log.error("a message could not be relayed: %s", failure(error))
    finally:
        # Raised if the heartbeat has already stopped because the SuperNode rejected it.
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
    except Exception as error:  # an unknown type of message, say: Flower would send its text to the server
        code = refusal_for(error, "a message").code
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code), reply_to=message)


def main() -> None:
    """Run one of the two programs."""
    check_version()
    match sys.argv[1:]:
        case ["supernode", wakeup, *arguments]:
            configure("supernode", timed=True)
            run_supernode(Path(wakeup), arguments)
        case ["relay", address, secret, wakeup, socket]:
            configure("relay", timed=True)
            run_relay(address, Path(secret), Path(wakeup), socket)
        case _:
            sys.exit(
                "usage: python -m client.relay.runtime supernode WAKEUP ARGUMENT… | "
                "relay ADDRESS SECRET WAKEUP SOCKET"
            )


if __name__ == "__main__":
    main()
