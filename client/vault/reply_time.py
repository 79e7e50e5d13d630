"""When a round may be answered: the time of training follows the records that were drawn."""

from __future__ import annotations

import logging
import time

_log = logging.getLogger(__name__)


class ReplyTime:
    """The earliest time of an answer. It starts when it is made.

    Args:
        seconds: `vault.reply_seconds`; None for no delay.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._started = time.monotonic()

    def wait(self) -> None:
        """Wait until `seconds` after the start; log if training took longer."""
        if self._seconds is None:
            return
        left = self._started + self._seconds - time.monotonic()
        if left < 0:
            _log.warning("training took longer than vault.reply_seconds = %g: its time was visible", self._seconds)
        else:
            time.sleep(left)
