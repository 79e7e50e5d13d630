"""Flower's SuperExec, which starts a ServerApp for each run. It asks for a run when the SuperLink has one.

Flower's own asks again and again. `python -m server.superlink.superexec DATABASE BELL ARGUMENT…` waits for the
bell and looks into the SuperLink's database; the arguments are those of `flower-superexec`. Leans on private
names of one version of flwr: with another it asks as often as `FLWR_SUPEREXEC_TASK_POLL_INTERVAL` says.
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
from common.system.bell import Bell
from server.superlink.database import LOOK_SECONDS, Database, Waiting

# A ServerApp that died before it began is started anew, and what the database does not show is found.
_LONGEST_SECONDS = 30.0

_log = logging.getLogger(__name__)


class Patience:
    """Waits for a run that has no ServerApp yet.

    Args:
        database: where runs wait.
        bell: rings when the database changes.
        longest: seconds after which the wait ends without one.
    """

    def __init__(self, database: Database, bell: Bell, longest: float = _LONGEST_SECONDS) -> None:
        self._database = database
        self._bell = bell
        self._longest = longest
        self._told = 0
        self._blind = False

    def sleep(self, seconds: float) -> None:
        """In place of a pause between two requests, and at least as long.

        Args:
            seconds: the pause.
        """
        end = time.monotonic() + self._longest
        time.sleep(seconds)
        while not self._is_there() and time.monotonic() < end:
            self._bell.wait(LOOK_SECONDS)

    def _is_there(self) -> bool:
        try:
            waiting = self._database.look()
        except sqlite3.Error as error:
            if not self._blind:
                _log.warning("the SuperLink's database cannot be read, it is asked instead: %s", error)
            self._blind = True
            return True
        self._blind = False
        # A run that was told of, and stays, is one for which nothing can be started: it is not told of again.
        news = bool(waiting) and self._database.changes != self._told
        self._told = self._database.changes
        return news


def main() -> None:
    """Run the SuperExec until SIGTERM."""
    import flwr.supercore.superexec.run_superexec as loop
    from flwr.supercore.cli.flower_superexec import flower_superexec

    database, bell, *arguments = sys.argv[1:]
    if package_version == VERSION:
        patience = Patience(Database(Path(database), Waiting.TASKS), Bell(Path(bell)))
        patient = types.ModuleType("time")
        patient.__dict__.update({**time.__dict__, "sleep": patience.sleep})
        vars(loop)["time"] = patient
    sys.argv = ["flower-superexec", *arguments]
    flower_superexec()


if __name__ == "__main__":
    main()
