"""A program that prints what a process knows of itself, as JSON, and ends with the exit code that it is given."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

# As a vault does. Opacus sets up logging when it is imported.
import sotto  # noqa: F401
from client.vault import vault  # noqa: F401


def main() -> None:
    """`python -m tests.programs.probe CODE [child CODE]`."""
    child = None
    if sys.argv[2:3] == ["child"]:
        command = [sys.executable, "-P", "-m", "tests.programs.probe", sys.argv[3]]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        child = {**json.loads(ended.stdout.splitlines()[0]), "code": ended.returncode, "errors": ended.stderr}
    values = {
        "arguments": [sys.argv[1:], sys.orig_argv],
        "command line": Path("/proc/self/cmdline").read_bytes().decode().lstrip("/").split("\0"),
        "folder": str(Path.cwd()),
        "environment": {name: os.environ.get(name) for name in ("PYTHONPATH", "PROBE", "OMP_NUM_THREADS")},
        "temporary": tempfile.gettempdir(),
        "input": sys.stdin.read(),
        "streams": [
            (stream.encoding, stream.errors, stream.line_buffering, stream.write_through)
            for stream in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "signals": [signal.getsignal(number) == signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGCHLD)],
        "interrupts": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "hooks": [sys.excepthook is sys.__excepthook__, threading.excepthook is threading.__excepthook__],
        "logging": [logging.getLogger().level, len(logging.getLogger().handlers)],
        "threads": threading.active_count(),
        # The look itself opens one.
        "descriptors": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir())[:-1],
        "name": __name__,
        "child": child,
    }
    sys.stdout.write(f"{json.dumps(values)}\n")
    sys.stderr.write("to errors\n")
    atexit.register(print, "at the end")
    sys.exit(int(sys.argv[1]))


if __name__ == "__main__":
    main()
