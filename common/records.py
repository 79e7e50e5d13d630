"""Read records from files of the usual formats. Strict; messages are for the terminal of the file's owner."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from common.errors import InputError

Record = dict[str, Any]
# A record's position in its file, for instance "line 17", and the record.
Placed = tuple[str, Record]


def read_records(path: Path) -> list[Record]:
    """Read every record of a file or folder; see `placed_records`."""
    return [record for _, record in placed_records(path)]


def placed_records(path: Path) -> list[Placed]:
    """Read every record of a file or folder, with its position; see `iterate_records`."""
    return list(iterate_records(path))


def iterate_records(path: Path) -> Iterator[Placed]:
    """Read the records of a file or folder one after another, each with its position.

    Args:
        path: `.jsonl` (one JSON object per line; empty lines are skipped) or `.csv` (with a header line), both in
            UTF-8 and optionally with `.gz`; `.parquet`; or a folder that the datasets library's `save_to_disk`
            wrote.

    Raises:
        InputError: no such file, an unknown format, a line that is not a record (with its number), or no records.
    """
    reader = _read_folder if path.is_dir() else _reader(path)
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path}: there is no such file")
    empty = True
    for placed in reader(path):
        empty = False
        yield placed
    if empty:
        raise InputError(f"{path}: holds no records")


def _reader(path: Path) -> Callable[[Path], Iterator[Placed]]:
    for suffix, reader in _READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise InputError(
        f"{path}: records should be a .jsonl, .csv or .parquet file (.jsonl and .csv also with .gz), or a folder "
        "of the datasets library"
    )


def _read_json(path: Path) -> Iterator[Placed]:
    for number, line in _lines(path):
        if line.strip():
            yield f"line {number}", _record(line, path, number)


def _record(line: bytes, path: Path, number: int) -> Record:
    try:
        record = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: line {number} is not JSON in UTF-8{_where(error)}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: line {number} is a {type(record).__name__}; it should be a JSON object")
    return record


def _where(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f": it breaks off at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f": byte {error.start + 1} is not valid UTF-8"
    return ": it is nested too deeply" if isinstance(error, RecursionError) else ": a number has too many digits"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, counted from 1."""
    number = 0
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, f"after line {number}", error) from None


def _read_csv(path: Path) -> Iterator[Placed]:
    """Every value is a string. A cell may hold line breaks: a record's position is the line that it ends on."""
    decoded = _decoded(path)
    try:
        reader = csv.DictReader(decoded, strict=True)
        names = reader.fieldnames or []
        if not names or len(set(names)) < len(names) or not all(name.strip() for name in names):
            raise InputError(f"{path}: its first line should give each column a unique name")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}: line {reader.line_num} should have {len(names)} cells")
            yield f"line {reader.line_num}", dict(row)
    except csv.Error:  # its text may quote the file
        raise InputError(f"{path}: line {reader.line_num + 1} is not CSV: a quote is misplaced") from None


def _decoded(path: Path) -> Iterator[str]:
    for number, line in _lines(path):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: line {number} is not text in UTF-8{_where(error)}") from None


def _read_parquet(path: Path) -> Iterator[Placed]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield from _rows(file.iter_batches())
    except (OSError, pyarrow.ArrowException) as error:
        raise _unreadable(path, "as parquet", error) from None


def _read_folder(path: Path) -> Iterator[Placed]:
    """Read a folder that the datasets library's `save_to_disk` wrote: a list of Arrow files."""
    import pyarrow

    state = path / "state.json"
    if not state.is_file():
        raise InputError(
            f"{path}: is a folder without state.json; the datasets library's save_to_disk writes that file"
        )
    batches: list[Any] = []
    try:
        names = [entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ValueError("a file outside the folder")
        for name in names:
            with pyarrow.memory_map(str(path / name)) as file, pyarrow.ipc.open_stream(file) as stream:
                batches += list(stream)
        if json.loads(state.read_bytes()).get("_indices_files"):
            raise InputError(f"{path}: is a selection of another data set; write it after flatten_indices()")
        yield from _rows(batches)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as error:
        raise _unreadable(path, "as a folder of the datasets library", error) from None


def _rows(batches: Iterable[Any]) -> Iterator[Placed]:
    number = 0
    for batch in batches:
        for record in batch.to_pylist():
            number += 1
            yield f"row {number}", record


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _unreadable(path: Path, where: str, error: Exception) -> InputError:
    # Not the error's own text: it may quote the file.
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "it is damaged"
    return InputError(f"{path}: cannot be read {where}: {reason}")


_READERS: dict[str, Callable[[Path], Iterator[Placed]]] = {
    ".jsonl": _read_json,
    ".jsonl.gz": _read_json,
    ".csv": _read_csv,
    ".csv.gz": _read_csv,
    ".parquet": _read_parquet,
}
