"""Find the extra of Sotto that installs a missing library."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from common.errors import InputError

# Libraries whose package name differs from their import name.
_INSTALLED_AS = {
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "presidio_analyzer": "presidio-analyzer",
    "rouge_score": "rouge-score",
    "sklearn": "scikit-learn",
    "tensorboardX": "tensorboardx",
}


def explain_missing(error: ModuleNotFoundError) -> InputError | None:
    """The error that names the command to install a missing library; None if no extra contains it.

    Args:
        error: raised by an import.
    """
    library = (error.name or "").partition(".")[0]
    extras = _extras_with(_INSTALLED_AS.get(library, library).lower())
    if not extras:
        return None
    return InputError(f"{library} is not installed, and this needs it; {how_to_install(' or '.join(extras))}")


def how_to_install(extra: str) -> str:
    """The command that adds an extra to this installation.

    Args:
        extra: its name; or several names, joined by "or".
    """
    return f"in Sotto's folder: python3 locks/install.py {sys.prefix} {extra} --no-project"


def _extras_with(package: str) -> list[str]:
    """The extras that list a package, from the metadata of the installed Sotto."""
    found = []
    for line in metadata.requires("sotto") or []:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if name and extra and name[0].lower() == package and extra[1] != "dev":
            found.append(extra[1])
    return found
