"""The rounds of a run as TensorBoard files."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from common.run.round_line import RoundLine
from server.tracking.observer import Observer


class TensorBoard(Observer):
    """Writes public metrics, bytes and seconds of each round; a context manager.

    Args:
        folder: for the event files.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def finished(self, line: RoundLine) -> None:
        """Write a round."""
        numbers = {f"public/{name}": value for name, value in line.metrics.items()}
        numbers |= {f"round/{name}": getattr(line, name) for name in ("bytes_up", "bytes_down", "seconds")}
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, line.round)
        self._writer.flush()
