"""The privacy report of a run directory: read from files alone, verified, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from server.run.report import read_report, write_report
from server.run_directory.run_directory import RunDirectory
from tests.common.report.pages import CLINIC, GOOD, KEY
from tests.common.report.sample_run import signed, statement
from tests.conftest import ROOT
from tests.server.run_directory.sample_directory import change, make_run


def test_a_stored_run_is_read_verified_and_not_changed(tmp_path: Path) -> None:
    directory = make_run(tmp_path, [GOOD], {"st-mary": KEY})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    _, report = read_report(tmp_path)
    assert report["organizations"][0]["signature"] == "valid"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    change(directory, "st-mary", public_size=10_001)
    assert read_report(tmp_path)[1]["organizations"][0]["signature"] == "invalid"


def test_keys_from_elsewhere_take_the_place_of_the_runs_own(tmp_path: Path) -> None:
    """Whoever can write the run directory can write a key into it as well."""
    forged = signed(statement("st-mary"), CLINIC)
    directory = make_run(tmp_path / "run", [forged], {"st-mary": CLINIC})
    true = make_run(tmp_path / "other", [GOOD], {"st-mary": KEY}).path / "privacy" / "keys"
    assert read_report(directory.path)[1]["organizations"][0]["signature"] == "valid"
    assert read_report(directory.path, true)[1]["organizations"][0]["signature"] == "invalid"


def test_a_run_directory_that_moved_is_still_read(tmp_path: Path) -> None:
    make_run(tmp_path / "run", [GOOD], {"st-mary": KEY})
    (tmp_path / "run").rename(tmp_path / "moved")
    assert RunDirectory.open(tmp_path / "moved").statements.keys() == {"st-mary": KEY.public}


def test_the_same_run_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", [GOOD], {"st-mary": KEY})
    _, report = read_report(directory.path)
    write_report(directory, report, tmp_path / "here.html", None)
    command = [sys.executable, "-m", "sotto", "privacy", "report", str(directory.path), "--html"]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": str(ROOT)}
    (tmp_path / "matplotlibrc").write_text("xtick.labelsize: 30\nlines.solid_capstyle: round\n")
    subprocess.run([*command, str(tmp_path / "there.html")], check=True, env=environment, cwd=tmp_path)
    assert (tmp_path / "there.html").read_bytes() == (tmp_path / "here.html").read_bytes()
