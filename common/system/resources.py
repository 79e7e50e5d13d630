"""The processors and the memory that this process may use; a container may have less than its machine."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Processors that this process may use, by its affinity, its control group's quota and OMP_NUM_THREADS."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        cores = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit():
        cores = min(cores, int(wanted))
    for folder in _control_groups():
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def available_memory() -> int:
    """Bytes of memory that this process can take before the system or its control group runs out."""
    free: int = psutil.virtual_memory().available
    for folder in _control_groups():
        limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
        if limit.isdigit() and used.isdigit():
            free = min(free, int(limit) - int(used) + _reclaimable(folder))
    return max(0, free)


def _control_groups() -> Iterator[Path]:
    """The control group of this process and all above it; none where there is no version 2 of them.

    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    lines = [line for line in _text(_OWN_GROUP).splitlines() if line.startswith("0::/")]
    for line in lines:
        folder = _CGROUPS / line.removeprefix("0::/")
        while folder != _CGROUPS:
            yield folder
            folder = folder.parent
        yield _CGROUPS


def _reclaimable(folder: Path) -> int:
    """Bytes of files in memory, which the system drops when it needs room."""
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
