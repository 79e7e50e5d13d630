"""The process that programs of tests are forked from: it imports their libraries, and waits.

`python -m tests.programs.server SOCKET PARENT ROOM` answers requests on a unix socket until the process PARENT is
gone. A request is one line of JSON with a program's command, folder and environment, and its three streams as
descriptors. The answer is the process's number, and, when it has ended, its exit code.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from tests.programs import forked
from tests.programs.pristine import Pristine

_MOST_BYTES = 2**20
_LOOK_SECONDS = 1.0
_PR_SET_CHILD_SUBREAPER = 36
# What Flower's programs import when they are started.
_FLOWER = (
    "flwr.superlink.cli.flower_superlink",
    "flwr.superlink.cli.flwr_serverapp",
    "flwr.superlink.main",
    "flwr.supercore.cli.flower_superexec",
    "flwr.supernode.cli.flower_supernode",
    "flwr.supernode.main",
)


def import_all() -> None:
    """Import every module of ours that a program may run, and so what it imports."""
    import sotto  # noqa: F401 - first, since it sets what other libraries read when they are imported

    for name in ("common", "client", "server", "simulations"):
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)
    for name in _FLOWER:
        importlib.import_module(name)
    # transformers loads what is asked for, when it is asked for.
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: F401


class Server:
    """Forks programs and says how they end.

    Args:
        listener: where requests arrive.
        parent: the process without which it ends.
    """

    def __init__(self, listener: socket.socket, parent: int) -> None:
        self._listener = listener
        self._parent = parent
        self._ready = selectors.DefaultSelector()
        self._ready.register(listener, selectors.EVENT_READ)
        self._callers: dict[int, socket.socket] = {}
        # A byte for every child that ends.
        self._ended, ending = socket.socketpair()
        ending.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(ending.detach(), warn_on_full_buffer=False)
        self._ready.register(self._ended, selectors.EVENT_READ)
        # What programs leave behind when they are killed is ended by tests, and must not stay a zombie.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def serve(self) -> None:
        """Until the parent is gone; programs that it left behind end with it."""
        while Path(f"/proc/{self._parent}").exists():
            for key, _ in self._ready.select(_LOOK_SECONDS):
                if key.fileobj is self._listener:
                    self._start(self._listener.accept()[0])
                elif key.fileobj is self._ended:
                    self._reap()
        for pid in self._callers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def _start(self, caller: socket.socket) -> None:
        # One line in one message: the caller sends it at once.
        text, streams, _, _ = socket.recv_fds(caller, _MOST_BYTES, 3)
        while not text.endswith(b"\n"):
            text += caller.recv(_MOST_BYTES)
        request = json.loads(text)
        pid = os.fork()
        if pid == 0:
            forked.become(request["command"], env=request["env"], cwd=request["cwd"], streams=streams)
        for stream in streams:
            os.close(stream)
        caller.sendall(f"{pid}\n".encode())
        self._callers[pid] = caller

    def _reap(self) -> None:
        self._ended.recv(_MOST_BYTES)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            caller = self._callers.pop(pid, None)
            if caller is not None:
                with caller, suppress(OSError):  # whoever started it may be gone
                    caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def main() -> None:
    """Import, listen, serve."""
    path, parent = Path(sys.argv[1]), int(sys.argv[2])
    import_all()
    assert forked.is_single_threaded(), "a library has started a thread while it was imported"
    forked.pristine = Pristine()
    # What was imported stays for ever: collections in the forks do not go through it, nor copy its pages.
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        Server(listener, parent).serve()


if __name__ == "__main__":
    main()
