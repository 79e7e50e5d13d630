"""Flower's SuperExec, which starts a ServerApp for each run, without polling the SuperLink.

`python -m server.superlink.superexec DATABASE WAKEUP ARGUMENT…` waits for the wake-up signal and checks the
SuperLink's database; the arguments are those of `flower-superexec`. Uses private names of one version of flwr:
with another version it polls at `FLWR_SUPEREXEC_TASK_POLL_INTERVAL`.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import time
import types
from pathlib import Path

from flwr.supercore.version import package_version

from common.flower.patches import VERSION
from common.system.wakeup import Wakeup
from server.superlink.database import POLL_SECONDS, Database, Query

# Poll the SuperLink at least this often: for a ServerApp that died at its start, or a missed change.
_LONGEST_SECONDS = 30.0

_log = logging.getLogger(__name__)


class TaskWaiter:
    """Waits for a run that has no ServerApp yet.

    Args:
        database: the SuperLink's, with tasks of runs.
        wakeup: signalled when the database changes.
        longest: maximum duration of a wait, in seconds.
    """

    def __init__(self, database: Database, wakeup: Wakeup, longest: float = _LONGEST_SECONDS) -> None:
        self._database = database
        self._wakeup = wakeup
        self._longest = longest
        self._seen_changes = 0
        self._unreadable = False

    def sleep(self, seconds: float) -> None:
        """Wait between two polls, in place of `time.sleep`.

        Args:
            seconds: minimum duration.
        """
        end = time.monotonic() + self._longest
        time.sleep(seconds)
        while not self._has_new_task() and time.monotonic() < end:
            self._wakeup.wait(POLL_SECONDS)

    def _has_new_task(self) -> bool:
        try:
            tasks = self._database.pending()
        except sqlite3.Error as error:
            if not self._unreadable:
                _log.warning("the SuperLink's database cannot be read, the SuperLink is polled instead: %s", error)
            self._unreadable = True
            return True
        self._unreadable = False
        # A task that is still pending after the last poll cannot be started: it does not end the wait again.
        is_new = bool(tasks) and self._database.changes != self._seen_changes
        self._seen_changes = self._database.changes
        return is_new


def main() -> None:
    """Run the SuperExec until SIGTERM."""
    import flwr.supercore.superexec.run_superexec as loop
    from flwr.supercore.cli.flower_superexec import flower_superexec

    database, wakeup, *arguments = sys.argv[1:]
    if package_version == VERSION:
        waiter = TaskWaiter(Database(Path(database), Query.TASKS), Wakeup(Path(wakeup)))
        patched_time = types.ModuleType("time")
        patched_time.__dict__.update({**time.__dict__, "sleep": waiter.sleep})
        vars(loop)["time"] = patched_time
    sys.argv = ["flower-superexec", *arguments]
    flower_superexec()


if __name__ == "__main__":
    main()
