"""The registry: which keys count, and which ledger heads are remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputError
from common.keys.node_key import NodeKey
from common.keys.statement_key import StatementKey, public_line
from common.protocol.statement import Head
from server.registry.heads import LedgerHeads
from server.registry.registry import Registry

KEY = StatementKey.generate()
NODE = NodeKey.generate()


def signed(number: int, data_set: str = "0f" * 16, key: StatementKey = KEY) -> Head:
    head = Head(data_set, number, f"{number:064x}", "")
    return replace(head, signature=key.sign(head.signed_bytes()))


@pytest.fixture
def public(tmp_path: Path) -> Path:
    path = tmp_path / "statement.pub"
    path.write_text(public_line(KEY.public, "st-mary"))
    return path


def node_file(path: Path, key: NodeKey) -> Path:
    path.write_text(key.public.line("st-mary"))
    return path


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return node_file(tmp_path / "node.pub", NODE)


@pytest.fixture
def registry(tmp_path: Path, node: Path, public: Path) -> Registry:
    registry = Registry(tmp_path / "organizations")
    registry.register("st-mary", node, public)
    return registry


def again(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "organizations")


def test_registered_keys_are_kept(registry: Registry, tmp_path: Path, node: Path, public: Path) -> None:
    assert registry.keys() == again(tmp_path).keys() == {"st-mary": KEY.public}
    assert registry.node_keys() == again(tmp_path).node_keys() == {"st-mary": NODE.public}
    assert registry.register("st-mary", node, public) == (NODE.public, KEY.public)
    assert registry.revoked() == set()


def test_a_name_has_one_statement_key_until_it_is_revoked(registry: Registry, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_text(public_line(StatementKey.generate().public, "st-mary"))
    new_node = node_file(tmp_path / "new-node.pub", NodeKey.generate())
    with pytest.raises(InputError, match="sotto server revoke st-mary"):
        registry.register("st-mary", new_node, other)
    assert registry.node_keys() == {"st-mary": NODE.public}
    LedgerHeads(registry.folder).record("st-mary", signed(3))
    registry.revoke("st-mary")
    assert again(tmp_path).keys() == {}
    assert again(tmp_path).node_keys() == {}
    again(tmp_path).register("st-mary", new_node, other)
    assert LedgerHeads(tmp_path / "organizations").newest("st-mary") is None


def test_a_revoked_node_key_is_never_taken_again(
    registry: Registry, tmp_path: Path, node: Path, public: Path
) -> None:
    registry.revoke("st-mary")
    for name in ("st-mary", "county"):
        with pytest.raises(InputError, match="this node key was revoked"):
            again(tmp_path).register(name, node, public)
    assert again(tmp_path).revoked() == {NODE.public.fingerprint}


def test_a_new_node_key_takes_the_place_of_the_earlier_one(
    registry: Registry, tmp_path: Path, node: Path, public: Path
) -> None:
    registry.set_node_id("st-mary", 17)
    LedgerHeads(registry.folder).record("st-mary", signed(3))
    new = NodeKey.generate()
    registry.register("st-mary", node_file(tmp_path / "new.pub", new), public)
    assert again(tmp_path).node_keys() == {"st-mary": new.public}
    assert again(tmp_path).node_ids() == {}, "the SuperLink has not seen this key yet"
    assert LedgerHeads(tmp_path / "organizations").newest("st-mary") == signed(3), "it is the same ledger"
    with pytest.raises(InputError, match="this node key was revoked"):
        registry.register("st-mary", node, public)


def test_two_organizations_cannot_share_a_node_key(registry: Registry, tmp_path: Path, node: Path) -> None:
    other = tmp_path / "other.pub"
    other.write_text(public_line(StatementKey.generate().public, "county"))
    with pytest.raises(InputError, match="is the node key of 'st-mary'"):
        registry.register("county", node, other)
    assert list(registry.keys()) == ["st-mary"]


@pytest.mark.parametrize("name", ["../evil", "St-Mary", "", "a/b", "x" * 60, "."])
def test_a_name_never_leads_out_of_the_folder(registry: Registry, node: Path, public: Path, name: str) -> None:
    with pytest.raises(InputError, match="lower-case letters"):
        registry.register(name, node, public)


@pytest.fixture
def heads(registry: Registry) -> LedgerHeads:
    return LedgerHeads(registry.folder)


def test_the_newest_head_is_remembered_across_runs(heads: LedgerHeads, tmp_path: Path) -> None:
    assert heads.newest("st-mary") is None
    heads.record("st-mary", signed(3))
    heads.record("st-mary", signed(7))
    heads.record("st-mary", signed(5))
    assert heads.newest("st-mary") == LedgerHeads(tmp_path / "organizations").newest("st-mary") == signed(7)


def test_a_head_of_another_data_set_does_not_replace_the_first(heads: LedgerHeads) -> None:
    heads.record("st-mary", signed(3))
    heads.record("st-mary", signed(9, data_set="aa" * 16))
    assert heads.newest("st-mary") == signed(3)


def test_heads_without_a_valid_signature_are_not_remembered(heads: LedgerHeads, tmp_path: Path) -> None:
    forged = [None, replace(signed(9), number=10), signed(9, key=StatementKey.generate())]
    for head in forged:
        heads.record("st-mary", head)
    heads.record("county", signed(4))
    assert heads.newest("st-mary") is None
    assert heads.newest("county") is None
    assert list((tmp_path / "organizations").glob("*.head")) == []


def test_a_simulation_registers_nobody(node: Path, public: Path) -> None:
    registry, heads = Registry(None), LedgerHeads(None)
    heads.record("st-mary", signed(3))
    assert heads.newest("st-mary") is None
    assert registry.keys() == {}
    with pytest.raises(InputError):
        registry.register("st-mary", node, public)
