"""Adapters in pieces, paths of sockets: what both ends of the vault's socket agree on."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.channel.framing import MOST_BYTES, PIECE_BYTES, Assembly, check_socket_path, grpc_address, split
from client.relay.vault_client import RemoteVault
from common.errors import InputError, Refused
from tests.client.vaults import Echo, served


@given(st.binary(max_size=50), st.integers(0, 3))
def test_what_is_split_is_put_together_again(tail: bytes, pieces: int) -> None:
    data = bytes(pieces * PIECE_BYTES) + tail
    assembly = Assembly(len(data))
    for piece in split(data):
        assert 1 <= len(piece) <= PIECE_BYTES
        assembly.add(piece)
    assert assembly.complete() == data


@given(st.lists(st.binary(max_size=20), max_size=10), st.integers(0, 200))
def test_neither_more_nor_fewer_bytes_than_announced_are_taken(pieces: list[bytes], announced: int) -> None:
    assembly = Assembly(announced)
    taken = b""
    for piece in pieces:
        if len(taken) + len(piece) > announced:
            with pytest.raises(Refused, match="malformed-request: more bytes"):
                assembly.add(piece)
        else:
            assembly.add(piece)
            taken += piece
    if len(taken) == announced:
        assert assembly.complete() == taken
    else:
        with pytest.raises(Refused, match=f"malformed-request: {len(taken)} bytes arrived; {announced}"):
            assembly.complete()


def test_memory_grows_with_what_arrives_and_not_with_what_is_announced() -> None:
    tracemalloc.start()
    try:
        assembly = Assembly(MOST_BYTES)
        assembly.add(b"x")
        assert tracemalloc.get_traced_memory()[1] < PIECE_BYTES
    finally:
        tracemalloc.stop()


def test_all_bytes_are_handed_over_without_a_second_copy() -> None:
    size = 16 * PIECE_BYTES
    piece = bytes(PIECE_BYTES)
    tracemalloc.start()
    try:
        assembly = Assembly(size)
        for _ in range(16):
            assembly.add(piece)
        whole = assembly.complete()
        assert len(whole) == size
        assert tracemalloc.get_traced_memory()[1] < 1.5 * size
    finally:
        tracemalloc.stop()


def test_more_than_a_gibibyte_cannot_be_announced() -> None:
    Assembly(2**30)
    with pytest.raises(Refused, match=f"malformed-request: {2**30 + 1} bytes were announced"):
        Assembly(2**30 + 1)


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_a_sockets_path_has_at_most_107_bytes(letter: str) -> None:
    width = len(letter.encode())
    fits = Path("/" + letter * (106 // width))
    assert check_socket_path(fits) == fits
    with pytest.raises(InputError, match="108 bytes; the system allows 107"):
        check_socket_path(Path("/" + letter * (106 // width) + "y" * (107 - 106 // width * width)))


def test_a_sockets_path_has_no_comma() -> None:
    with pytest.raises(InputError, match="cannot have a comma"):
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
