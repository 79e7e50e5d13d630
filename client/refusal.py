"""Whatever goes wrong beside the records leaves as a reason code; its text stays at home."""

from __future__ import annotations

import logging

from common.errors import Refused

_log = logging.getLogger(__name__)


def refusal_for(error: BaseException, task: str) -> Refused:
    """The refusal that may leave in place of an error, which goes to the organization's own log.

    Args:
        error: a `Refused` is passed on: its sentence is made of public numbers. Any other may hold a record.
        task: what failed, for the log.
    """
    if isinstance(error, Refused):
        return error
    _log.error("%s failed", task, exc_info=error)
    return Refused("training-failed", "")
