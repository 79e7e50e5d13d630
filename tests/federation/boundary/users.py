"""Processes of other users of the system, as an organization runs its vault and its relay."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.conftest import ROOT

# Numbers of nobody's; a number needs no name to own files and processes.
VAULT, RELAY = 61001, 61002
# A group that every Debian has by this name.
GROUP, GROUP_NUMBER = "users", 100


def as_user(number: int, *command: object) -> list[str]:
    """A command with the rights of a user, who is in the socket's group, and of nobody else."""
    rights = [
        "--reuid",
        number,
        "--regid",
        number,
        "--groups",
        GROUP_NUMBER,
        "--bounding-set=-all",
        "--no-new-privs",
    ]
    return ["setpriv", *map(str, rights), *map(str, command)]


def python_path() -> str:
    """Where other users find the code under test and what it needs."""
    return os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])


@functools.cache
def python_of_users() -> str | None:
    """An interpreter of this version that other users may run; None if there is none, or no right to be others."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return None
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # Its children, too: they are started by the interpreter's own name.
        modules = "subprocess, sys, client.vault.start, client.relay.runtime"
        code = f"import {modules}; subprocess.run([sys.executable, '-V'])"
        if not Path(candidate).exists():
            continue
        tried = subprocess.run(
            as_user(RELAY, candidate, "-P", "-c", code),
            env={**os.environ, "PYTHONPATH": python_path()},
            cwd="/",
            capture_output=True,
        )
        if tried.returncode == 0:
            return candidate
    return None
