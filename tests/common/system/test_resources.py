"""What a container's limits leave of a machine's processors and memory."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from common.system import resources

GIB = 2**30


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a control group of 64 processors' machine, below one without limits."""
    own = tmp_path / "cgroup"
    own.write_text("1:name=systemd:/other\n0::/slice/vault\n")
    folder = tmp_path / "fs" / "slice" / "vault"
    folder.mkdir(parents=True)
    (folder.parent / "cpu.max").write_text("max 100000\n")
    (folder.parent / "memory.max").write_text("max\n")
    monkeypatch.setattr(resources, "_OWN_GROUP", own)
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path / "fs")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return folder


@pytest.mark.parametrize(
    ("quota", "above", "variable", "cores"),
    [
        ("max 100000", "", None, 64),
        ("400000 100000", "", None, 4),
        ("150000 100000", "", None, 2),  # one and a half: one waits at times
        ("400000 100000", "200000 100000", None, 2),
        ("5000 100000", "", None, 1),
        ("damaged", "", None, 64),
        ("400000 100000", "", "3", 3),
        ("400000 100000", "", "0", 1),
        ("400000 100000", "", "many", 4),
    ],
)
def test_cores_are_what_affinity_quota_and_the_usual_variable_leave(
    group: Path, monkeypatch: pytest.MonkeyPatch, quota: str, above: str, variable: str | None, cores: int
) -> None:
    (group / "cpu.max").write_text(f"{quota}\n")
    if above:
        (group.parent / "cpu.max").write_text(f"{above}\n")
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert resources.usable_cores() == cores


def test_memory_is_what_the_smallest_limit_leaves_with_files_that_can_be_dropped(
    group: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = psutil.virtual_memory()._replace(available=100 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert resources.available_memory() == 100 * GIB
    (group / "memory.max").write_text(f"{8 * GIB}\n")
    (group / "memory.current").write_text(f"{5 * GIB}\n")
    assert resources.available_memory() == 3 * GIB
    (group / "memory.stat").write_text(f"anon 17\ninactive_file {GIB}\n")
    assert resources.available_memory() == 4 * GIB
    (group.parent / "memory.max").write_text(f"{6 * GIB}\n")
    (group.parent / "memory.current").write_text(f"{7 * GIB}\n")
    assert resources.available_memory() == 0


def test_without_control_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_OWN_GROUP", tmp_path / "missing")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert resources.usable_cores() == len(os.sched_getaffinity(0))
    assert resources.available_memory() > 0
