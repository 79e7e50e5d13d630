"""Measure the vault's socket: time and memory of each side when a vault sends an adapter back.

    .venv/bin/python benchmarks/socket_throughput.py [--megabytes 200] [--runs 5]

The vault is a separate process that returns the adapter instead of training. Memory is the increase of a process's
peak over its earlier use: the vault has to hold the adapter once, and so has the caller, which receives a second
copy. The vault frees an adapter before the next arrives, so that later runs add nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from client.relay.vault_client import RemoteVault
from client.vault.service import VaultServer
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement

MEGABYTE = 10**6


class Echo:
    """Answers with the adapter that it received."""

    def describe(self) -> Description:
        """Any description."""
        return Description("echo", "example", 1)

    def train(self, request: TrainRequest) -> Release:
        """The adapter, unchanged."""
        return Release(request.adapter)

    def statement(self, run: str) -> Statement:
        """Always refused: nothing was spent."""
        raise LookupError(run)


def megabytes(process: int, key: str) -> float:
    """A process's memory: VmRSS now, VmHWM at its peak."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(rf"{key}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024 / MEGABYTE


def serve(socket: Path) -> None:
    """Serve until the process ends."""
    server = VaultServer(Echo(), socket)
    server.start()
    signal.pause()


def measure(socket: Path, vault: int, size: int, runs: int) -> None:
    """Print the table."""
    request = TrainRequest("benchmark", 1, b"{}", "", os.urandom(size * MEGABYTE))
    with RemoteVault(socket, timeout=600, patience=60) as remote:
        remote.describe()
        before = {process: megabytes(process, "VmRSS") for process in (os.getpid(), vault)}
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            release = remote.train(request)
            seconds.append(time.perf_counter() - start)
            assert release.update == request.adapter
            del release
    caller, guard = (megabytes(process, "VmHWM") - held for process, held in before.items())
    print("MB     s there and back (fastest)   MB/s   caller +MB   vault +MB")
    usual, fastest = statistics.median(seconds), min(seconds)
    print(f"{size:<6} {usual:8.2f} ({fastest:.2f}) {2 * size / usual:19,.0f} {caller:12,.0f} {guard:11,.0f}")


def main() -> None:
    """Start the vault and measure."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--megabytes", type=int, default=200)
    arguments.add_argument("--runs", type=int, default=5)
    arguments.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        socket = Path(folder) / "vault.sock"
        with subprocess.Popen([sys.executable, __file__, "--serve", str(socket)]) as vault:
            try:
                measure(socket, vault.pid, given.megabytes, given.runs)
            finally:
                vault.kill()


if __name__ == "__main__":
    main()
