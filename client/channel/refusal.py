"""Errors leave the process with the records as reason codes; their text goes nowhere, not even into the log."""

from __future__ import annotations

import logging

from common.errors import Refused
from common.system.redaction import failure
from common.untrusted import printable

_log = logging.getLogger(__name__)

# A refusal may quote text from the request.
_MAX_CHARACTERS = 500


def refusal_for(error: BaseException, task: str) -> Refused:
    """Convert an error to a refusal that may leave the vault, and log it.

    Args:
        error: a `Refused` is returned unchanged: its detail consists of public information. The text of any other
            error may contain a record: only its type and the places in the code are logged, never its text.
        task: what failed, for the log.
    """
    if isinstance(error, Refused):
        _log.warning("%s was refused: %s", printable(task), printable(str(error), _MAX_CHARACTERS))
        return error
    _log.error("%s failed: %s", printable(task), failure(error))
    return Refused("training-failed", "")
