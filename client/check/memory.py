"""Free memory of a device, and the most that something takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

from common.system.resources import available_memory

GIB = 2**30
_POLL_SECONDS = 0.01


def free_memory(device: torch.device) -> tuple[int, int]:
    """Free and total bytes of a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    return available_memory(), psutil.virtual_memory().total


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Monitor the memory; yields a function that returns the peak increase in bytes since the start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    # The operating system's peak covers the whole life of the process, which may have loaded larger models before.
    process, stopped = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stopped.wait(_POLL_SECONDS):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        stopped.set()
        thread.join()
