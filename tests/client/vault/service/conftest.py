"""Fixtures for the tests of the service: an organization, a socket, and a stub of the bare protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from client.channel import vault_pb2_grpc as stubs
from client.channel.framing import grpc_address
from tests.client.vaults import write_organization


@pytest.fixture
def organization(tmp_path: Path, tiny_base: Path) -> Path:
    return write_organization(tmp_path / "st-mary", tiny_base)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "vault.sock"


@pytest.fixture
def stub(socket: Path) -> Iterator[Any]:
    with grpc.insecure_channel(grpc_address(socket)) as channel:
        yield stubs.VaultStub(channel)  # type: ignore[no-untyped-call]
