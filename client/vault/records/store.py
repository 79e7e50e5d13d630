"""Records in a memory-mapped file: a list of dictionaries of Python takes several times the memory.

The file is the vault's own and has no name while the vault runs, so that nothing is left of it afterwards.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from common.errors import InputError
from common.records import Record

_BATCH = 4096
# An integer of thousands of digits, a key that is no text, or a value that is nested too deeply.
_NOT_JSON = (ValueError, TypeError, RecursionError)


class RecordStore(Sequence[Record]):
    """Records as JSON in an Arrow file. A value that JSON does not have, such as a date, is null.

    Args:
        records: read once, one after another.
        path: of the file while it is written; whatever is there is replaced.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, records: Iterable[Record], path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            _write(records, path)
            self._table = _mapped(path)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise InputError(f"{path}: the vault's copy of the records cannot be stored: {reason}") from None
        finally:
            if path.is_file():
                path.unlink()
        self._column = self._table.column("record")

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, place: int) -> Record: ...

    @overload
    def __getitem__(self, place: slice) -> list[Record]: ...

    def __getitem__(self, place: int | slice) -> Record | list[Record]:
        """One record, or those of a slice."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        record: Record = json.loads(self._column[range(len(self))[place]].as_py())
        return record

    def __iter__(self) -> Iterator[Record]:
        for chunk in self._column.chunks:
            for value in chunk:
                yield json.loads(value.as_py())


def _mapped(path: Path) -> Any:
    import pyarrow

    return pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()


def _write(records: Iterable[Record], path: Path) -> None:
    import pyarrow

    schema = pyarrow.schema([("record", pyarrow.large_binary())])
    # For this user alone, from the first byte on.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    left = iter(records)
    with os.fdopen(descriptor, "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        while batch := list(itertools.islice(left, _BATCH)):
            column = pyarrow.array(map(_as_json, batch), pyarrow.large_binary())
            writer.write_batch(pyarrow.record_batch([column], schema=schema))


def _as_json(record: Record) -> bytes:
    try:
        return json.dumps(record, default=_null).encode()
    except _NOT_JSON:
        return json.dumps({name: _kept(value) for name, value in record.items()}, default=_null).encode()


def _null(_: object) -> None:
    return None


def _kept(value: Any) -> Any:
    """The value if JSON has it; otherwise None, which no task reads."""
    try:
        json.dumps(value, default=_null)
    except _NOT_JSON:
        return None
    return value
