"""The Flower app bundle (FAB) that Sotto ships: it contains no code, and its bytes are the same for every plan.

Code in a FAB would run in the organization's process with the network, and take precedence over installed code. So
the coordinator ships only a `pyproject.toml` that points at installed modules, and an organization refuses any
other.
"""

from __future__ import annotations

import hashlib
import io
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from common.errors import Refused

COMPONENTS = {"serverapp": "server.rounds.server_app:app", "clientapp": "client.relay.client_app:app"}

_PYPROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "sotto-app"
version = "1.0.0"
description = "No code: the components are installed with Sotto"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "sotto"

[tool.flwr.app.components]
serverapp = "{COMPONENTS["serverapp"]}"
clientapp = "{COMPONENTS["clientapp"]}"

[tool.flwr.app.config]
run-directory = ""
"""

APP_FILES: dict[str, bytes | Path] = {"pyproject.toml": _PYPROJECT.encode()}
"""The app's source, by path, as Flower builds a FAB from it."""

_FILES = {*APP_FILES, ".info/CONTENT"}
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MOST_BYTES = 2**16
# For each file inside. The parsing time of TOML grows with the square of a key's length.
_MOST_FILE_BYTES = 2**13


def check_app(content: bytes, digest: str) -> None:
    """Accept a FAB only if it contains no code and names installed components; nothing is unpacked to disk.

    Args:
        content: the FAB's bytes, as the coordinator sent them.
        digest: SHA-256 that the coordinator announced, in hexadecimal.

    Raises:
        Refused: it is any other app.
    """
    if hashlib.sha256(content).hexdigest() != digest:
        raise Refused("app-not-allowed", "the app is not the one that was announced")
    if len(content) > _MOST_BYTES:
        raise Refused("app-not-allowed", f"the app has {len(content)} bytes: it holds more than settings")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = [entry.orig_filename for entry in entries]
            others = set(names) - _FILES
            if others:
                raise Refused("app-not-allowed", f"the app holds {len(others)} other files; code is never taken")
            if len(set(names)) != len(names):
                raise Refused("app-not-allowed", "the app holds a file twice")
            # With other compressions, zipfile can unpack more than the announced size.
            if any(
                entry.file_size > _MOST_FILE_BYTES or entry.compress_type not in _COMPRESSIONS for entry in entries
            ):
                raise Refused("app-not-allowed", "the app holds more than settings")
            settings: dict[str, Any] = tomllib.loads(archive.read("pyproject.toml").decode())
        components = settings["tool"]["flwr"]["app"]["components"]
    except Refused:
        raise
    except Exception:  # the parsers of zip, deflate and TOML raise many types of error; all mean the same here
        raise Refused("app-not-allowed", "the app cannot be read") from None
    if components != COMPONENTS:
        raise Refused("app-not-allowed", "the app's components are not those installed with Sotto")
