"""Who may enter: a change of the registry is seen at the next look, however quickly it comes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from common.keys.node_key import NodeKey
from common.keys.statement_key import StatementKey, public_line
from server.registry.members import Members
from server.registry.registry import Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "organizations")


def register(registry: Registry, folder: Path, name: str) -> NodeKey:
    node = NodeKey.generate()
    (folder / f"{name}-node.pub").write_text(node.public.line(name))
    (folder / f"{name}.pub").write_text(public_line(StatementKey.generate().public, name))
    registry.register(name, folder / f"{name}-node.pub", folder / f"{name}.pub")
    return node


def test_nobody_is_known_before_anybody_is_registered(tmp_path: Path) -> None:
    members = Members(tmp_path / "organizations")
    assert members.name_of_key(NodeKey.generate().public) is None
    assert members.name_of_node(1) is None


def test_every_change_is_seen_at_once(registry: Registry, tmp_path: Path) -> None:
    members = Members(tmp_path / "organizations")
    for number in range(1, 6):
        name = f"org-{number}"
        key = register(registry, tmp_path, name)
        assert members.name_of_key(key.public) == name
        assert members.node_of_key(key.public) is None, "the SuperLink does not know it yet"
        registry.set_node_id(name, 100 + number)
        assert (members.node_of_key(key.public), members.name_of_node(100 + number)) == (100 + number, name)
        assert not members.is_revoked(key.public)
        if number % 2:
            registry.revoke(name)
            assert members.name_of_key(key.public) is None
            assert members.name_of_node(100 + number) is None
            assert members.is_revoked(key.public)
    assert members.name_of_node(102) == "org-2"


def test_a_change_at_the_same_tick_of_the_clock_is_seen(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "organizations"
    register(registry, tmp_path, "a")
    tick = time.time_ns()
    os.utime(folder, ns=(tick, tick))
    members = Members(folder)
    assert members.is_revoked(NodeKey.generate().public) is False
    key = register(registry, tmp_path, "b")
    os.utime(folder, ns=(tick, tick))
    assert members.name_of_key(key.public) == "b"


def test_a_registry_that_cannot_be_read_lets_nobody_in(registry: Registry, tmp_path: Path) -> None:
    key = register(registry, tmp_path, "a")
    members = Members(tmp_path / "organizations")
    assert members.name_of_key(key.public) == "a"
    good = (tmp_path / "organizations" / "a.node-key").read_text()
    (tmp_path / "organizations" / "b.node-key").write_text("no key")
    assert members.name_of_key(key.public) is None
    (tmp_path / "organizations" / "b.node-key").unlink()
    assert members.name_of_key(key.public) == "a"
    assert (tmp_path / "organizations" / "a.node-key").read_text() == good
