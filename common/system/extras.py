"""Which extra of Sotto brings a library that is not installed."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from common.errors import InputError

# Where a library is installed under another name than it is imported by.
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
    """What to install, in one line; None if no extra brings what is missing.

    Args:
        error: of an import.
    """
    library = (error.name or "").partition(".")[0]
    extras = _extras_with(_INSTALLED_AS.get(library, library).lower())
    if not extras:
        return None
    return InputError(f"{library} is not installed, and this needs it; {how_to_install(' or '.join(extras))}")


def how_to_install(extra: str) -> str:
    """The command that adds an extra to what there is.

    Args:
        extra: its name; or several, joined by "or".
    """
    return f"in Sotto's folder: python3 locks/install.py {sys.prefix} {extra} --no-project"


def _extras_with(package: str) -> list[str]:
    """The extras that list a package, as Sotto was installed."""
    found = []
    for line in metadata.requires("sotto") or []:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if name and extra and name[0].lower() == package and extra[1] != "dev":
            found.append(extra[1])
    return found
