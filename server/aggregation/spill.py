"""The updates of a round, on disk: the server holds one tensor of them in memory, however many there are."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from common.adapter.adapter import Adapter, to_bytes


class Inbox:
    """Takes updates in and gives them back as memory maps; use it as a context, which leaves nothing behind.

    Args:
        folder: its own; what lies there, from a round that was cut off, is removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def __enter__(self) -> Inbox:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, name: str, update: Adapter) -> None:
        """Keep an organization's update. A round that is cut off is run again: nothing needs to outlast it."""
        self._path(name).write_bytes(to_bytes(update))
        self._names.add(name)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Spilled:
        if name not in self._names:
            raise KeyError(name)
        return Spilled(self._path(name))

    def drop(self, name: str) -> None:
        """Forget an update that is not needed any more."""
        self._names.discard(name)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        # A name was checked when its organization described itself: letters, digits and hyphens.
        return self._folder / f"{name}.safetensors"


class Spilled(Mapping[str, npt.NDArray[np.float32]]):
    """The tensors of a safetensors file of our own: each is mapped when it is asked for, and let go after use.

    Args:
        path: of the file, as `common.adapter.adapter.to_bytes` writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self._places = {
            name: (tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]) for name, entry in header.items()
        }

    def __getitem__(self, name: str) -> npt.NDArray[np.float32]:
        shape, offset = self._places[name]
        assert math.prod(shape) > 0, "a LoRA tensor has numbers"
        return np.memmap(self._path, np.float32, "r", offset, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
