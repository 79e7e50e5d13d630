"""The registry: which keys count, and which ledger heads are remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError
from common.protocol import Head
from common.signing import StatementKey, public_line
from server.registry import Registry

KEY = StatementKey.generate()


def signed(number: int, data_set: str = "0f" * 16, key: StatementKey = KEY) -> Head:
    head = Head(data_set, number, f"{number:064x}", "")
    return replace(head, signature=key.sign(head.signed_bytes()))


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "statement.pub"
    path.write_text(public_line(KEY.public, "st-mary"))
    return path


@pytest.fixture
def registry(tmp_path: Path, public: Path) -> Registry:
    registry = Registry(tmp_path / "organizations")
    registry.register("st-mary", public)
    return registry


def again(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "organizations")


def test_a_registered_key_is_kept(registry: Registry, tmp_path: Path, public: Path) -> None:
    assert registry.keys() == again(tmp_path).keys() == {"st-mary": KEY.public}
    assert registry.register("st-mary", public) == KEY.public


def test_a_name_has_one_key_until_it_is_revoked(registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_text(public_line(StatementKey.generate().public, "st-mary"))
    with pytest.raises(InputError, match="sotto server revoke st-mary"):
        registry.register("st-mary", other)
    registry.note("st-mary", signed(3))
    registry.revoke("st-mary")
    assert again(tmp_path).keys() == {}
    again(tmp_path).register("st-mary", other)
    assert again(tmp_path).newest("st-mary") is None


@pytest.mark.parametrize("name", ["../evil", "St-Mary", "", "a/b", "x" * 60, "."])
def test_a_name_never_leads_out_of_the_folder(registry: Registry, public: Path, name: str) -> None:
    with pytest.raises(InputError, match="lower-case letters"):
        registry.register(name, public)


def test_the_newest_head_is_remembered_across_runs(registry: Registry, tmp_path: Path) -> None:
    assert registry.newest("st-mary") is None
    registry.note("st-mary", signed(3))
    registry.note("st-mary", signed(7))
    registry.note("st-mary", signed(5))
    assert registry.newest("st-mary") == again(tmp_path).newest("st-mary") == signed(7)


def test_a_head_of_another_data_set_does_not_replace_the_first(registry: Registry) -> None:
    registry.note("st-mary", signed(3))
    registry.note("st-mary", signed(9, data_set="aa" * 16))
    assert registry.newest("st-mary") == signed(3)


def test_heads_without_a_valid_signature_are_not_remembered(registry: Registry, tmp_path: Path) -> None:
    forged = [None, replace(signed(9), number=10), signed(9, key=StatementKey.generate())]
    for head in forged:
        registry.note("st-mary", head)
    registry.note("county", signed(4))
    assert registry.newest("st-mary") is None
    assert registry.newest("county") is None
    assert sorted(path.name for path in (tmp_path / "organizations").iterdir()) == ["st-mary.pub"]


def test_a_simulation_registers_nobody(public: Path) -> None:
    registry = Registry(None)
    registry.note("st-mary", signed(3))
    assert registry.newest("st-mary") is None
    assert registry.keys() == {}
    with pytest.raises(InputError):
        registry.register("st-mary", public)
