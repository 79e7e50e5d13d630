"""Updates of a round on disk, so that memory does not grow with the number of organizations."""

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


class UpdateSpill:
    """Stores updates on disk and returns them as memory maps; a context manager that deletes all files at its end.

    Args:
        folder: used by nothing else; files from an interrupted round are deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def __enter__(self) -> UpdateSpill:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def put(self, name: str, update: Adapter) -> None:
        """Store an organization's update. It is not flushed to disk: an interrupted round is repeated."""
        self._path(name).write_bytes(to_bytes(update))
        self._names.add(name)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> SpilledUpdate:
        if name not in self._names:
            raise KeyError(name)
        return SpilledUpdate(self._path(name))

    def drop(self, name: str) -> None:
        """Delete an update."""
        self._names.discard(name)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        # Names are checked when an organization describes itself: letters, digits and hyphens.
        return self._folder / f"{name}.safetensors"


class SpilledUpdate(Mapping[str, npt.NDArray[np.float32]]):
    """The tensors of a safetensors file; each access maps one tensor into memory.

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
        assert math.prod(shape) > 0, "LoRA tensors are not empty"
        return np.memmap(self._path, np.float32, "r", offset, shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
