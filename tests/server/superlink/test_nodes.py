"""The SuperLink's list of nodes follows the registry, also when its database was lost."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from client.admin.keys import make_keys
from common.errors import SottoError
from common.keys.node_key import NodePublicKey
from common.system.network import Address, free_port
from common.system.processes import FLOWER_ENVIRONMENT
from server.registry.registry import Registry
from server.superlink.nodes import synchronize
from server.superlink.settings import is_ready
from tests.programs.start import start
from tests.waiting import wait_until


@contextmanager
def superlink(folder: Path, database: str) -> Iterator[Address]:
    address = Address("127.0.0.1", free_port())
    command = [Path(sys.executable).parent / "flower-superlink", "--insecure", "--host", address.host]
    command += ["--port", str(address.port), "--database", folder / database]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**FLOWER_ENVIRONMENT, "PATH": path, "FLWR_HOME": str(folder / "home")}
    with (folder / "superlink.log").open("ab") as log:
        process = start(command, cwd=folder, output=log, **environment)
    try:
        wait_until(lambda: is_ready(address), "the SuperLink")
        yield address
    finally:
        process.terminate()
        process.wait(60)


def listed(address: Address) -> dict[bytes, int]:
    """Public key → number, of the nodes that the SuperLink knows."""
    client = ControlHttpClient.from_server_address(
        str(address), True, None, [RuntimeVersionHttpInterceptor(component_name="flwr-cli")]
    )
    nodes = client.ListNodes(ListNodesRequest()).nodes_info
    client.close()
    return {bytes(node.public_key): node.node_id for node in nodes if node.status != "unregistered"}


def register(registry: Registry, folder: Path, name: str) -> bytes:
    make_keys(folder / name, name)
    registry.register(name, folder / name / "node.pub", folder / name / "statement.pub")
    return NodePublicKey.read(folder / name / "node.pub").pem


def test_the_list_of_nodes_is_that_of_the_registry(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "organizations")
    keys = {name: register(registry, tmp_path, name) for name in ("a", "b")}
    with superlink(tmp_path, "state.db") as address:
        synchronize(registry, address)
        first = registry.node_ids()
        assert listed(address) == {keys[name]: first[name] for name in ("a", "b")}
        synchronize(registry, address)
        assert registry.node_ids() == first

        registry.revoke("a")
        keys["c"] = register(registry, tmp_path, "c")
        synchronize(registry, address)
        assert listed(address) == {keys[name]: registry.node_ids()[name] for name in ("b", "c")}
        assert registry.node_ids()["b"] == first["b"]
    with superlink(tmp_path, "another.db") as address:
        synchronize(registry, address)
        assert listed(address) == {keys[name]: registry.node_ids()[name] for name in ("b", "c")}
        assert registry.node_ids()["b"] != first["b"]


def test_a_superlink_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SottoError, match="does not answer"):
        synchronize(Registry(tmp_path / "organizations"), Address("127.0.0.1", free_port()))
