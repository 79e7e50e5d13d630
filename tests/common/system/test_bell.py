"""A bell is heard once, however late, and nobody who rings is held up."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from common.system.bell import Bell
from tests.conftest import ROOT


def test_a_bell_is_heard_once_for_all_that_it_rang(tmp_path: Path) -> None:
    ringing = Bell.hang(tmp_path / "bell")
    waiting = Bell(tmp_path / "bell")
    assert not waiting.wait(0)
    for _ in range(3):
        ringing.ring()
    assert waiting.wait(60)
    assert not waiting.wait(0)


def test_whoever_rings_is_not_held_up_by_nobody_listening(tmp_path: Path) -> None:
    ringing = Bell.hang(tmp_path / "bell")
    for _ in range(2**17):
        ringing.ring()
    assert Bell(tmp_path / "bell").wait(0)


def test_a_bell_that_rang_before_anybody_came_is_heard(tmp_path: Path) -> None:
    kept = Bell.hang(tmp_path / "bell")
    ring = (
        "import sys; from pathlib import Path; from common.system.bell import Bell; Bell(Path(sys.argv[1])).ring()"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", ring, tmp_path / "bell"], cwd=ROOT, check=True)
        assert Bell(tmp_path / "bell").wait(0), "the process that rang is gone"
    assert not kept.wait(0)


def test_a_bell_takes_an_earlier_ones_place_and_is_its_owners(tmp_path: Path) -> None:
    Bell.hang(tmp_path / "bell").ring()
    assert not Bell.hang(tmp_path / "bell").wait(0)
    assert stat.S_IMODE((tmp_path / "bell").stat().st_mode) == 0o600
