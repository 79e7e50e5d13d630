"""Whatever goes wrong beside the records leaves as a reason code; its text goes nowhere, not even into the log."""

from __future__ import annotations

import logging

from common.errors import Refused
from common.system.redaction import failure
from common.untrusted import printable

_log = logging.getLogger(__name__)

# A request's own words may stand in a refusal.
_MOST_CHARACTERS = 500


def refusal_for(error: BaseException, task: str) -> Refused:
    """The refusal that may leave in place of an error, which the organization's own log names.

    Args:
        error: a `Refused` is passed on: its sentence is made of public numbers. Any other may hold a record: of
            it the log gets the type and the places in the code, never the text.
        task: what failed, for the log.
    """
    if isinstance(error, Refused):
        _log.warning("%s was refused: %s", printable(task), printable(str(error), _MOST_CHARACTERS))
        return error
    _log.error("%s failed: %s", printable(task), failure(error))
    return Refused("training-failed", "")
