"""Files of records: each line is a record, or the error names the line."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from common.errors import InputError
from common.records import placed_records, read_records

LINES = b'{"text": "one"}\n{"text": "two \xc3\xa9", "more": [1, null]}\n'
RECORDS = [{"text": "one"}, {"text": "two é", "more": [1, None]}]


def written(folder: Path, data: bytes, name: str = "records.jsonl") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_records(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_plain_and_compressed_files_hold_the_same(tmp_path: Path) -> None:
    assert read_records(written(tmp_path, LINES)) == RECORDS
    assert read_records(written(tmp_path, gzip.compress(LINES), "records.jsonl.gz")) == RECORDS


def test_blank_lines_and_a_missing_last_newline_change_nothing(tmp_path: Path) -> None:
    assert read_records(written(tmp_path, b"\n  \r\n" + LINES.replace(b"\n", b"\r\n\r\n").rstrip())) == RECORDS


def test_an_unusual_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    record = {"text": "one\u2028two\u0085three\x0cfour"}
    assert read_records(written(tmp_path, json.dumps(record, ensure_ascii=False).encode())) == [record]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=40)
@given(records=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), min_size=1, max_size=4))
def test_files_of_other_writers_are_read(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    data = "\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()
    folder = tmp_path_factory.getbasetemp()
    assert read_records(written(folder, data)) == records
    assert read_records(written(folder, gzip.compress(data), "records.jsonl.gz")) == records


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"not json",
        b'{"text": "cut off',
        b'{"text": "\xff"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"count": ' + b"9" * 5000 + b"}",
    ],
    ids=["brace", "words", "cut", "not UTF-8", "bytes", "endless nesting", "endless integer"],
)
def test_a_line_that_is_not_json_in_utf8_is_named_by_its_number(tmp_path: Path, line: bytes) -> None:
    assert refused(written(tmp_path, LINES + b"\n" + line + b"\n" + LINES)).startswith("line 4 is not JSON")


@pytest.mark.parametrize(
    ("line", "kind"), [(b"[1]", "list"), (b'"text"', "str"), (b"null", "NoneType"), (b"3", "int")]
)
def test_a_line_that_is_not_an_object_is_named_by_its_number_and_type(
    tmp_path: Path, line: bytes, kind: str
) -> None:
    assert refused(written(tmp_path, LINES + line)) == f"line 3 is a {kind}; it should be a JSON object"


@pytest.mark.parametrize("data", [b"", b"\n\n  \n"])
def test_a_file_without_records_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refused(written(tmp_path, data)).startswith("holds no records")
    assert refused(written(tmp_path, gzip.compress(data), "records.jsonl.gz")).startswith("holds no records")


@pytest.mark.parametrize("name", ["records.json", "records.txt", "records.gz", "records", "records.jsonl.zip"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    assert "should be a .jsonl, .csv or .parquet file" in refused(written(tmp_path, LINES, name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "records.jsonl") == "there is no such file"
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    assert refused(folder).startswith("is a folder without state.json")


def compressed() -> bytes:
    noise = random.Random(0).randbytes(3000).hex()
    return gzip.compress(json.dumps({"text": noise}).encode() + b"\n")


@pytest.mark.parametrize(
    "data",
    [
        LINES,
        compressed()[:-500],
        compressed()[:-4],
        compressed()[:200] + b"\x00" * 8 + compressed()[208:],
        compressed()[:10] + b"\xff\xff" + compressed()[12:],
        compressed()[:-6] + b"\x00\x00" + compressed()[-4:],
        compressed() + b"rubbish",
    ],
    ids=["plain", "cut", "end cut", "damaged inside", "damaged at the start", "wrong checksum", "more behind it"],
)
def test_an_incomplete_gzip_file_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refused(written(tmp_path, data, "records.jsonl.gz"))


# Other formats

ROWS = [
    {"text": "Grüße, 世界", "label": "1"},
    {"text": 'two\nlines, "quoted"', "label": ""},
    {"text": "c", "label": "2"},
]


def csv_text(rows: list[dict[str, str]]) -> str:
    lines = ["text,label"] + ['"' + row["text"].replace('"', '""') + '",' + row["label"] for row in rows]
    return "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("name", ["records.csv", "RECORDS.CSV", "records.csv.gz"])
def test_csv_is_read_with_line_breaks_quotes_and_a_byte_order_mark(tmp_path: Path, name: str, mark: str) -> None:
    data = (mark + csv_text(ROWS)).encode()
    path = written(tmp_path, gzip.compress(data) if name.endswith(".gz") else data, name)
    assert read_records(path) == ROWS
    assert [place for place, _ in placed_records(path)] == ["line 2", "line 4", "line 5"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n3\n", "line 3 should have 2 cells"),
        ("a,b\n1,2,3\n", "line 2 should have 2 cells"),
        ("a,a\n1,2\n", "a unique name"),
        ("a,\n1,2\n", "a unique name"),
        ('a,b\n1,"x"y\n', "line 2 is not CSV"),
        ('a,b\n1,"never closed\n', "is not CSV"),
        ("a,b\n", "holds no records"),
        ("", "a unique name"),
    ],
)
def test_wrong_csv_is_one_line_without_a_cell(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(written(tmp_path, text.encode(), "records.csv"))


def test_csv_in_another_encoding_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "line 3 is not text in UTF-8" in refused(
        written(tmp_path, "a\nb\nGr\xfc\xdfe\n".encode("latin-1"), "r.csv")
    )


def table() -> pyarrow.Table:
    return pyarrow.table(
        {"text": ["a", "Grüße", None], "label": [1, 2, 3], "messages": [[{"role": "user"}], [], None]}
    )


def test_parquet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    parquet.write_table(table(), path, row_group_size=2)
    assert read_records(path) == table().to_pylist()
    assert [place for place, _ in placed_records(path)] == ["row 1", "row 2", "row 3"]
    assert "cannot be read as parquet" in refused(written(tmp_path, path.read_bytes()[:-9], "cut.parquet"))


def save_to_disk(folder: Path, *tables: pyarrow.Table) -> Path:
    """Write a folder as the datasets library does."""
    folder.mkdir()
    names = [f"data-{place:05}-of-{len(tables):05}.arrow" for place in range(len(tables))]
    for name, part in zip(names, tables, strict=True):
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, part.schema) as stream:
            stream.write_table(part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    return folder


def test_a_folder_of_the_datasets_library_is_read(tmp_path: Path) -> None:
    folder = save_to_disk(tmp_path / "set", table(), table().slice(1))
    assert read_records(folder) == table().to_pylist() + table().slice(1).to_pylist()
    assert placed_records(folder)[-1][0] == "row 5"


@pytest.mark.parametrize(
    "state",
    [
        "{}",
        "[]",
        "nonsense",
        '{"_data_files": [{"filename": "../records.arrow"}]}',
        '{"_data_files": [{"filename": "a"}]}',
    ],
)
def test_a_folder_of_another_format_is_refused(tmp_path: Path, state: str) -> None:
    folder = save_to_disk(tmp_path / "set", table())
    (folder / "state.json").write_text(state)
    assert "cannot be read as a folder of the datasets library" in refused(folder)
