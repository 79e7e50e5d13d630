"""The Flower app: the bundle that Sotto ships is accepted, and any other is refused."""

from __future__ import annotations

import bz2
import hashlib
import io
import struct
import zipfile
import zlib
from typing import Any

import pytest
import tomli_w
from flwr.cli.build import build_fab_from_files
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import Refused
from common.flower.fab import APP_FILES, COMPONENTS, check_app

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name", "ignore::DeprecationWarning")

PYPROJECT = tomli_w.dumps({"tool": {"flwr": {"app": {"components": COMPONENTS}}}})
GOOD = {"pyproject.toml": PYPROJECT.encode(), ".info/CONTENT": b""}


def packed(*files: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name), content, compression)
    return buffer.getvalue()


def check(content: bytes) -> None:
    check_app(content, hashlib.sha256(content).hexdigest())


def refused(content: bytes) -> str:
    with pytest.raises(Refused) as caught:
        check(content)
    assert caught.value.code == "app-not-allowed"
    return caught.value.detail


def components(value: Any) -> tuple[str, bytes]:
    return "pyproject.toml", tomli_w.dumps({"tool": {"flwr": {"app": {"components": value}}}}).encode()


@pytest.fixture(scope="module")
def shipped() -> bytes:
    return build_fab_from_files(APP_FILES)[0]


def test_the_app_that_the_coordinator_ships_is_accepted(shipped: bytes) -> None:
    check(shipped)
    with zipfile.ZipFile(io.BytesIO(shipped)) as archive:
        assert set(archive.namelist()) == {"pyproject.toml", ".info/CONTENT"}


def test_the_app_is_the_same_bytes_each_time(shipped: bytes) -> None:
    assert build_fab_from_files(APP_FILES)[0] == shipped


def test_an_app_packed_by_another_tool_is_accepted() -> None:
    check(packed(*GOOD.items()))
    check(packed(*GOOD.items(), compression=zipfile.ZIP_STORED))


NAMES = st.text(min_size=1, max_size=30) | st.sampled_from(
    [
        "client/relay/client_app.py",
        "sitecustomize.py",
        "../../evil.py",
        "/etc/passwd",
        "pyproject.toml/",
        "PYPROJECT.TOML",
        "./pyproject.toml",
    ]
)


@given(NAMES, st.binary(max_size=200))
@example("pyproject.toml\0.py", b"")
def test_an_app_with_another_file_is_refused(name: str, content: bytes) -> None:
    if name not in GOOD:
        try:
            app = packed(*GOOD.items(), (name, content))
        except UnicodeEncodeError:
            return
        refused(app)


def test_a_name_that_ends_in_a_zero_byte_is_another_name() -> None:
    """Python truncates a name at a zero byte; other programs may not."""
    app = packed(("pyproject.tomlX.py", GOOD["pyproject.toml"])).replace(b"tomlX.py", b"toml\0.py")
    assert "1 other files" in refused(app)


@pytest.mark.parametrize("twice", sorted(GOOD))
def test_an_app_with_a_file_twice_is_refused(twice: str) -> None:
    assert "twice" in refused(packed(*GOOD.items(), (twice, GOOD[twice])))
    evil = components({**COMPONENTS, "clientapp": "evil:app"})
    refused(packed(evil, ("pyproject.toml", GOOD["pyproject.toml"])))


VALUES = st.recursive(
    st.text(max_size=20) | st.integers(-9, 9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(
    VALUES
    | st.builds(lambda key, value: {**COMPONENTS, key: value}, st.sampled_from([*COMPONENTS, "other"]), VALUES)
)
def test_an_app_with_other_components_is_refused(value: Any) -> None:
    if value != COMPONENTS:
        assert "components" in refused(packed(components(value)))


@given(st.dictionaries(st.sampled_from(["tool", "flwr", "app", "components"]), VALUES))
def test_an_app_without_components_is_refused(values: dict[str, Any]) -> None:
    refused(packed(("pyproject.toml", tomli_w.dumps(values).encode())))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"a = = 1",
        b"\xff",
        b"tool = 1",
        b"[tool]\nflwr = 1979-05-27",
        b"a = " + b"[" * 8000,
        b"a = " + b"9" * 5000,
    ],
)
def test_an_app_whose_settings_cannot_be_read_is_refused(text: bytes) -> None:
    assert refused(packed(("pyproject.toml", text))) == "the app cannot be read"


def test_an_app_without_settings_is_refused() -> None:
    refused(packed((".info/CONTENT", b"")))
    refused(packed())


@given(st.binary(max_size=300))
@example(b"PK\x05\x06" + bytes(18))
@example(b"PK\x03\x04")
def test_bytes_that_are_not_a_zip_are_refused(content: bytes) -> None:
    refused(content)


@given(st.data())
def test_a_damaged_app_is_accepted_only_if_its_content_is_unchanged(data: st.DataObject) -> None:
    """For every changed byte: no other error and no other components."""
    app = bytearray(packed(*GOOD.items()))
    for _ in range(data.draw(st.integers(1, 4))):
        app[data.draw(st.integers(0, len(app) - 1))] = data.draw(st.integers(0, 255))
    try:
        check(bytes(app))
    except Refused as refusal:
        assert refusal.code == "app-not-allowed"  # noqa: PT017
    else:
        with zipfile.ZipFile(io.BytesIO(app)) as archive:
            assert archive.read("pyproject.toml") == GOOD["pyproject.toml"]


def test_a_broken_stream_is_refused() -> None:
    app = bytearray(packed(*GOOD.items()))
    start = app.index(b"pyproject.toml") + len("pyproject.toml")
    app[start : start + 8] = b"\xff" * 8
    with pytest.raises(zlib.error), zipfile.ZipFile(io.BytesIO(app)) as archive:
        archive.read("pyproject.toml")
    assert refused(bytes(app)) == "the app cannot be read"


def test_an_encrypted_app_is_refused() -> None:
    app = bytearray(packed(*GOOD.items()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = app.index(signature) + offset
        app[place] |= 1
    assert refused(bytes(app)) == "the app cannot be read"


def test_too_large_an_app_is_refused() -> None:
    many = b"#" * (2**16 + 1)
    assert "65" in refused(packed(("pyproject.toml", many), compression=zipfile.ZIP_STORED))
    settings = GOOD["pyproject.toml"] + many
    assert "more than settings" in refused(packed(("pyproject.toml", settings)))


def test_an_app_that_unpacks_to_more_than_announced_is_refused() -> None:
    """A file of zeros with a small announced size."""
    huge = packed(("pyproject.toml", bytes(2**24)), compression=zipfile.ZIP_BZIP2)
    small = huge.replace(struct.pack("<L", 2**24), struct.pack("<L", 100))
    assert len(bz2.compress(bytes(2**24))) < 2**16
    assert "more than settings" in refused(small)


@given(st.text())
def test_another_digest_than_announced_is_refused(digest: str) -> None:
    with pytest.raises(Refused, match="not the one that was announced"):
        check_app(packed(*GOOD.items()), digest)
