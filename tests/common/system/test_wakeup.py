"""Pending wake-up signals end one wait, however late it comes, and signalling never blocks."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from common.system.wakeup import Wakeup
from tests.conftest import ROOT

_SIGNAL = """
import sys
from pathlib import Path
from common.system.wakeup import Wakeup
Wakeup(Path(sys.argv[1])).signal()
"""


def test_several_signals_end_one_wait(tmp_path: Path) -> None:
    sender = Wakeup.create(tmp_path / "wakeup")
    receiver = Wakeup(tmp_path / "wakeup")
    assert not receiver.wait(0)
    for _ in range(3):
        sender.signal()
    assert receiver.wait(60)
    assert not receiver.wait(0)


def test_signalling_does_not_block_while_nobody_waits(tmp_path: Path) -> None:
    sender = Wakeup.create(tmp_path / "wakeup")
    for _ in range(2**17):
        sender.signal()
    assert Wakeup(tmp_path / "wakeup").wait(0)


def test_a_signal_is_kept_until_somebody_waits(tmp_path: Path) -> None:
    kept = Wakeup.create(tmp_path / "wakeup")
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _SIGNAL, tmp_path / "wakeup"], cwd=ROOT, check=True)
        assert Wakeup(tmp_path / "wakeup").wait(0), "the process that sent the signal has exited"
    assert not kept.wait(0)


def test_a_new_pipe_replaces_the_old_one_and_is_private(tmp_path: Path) -> None:
    Wakeup.create(tmp_path / "wakeup").signal()
    assert not Wakeup.create(tmp_path / "wakeup").wait(0)
    assert stat.S_IMODE((tmp_path / "wakeup").stat().st_mode) == 0o600
