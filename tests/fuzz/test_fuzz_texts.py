"""Statements, ledger heads, descriptions, plans, settings: damaged ones are refused, or are as good as others.

Whatever is accepted is checked by rules that are written down here anew, and has one spelling only.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from client.relay.settings import Relay
from client.vault.policy.organization import Organization
from common.errors import InputError
from common.keys.statement_key import StatementKey
from common.plan.plan import Plan
from common.protocol.protocol import Description
from common.protocol.statement import Head, Statement
from common.settings import SettingsFile, template, validate
from server.superlink.settings import Server
from tests.common.report.sample_run import PLAN, signed, statement
from tests.fuzz.hostile import damaged_bytes, damaged_json, damaged_json_text, messages

KEY = StatementKey.generate()
STATED = signed(statement("st-mary"), KEY)
HEAD = Head("0f" * 16, 7, "ee" * 32, "aa" * 64)
DESCRIBED = Description("st-mary", "user", 10_000, max_rank=8)
NAME = "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?"


def spelt(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value <= 10**15


def is_number(value: Any, least: float = 0.0) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and least <= value <= 1e15


def is_hex(value: Any, *lengths: int) -> bool:
    return isinstance(value, str) and len(value) in lengths and set(value) <= set("0123456789abcdef")


def is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def assert_head(values: Any) -> None:
    assert set(values) == {"data_set", "number", "digest", "signature"}
    assert is_hex(values["data_set"], 32)
    assert is_hex(values["digest"], 64)
    assert is_hex(values["signature"], 0, 128)
    assert is_count(values["number"])


def assert_statement(values: Any) -> None:
    assert set(values) == set(STATED.to_dict())
    for name in ("organization", "run", "plan", "fingerprint", "unit", "boundary", "key", "signature"):
        assert is_text(values[name])
    assert is_text(values["adjacency"] + values["accountant"])
    assert all(is_text(part) for pair in values["versions"].items() for part in pair)
    assert values["versions"]
    assert is_count(values["public_size"])
    assert is_number(values["epsilon"])
    assert 0 < values["delta"] < 1
    lifetime = values["lifetime"]
    assert set(lifetime) == {"epsilon_spent", "max_epsilon", "delta", "accountant"}
    assert is_number(lifetime["epsilon_spent"])
    assert is_number(lifetime["max_epsilon"])
    assert 0 < lifetime["delta"] <= 1
    assert is_text(lifetime["accountant"])
    (mechanism,) = values["mechanisms"]
    assert set(mechanism) == {"kind", "sample_rate", "noise_multiplier", "steps"}
    assert mechanism["kind"] == "poisson-gaussian"
    assert type(mechanism["sample_rate"]) in (int, float)
    assert 0 < mechanism["sample_rate"] <= 1
    assert is_number(mechanism["noise_multiplier"], 0.001)
    assert is_count(mechanism["steps"], 1)
    assert mechanism["steps"] <= 20_000
    assert_head(values["head"])


@messages(1200)
@given(damaged_json_text(STATED.to_dict(), spelt))
def test_a_damaged_statement_is_refused_or_is_one(text: str) -> None:
    try:
        read = Statement.from_json(text)
    except ValueError:
        return
    assert_statement(json.loads(text))
    assert spelt(json.loads(text)) == text
    assert read.to_json() == text
    assert len(text) <= 2**16


@messages(500)
@given(damaged_json_text(json.loads(HEAD.to_json()), spelt))
def test_a_damaged_head_is_refused_or_is_one(text: str) -> None:
    try:
        read = Head.from_json(text)
    except ValueError:
        return
    assert_head(json.loads(text))
    assert spelt(json.loads(text)) == text == read.to_json()


@messages(500)
@given(damaged_json_text(json.loads(DESCRIBED.to_json()), spelt))
def test_a_damaged_description_is_refused_or_is_one(text: str) -> None:
    try:
        Description.from_json(text)
    except ValueError:
        return
    values = json.loads(text)
    assert set(values) - {"max_rank"} == {"organization", "unit", "public_size"}
    assert type(values.get("max_rank", 1)) is int
    assert 1 <= values.get("max_rank", 1) <= 1024
    assert re.fullmatch(NAME, values["organization"])
    assert values["unit"] in ("example", "user")
    assert is_count(values["public_size"], 1)
    assert spelt(values) == text


AGREEMENT = PLAN.agreement()
CANONICAL = PLAN.canonical()


def compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def assert_plan(values: Any) -> None:
    """What every organization relies on."""
    assert set(values) == set(AGREEMENT)
    assert re.fullmatch(NAME, values["name"])
    for name in ("model", "task", "lora", "training", "federation", "aggregation"):
        assert set(values[name]) == set(AGREEMENT[name])
    training, privacy = values["training"], values["privacy"]
    assert all(is_count(training[key], 1) for key in ("rounds", "local_steps", "batch_size"))
    assert training["rounds"] * training["local_steps"] <= 20_000
    assert type(privacy["epsilon"]) is type(privacy["delta"]) is type(privacy["clipping_norm"]) is float
    assert 0 < privacy["epsilon"] <= 20
    assert 0 < privacy["delta"] < 1
    assert 1e-9 <= privacy["clipping_norm"] <= 1e9
    assert set(privacy) - {"records_per_user"} == {"unit", "epsilon", "delta", "clipping_norm"}
    assert (privacy["unit"] == "user") == ("records_per_user" in privacy)
    assert 0 <= values["lora"]["seed"] < 2**63
    assert is_count(values["lora"]["rank"], 1)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@messages(1500)
@given(damaged_json_text(AGREEMENT, compact).map(encoded) | damaged_bytes([CANONICAL]) | st.binary(max_size=60))
def test_a_damaged_plan_of_a_request_is_refused_or_is_one(data: bytes) -> None:
    try:
        plan = Plan.from_canonical(data)
    except InputError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        return
    values = json.loads(data)
    assert_plan(values)
    assert compact(values).encode() == data == plan.canonical()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "file.toml"


FILES: dict[type[SettingsFile], dict[str, Any]] = {
    Plan: json.loads(json.dumps(PLAN.model_dump(mode="json", exclude_none=True))),
    Organization: validate(
        {
            "name": "st-mary",
            "data": {"train": "records.jsonl", "public_size": 1000},
            "models": {"base": "/models/base"},
            "policy": {"max_epsilon": 8.0, "max_epsilon_per_run": 4.0, "max_delta": 1e-5},
        },
        Organization,
        "the test's",
    ).model_dump(mode="json", exclude_none=True),
    Relay: {"name": "st-mary", "server": "127.0.0.1:8000"},
    Server: {"address": "127.0.0.1:8000"},
}
TEXTS = {kind: [tomli_w.dumps(values).encode(), template(kind).encode()] for kind, values in FILES.items()}


def as_toml(values: Any) -> bytes:
    try:
        return tomli_w.dumps(values).encode()
    except (TypeError, ValueError, RecursionError, AttributeError):  # TOML has no null, and Python limits integers
        return b"a = 0x" + b"f" * 20_000


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)
@messages(350)
@given(data=st.data())
def test_a_damaged_file_of_settings_is_refused_in_one_line_or_is_one(
    kind: type[SettingsFile], path: Path, data: st.DataObject
) -> None:
    content = data.draw(damaged_json(FILES[kind]).map(as_toml) | damaged_bytes(TEXTS[kind]))
    path.write_bytes(content)
    try:
        read = kind.read(path)
    except InputError as error:
        assert "\n" not in str(error).replace(str(path), "")
        assert len(str(error)) < 3000
        return
    # What was read can be written, and is then read as the same.
    path.write_bytes(tomli_w.dumps(read.model_dump(mode="json", exclude_none=True)).encode())
    assert kind.read(path).model_dump() == read.model_dump()
    if isinstance(read, Plan):
        assert_plan(json.loads(read.canonical()))


ENDLESS = {
    "ten megabytes": b'name = "' + b"a" * 10_000_000 + b'"',
    "a key of many parts": b"a." * 5_000_000 + b"a = 1",
    "an integer that Python does not write": b"[lora]\nseed = 0x" + b"f" * 60_000,
    "a count that Python does not write": b"[training]\nrounds = 0x" + b"f" * 60_000,
    "deep": b"a = " + b"[" * 60_000,
    "zero bytes": bytes(1000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_a_file_of_settings_that_never_ends_is_refused_in_one_short_line(what: str, path: Path) -> None:
    path.write_bytes(ENDLESS[what])
    for kind in FILES:
        with pytest.raises(InputError) as caught:
            kind.read(path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 3000


def test_a_file_of_settings_is_never_cut_to_its_first_bytes(path: Path) -> None:
    for kind, (text, _) in TEXTS.items():
        path.write_bytes(text + b"#" * (2**16 - len(text)))
        assert kind.read(path).model_dump() == validate(FILES[kind], kind, "the test's").model_dump()
        path.write_bytes(text + b"#" * (2**16 - len(text) + 1))
        with pytest.raises(InputError, match="should have at most 65536 bytes"):
            kind.read(path)


def test_an_integer_that_python_does_not_write_is_named(path: Path) -> None:
    path.write_bytes(TEXTS[Plan][0].replace(b"seed = 0", b"seed = 0x" + b"f" * 60_000, 1))
    with pytest.raises(InputError, match=r"lora\.seed = an endless integer"):
        Plan.read(path)
