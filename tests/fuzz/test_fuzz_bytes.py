"""Adapters and apps: damaged bytes are refused, or say what an independent reader finds in them."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tomllib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.cli.build import build_fab_from_files
from hypothesis import given
from hypothesis import strategies as st

from common.adapter.adapter import AdapterError, from_bytes, initial, to_bytes, to_wire
from common.adapter.compression import Fewer
from common.adapter.rounding import PublicUniforms
from common.errors import Refused
from common.flower.fab import APP_FILES, check_app
from common.keys.statement_key import StatementKey, is_signed
from tests.fuzz.hostile import ONE, damaged_bytes, damaged_json_text, messages

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")

A, B = "model.layers.0.q_proj.lora_A.weight", "model.layers.0.q_proj.lora_B.weight"
SHAPES = {A: (2, 6), B: (4, 2)}
GOOD = to_bytes(initial(SHAPES, 0))
LENGTH = int.from_bytes(GOOD[:8], "little")
HEADER = json.loads(GOOD[8 : 8 + LENGTH])
PAYLOAD = GOOD[8 + LENGTH :]
OFFSETS = [[0, 0], [0, 48], [16, 48], [47, 79], [48, 80], [0, 80], [-48, 0], [0, 2**62], [2**63, 2**64], [48, 48]]
SPECIAL = [np.nan, np.inf, -np.inf, 5e-324, 1e-45, 3.4e38, -0.0]


def container(header: str, payload: bytes, announced: int | None = None) -> bytes:
    head = header.encode("utf-8", "surrogatepass")
    return (len(head) if announced is None else announced).to_bytes(8, "little") + head + payload


@st.composite
def damaged_adapters(draw: Callable[[Any], Any]) -> bytes:
    kind = draw(st.integers(0, 6))
    if kind <= 1:
        return draw(damaged_bytes([GOOD]))
    if kind == 2:
        return container(draw(damaged_json_text(HEADER)), PAYLOAD)
    if kind == 3:  # overlapping, swapped, outside
        header = {name: {**HEADER[name], "data_offsets": OFFSETS[draw(ONE) % len(OFFSETS)]} for name in HEADER}
        return container(json.dumps(header), PAYLOAD)
    if kind == 4:
        values = np.frombuffer(PAYLOAD, np.float32).copy()
        values[draw(ONE) % values.size] = SPECIAL[draw(ONE) % len(SPECIAL)]
        return container(json.dumps(HEADER), values.tobytes())
    if kind == 5:  # the right count of bytes under another type
        dtype, shape = [("I32", [2, 6]), ("F16", [4, 6]), ("BF16", [4, 6]), ("F64", [1, 6]), ("U8", [48])][
            draw(ONE) % 5
        ]
        return container(json.dumps({**HEADER, A: {**HEADER[A], "dtype": dtype, "shape": shape}}), PAYLOAD)
    extra = draw(
        st.sampled_from([{"__metadata__": {"a": "b"}}, {"x": HEADER[A]}, {"": HEADER[B]}, {"../x": HEADER[B]}])
    )
    text = json.dumps({**HEADER, **extra})
    return container(
        text + " " * draw(st.sampled_from([0, 1, 7, 100_000])), PAYLOAD, draw(st.sampled_from([None, 2**40]))
    )


@messages(1200)
@given(damaged_adapters())
def test_a_damaged_adapter_is_refused_or_holds_what_stands_there(data: bytes) -> None:
    try:
        adapter = from_bytes(data, SHAPES)
    except AdapterError as error:
        assert len(str(error)) < 500
        return
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert set(header) == set(adapter) == set(SHAPES)
    assert sorted(entry["data_offsets"] for entry in header.values()) in ([[0, 48], [48, 80]], [[0, 32], [32, 80]])
    assert len(data) == 8 + length + 80
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        assert tuple(entry["shape"]) == SHAPES[name] == adapter[name].shape
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[8 + length + begin : 8 + length + end], np.float32)
        assert np.isfinite(values).all()
        assert values.tobytes() == adapter[name].tobytes()


# Adapters in fewer bits

FEWER: list[Fewer] = ["bfloat16", "int8", "int4"]
COMPRESSED = {form: to_wire(initial(SHAPES, 0), form, PublicUniforms("fuzz")) for form in FEWER}
DTYPES = {"bfloat16": "BF16", "int8": "I8", "int4": "U8"}
WORDS = [*(np.float32(value).tobytes() for value in SPECIAL), b"\x80" * 4, b"\x08" * 4, bytes(4), b"\xff" * 4]


@st.composite
def damaged_compressed(draw: Callable[[Any], Any], form: Fewer) -> bytes:
    good = COMPRESSED[form]
    length = 8 + int.from_bytes(good[:8], "little")
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return draw(damaged_bytes([good]))
    if kind == 1:  # of another format, or spliced from two
        return (
            draw(st.sampled_from([*COMPRESSED.values(), GOOD]))
            if draw(ONE) % 2
            else draw(damaged_bytes(list(COMPRESSED.values())))
        )
    if kind == 2:
        header = json.loads(good[8:length])
        text = draw(damaged_json_text(header, lambda value: json.dumps(value, separators=(",", ":"))))
        return container(text.ljust(length - 8), good[length:])
    data = bytearray(good)
    for _ in range(draw(st.integers(0, 3))):
        place = length + draw(ONE) % (len(good) - length - 3)
        # Scales lie at multiples of four.
        place -= (place - length) % 4 if draw(st.booleans()) else 0
        data[place : place + 4] = WORDS[draw(ONE) % len(WORDS)]
    return bytes(data)


@messages(1200)
@given(st.sampled_from(FEWER), st.data())
def test_a_damaged_adapter_in_fewer_bits_is_refused_or_holds_what_stands_there(
    form: Fewer, data: st.DataObject
) -> None:
    sent = data.draw(damaged_compressed(form))
    try:
        adapter = from_bytes(sent, SHAPES, form)
    except AdapterError as error:
        assert len(str(error)) < 500
        return
    length = int.from_bytes(sent[:8], "little")
    header = json.loads(sent[8 : 8 + length])
    assert header[form]["dtype"] == DTYPES[form]
    assert header[form]["data_offsets"][1] == len(sent) - 8 - length
    body = sent[8 + length :]
    if form == "bfloat16":
        expected = [struct.unpack("<f", b"\0\0" + body[2 * place : 2 * place + 2])[0] for place in range(20)]
    else:
        # Two rows of A, then two columns of B: by name.
        scales = struct.unpack("<4f", body[:16])
        assert all(scale >= 0 for scale in scales)
        if form == "int8":
            steps = struct.unpack("<20b", body[16:])
            assert min(steps) >= -127
        else:
            steps = [half - 16 if half > 7 else half for byte in body[16:] for half in (byte % 16, byte // 16)]
            assert min(steps) >= -7
        owners = [0] * 6 + [1] * 6 + [2] * 4 + [3] * 4
        expected = [
            float(np.float32(step) * np.float32(scales[own])) for step, own in zip(steps, owners, strict=True)
        ]
    flat = [
        *adapter[A].ravel().tolist(),
        *(adapter[B].ravel() if form == "bfloat16" else adapter[B].T.ravel()).tolist(),
    ]
    assert flat == expected
    assert np.isfinite(expected).all()


# Apps


@pytest.fixture(scope="module")
def shipped() -> bytes:
    return build_fab_from_files(APP_FILES)[0]


def settings_of(shipped: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(shipped)) as archive:
        return archive.read("pyproject.toml")


NAMES = [
    "pyproject.toml",
    ".info/CONTENT",
    "../../evil.py",
    "/etc/passwd",
    "pyproject.toml\0",
    "client/relay/client_app.py",
    "x" * 5000,
]


@st.composite
def damaged_apps(draw: Callable[[Any], Any], shipped: bytes) -> bytes:
    if draw(st.booleans()):
        return draw(damaged_bytes([shipped]))
    good = settings_of(shipped)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for _ in range(draw(st.integers(0, 3))):
            content = [good, good.replace(b"client.relay.client_app", b"evil"), bytes(10**6), b"[" * 3000, b""][
                draw(ONE) % 5
            ]
            method = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA][draw(ONE) % 4]
            archive.writestr(zipfile.ZipInfo(NAMES[draw(ONE) % len(NAMES)]), content, method)
    return buffer.getvalue()


@messages(600)
@given(st.data(), st.booleans())
def test_a_damaged_app_is_refused_or_holds_no_code(
    shipped: bytes, data: st.DataObject, is_announced: bool
) -> None:
    app = data.draw(damaged_apps(shipped))
    digest = hashlib.sha256(app if is_announced else shipped).hexdigest()
    try:
        check_app(app, digest)
    except Refused as refusal:
        assert refusal.code == "app-not-allowed"
        assert len(refusal.detail) < 200
        return
    assert hashlib.sha256(app).hexdigest() == digest
    with zipfile.ZipFile(io.BytesIO(app)) as archive:
        names = archive.namelist()
        assert "pyproject.toml" in names
        assert set(names) <= {"pyproject.toml", ".info/CONTENT"}
        components = tomllib.loads(archive.read("pyproject.toml").decode())["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "server.rounds.server_app:app", "clientapp": "client.relay.client_app:app"}


def test_a_small_app_whose_settings_are_slow_to_read_is_refused_unread() -> None:
    """A key of many parts: a TOML parser's time grows with the square of their number."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pyproject.toml", "a." * 30_000 + "a = 1")
    assert len(buffer.getvalue()) < 400
    with pytest.raises(Refused, match="more than settings"):
        check_app(buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest())


# Signatures

KEY = StatementKey.generate()
SIGNATURE = KEY.sign(b"message")
SPELLINGS = [str.upper, lambda text: " " + text, lambda text: text + "\n", lambda text: text[:2] + " " + text[2:]]


@messages(300)
@given(damaged_bytes([SIGNATURE.encode()]), damaged_bytes([KEY.public.encode()]), st.sampled_from([0, 1, 2]))
def test_a_damaged_signature_or_key_is_none(signature: bytes, public: bytes, which: int) -> None:
    signed = SIGNATURE if which == 1 else signature.decode("latin-1")
    by = KEY.public if which == 0 else public.decode("latin-1")
    assert is_signed(b"message", signed, by) == ((signed, by) == (SIGNATURE, KEY.public))


@pytest.mark.parametrize("spelling", range(len(SPELLINGS)))
def test_a_signature_and_a_key_have_one_spelling(spelling: int) -> None:
    respell = SPELLINGS[spelling]
    assert is_signed(b"message", SIGNATURE, KEY.public)
    assert not is_signed(b"message", respell(SIGNATURE), KEY.public)
    assert not is_signed(b"message", SIGNATURE, respell(KEY.public))
