"""Framing on the vault's socket: adapters in chunks, and the paths of sockets."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.channel.framing import CHUNK_BYTES, MOST_BYTES, Reassembly, check_socket_path, grpc_address, split
from client.relay.vault_client import RemoteVault
from common.errors import InputError, Refused
from tests.client.vaults import Echo, served


@given(st.binary(max_size=50), st.integers(0, 3))
def test_what_is_split_is_put_together_again(tail: bytes, chunks: int) -> None:
    data = bytes(chunks * CHUNK_BYTES) + tail
    reassembly = Reassembly(len(data))
    for chunk in split(data):
        assert 1 <= len(chunk) <= CHUNK_BYTES
        reassembly.add(chunk)
    assert reassembly.complete() == data


@given(st.lists(st.binary(max_size=20), max_size=10), st.integers(0, 200))
def test_neither_more_nor_fewer_bytes_than_announced_are_taken(chunks: list[bytes], announced: int) -> None:
    reassembly = Reassembly(announced)
    accepted = b""
    for chunk in chunks:
        if len(accepted) + len(chunk) > announced:
            with pytest.raises(Refused, match="malformed-request: more bytes"):
                reassembly.add(chunk)
        else:
            reassembly.add(chunk)
            accepted += chunk
    if len(accepted) == announced:
        assert reassembly.complete() == accepted
    else:
        with pytest.raises(Refused, match=f"malformed-request: {len(accepted)} bytes arrived; {announced}"):
            reassembly.complete()


def test_memory_grows_with_what_arrives_and_not_with_what_is_announced() -> None:
    tracemalloc.start()
    try:
        reassembly = Reassembly(MOST_BYTES)
        reassembly.add(b"x")
        assert tracemalloc.get_traced_memory()[1] < CHUNK_BYTES
    finally:
        tracemalloc.stop()


def test_all_bytes_are_handed_over_without_a_second_copy() -> None:
    size = 16 * CHUNK_BYTES
    chunk = bytes(CHUNK_BYTES)
    tracemalloc.start()
    try:
        reassembly = Reassembly(size)
        for _ in range(16):
            reassembly.add(chunk)
        whole = reassembly.complete()
        assert len(whole) == size
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_more_than_a_gibibyte_cannot_be_announced() -> None:
    Reassembly(2**30)
    with pytest.raises(Refused, match=f"malformed-request: {2**30 + 1} bytes were announced"):
        Reassembly(2**30 + 1)


@pytest.mark.parametrize("character", ["x", "ä"])
def test_a_sockets_path_has_at_most_107_bytes(character: str) -> None:
    width = len(character.encode())
    fits = Path("/" + character * (106 // width))
    assert check_socket_path(fits) == fits
    with pytest.raises(InputError, match="108 bytes; the system allows 107"):
        check_socket_path(Path("/" + character * (106 // width) + "y" * (107 - 106 // width * width)))


def test_a_sockets_path_has_no_comma() -> None:
    with pytest.raises(InputError, match="cannot contain a comma"):
        check_socket_path(Path("/a,b/vault.sock"))


@pytest.mark.parametrize("name", ["plain", "a b", "a%41b", "100%", "a#b", "a?b=c", "ä", "a:b", "a\\b"])
def test_a_socket_is_found_whatever_its_folder_is_called(name: str, tmp_path: Path) -> None:
    socket = tmp_path / name / "vault.sock"
    with served(Echo(), socket):
        assert socket.is_socket()
        with RemoteVault(socket, timeout=60, patience=10) as vault:
            assert vault.describe().organization == "echo"
    assert not socket.exists()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_an_address_is_plain_text(name: str) -> None:
    address = grpc_address(Path("/") / name)
    assert address.isascii()
    assert address.startswith("unix:/")
    assert not set("#? \n") & set(address)
    grpc.insecure_channel(address).close()
