"""The vault's socket: permissions, and input from hostile callers."""

from __future__ import annotations

import grp
import os
import socket as sockets
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.channel import vault_pb2 as pb
from client.channel import vault_pb2_grpc as stubs
from client.channel.framing import CHUNK_BYTES, MOST_BYTES, grpc_address
from client.relay.vault_client import RemoteVault
from client.vault.service import VaultServer
from common.errors import InputError, Refused
from tests.client.vaults import Echo, served
from tests.conftest import ROOT
from tests.waiting import LONG, wait_until


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "vault.sock"


def remote(socket: Path) -> RemoteVault:
    return RemoteVault(socket, timeout=LONG, patience=LONG)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of one server for all hostile callers in this file; it must keep answering after each."""
    socket = tmp_path_factory.mktemp("hostile") / "vault.sock"
    with served(Echo(), socket):
        yield socket


def head(size: int, plan: bytes = b"{}") -> pb.TrainPart:
    return pb.TrainPart(head=pb.TrainHead(run="r", round=1, plan=plan, fingerprint="f", adapter_size=size))


def data(content: bytes) -> pb.TrainPart:
    return pb.TrainPart(data=content)


def sent(socket: Path, *parts: pb.TrainPart) -> list[pb.ReleasePart]:
    with grpc.insecure_channel(grpc_address(socket)) as channel:
        stub: Any = stubs.VaultStub(channel)  # type: ignore[no-untyped-call]
        return list(stub.Train(iter(parts), timeout=LONG))


def assert_answers(socket: Path) -> None:
    release = sent(socket, head(4), data(b"good"))
    assert [release[0].head.size, b"".join(part.data for part in release[1:])] == [4, b"good"]
    with remote(socket) as vault:
        assert vault.describe().organization == "echo"


OUT_OF_ORDER = {
    "more than a gibibyte announced": ([head(2**30 + 1)], "at most 1073741824 are accepted"),
    "the largest number announced": ([head(2**64 - 1)], "at most 1073741824 are accepted"),
    "more bytes than announced": ([head(3), data(b"four")], "more bytes arrived than the 3"),
    "fewer bytes than announced": ([head(5), data(b"four")], "4 bytes arrived; 5 were announced"),
    "a gibibyte announced and nothing sent": ([head(2**30)], "0 bytes arrived; 1073741824 were announced"),
    "data before the head": ([data(b"x"), head(1)], "one head followed by data"),
    "two heads": ([head(1), head(1), data(b"x")], "one head followed by data"),
    "a head after the data": ([head(1), data(b"x"), head(1)], "one head followed by data"),
    "an empty part": ([head(1), pb.TrainPart(), data(b"x")], "one head followed by data"),
    "nothing": ([], "the request is empty"),
    "an oversized plan": (
        [head(1, b" " * (2**16 + 1)), data(b"x")],
        "the plan has 65537 bytes; at most 65536 are accepted",
    ),
}


@pytest.mark.parametrize("what", OUT_OF_ORDER)
def test_what_is_out_of_order_is_refused(what: str, hostile: Path) -> None:
    parts, detail = OUT_OF_ORDER[what]
    (answer,) = sent(hostile, *parts)
    assert answer.refusal.code == "malformed-request"
    assert detail in answer.refusal.detail
    assert_answers(hostile)


def test_the_largest_plan_and_an_empty_adapter_are_read(hostile: Path) -> None:
    assert [part.head.size for part in sent(hostile, head(0, b" " * 2**16))] == [0]


PARTS = st.builds(head, st.integers(0, 12)) | st.builds(data, st.binary(max_size=6)) | st.builds(pb.TrainPart)


@given(st.lists(PARTS, max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_parts_are_a_release_or_a_refusal(hostile: Path, parts: list[pb.TrainPart]) -> None:
    first, *rest = sent(hostile, *parts)
    content = b"".join(part.data for part in parts)
    kinds = [part.WhichOneof("part") for part in parts]
    ordered = kinds[:1] == ["head"] and set(kinds[1:]) <= {"data"} and all(part.data for part in parts[1:])
    if ordered and parts[0].head.adapter_size == len(content):
        assert first.head.size == len(content)
        assert b"".join(part.data for part in rest) == content
    else:
        assert first.refusal.code == "malformed-request"
        assert rest == []


def test_a_piece_above_the_limit_of_a_message_is_turned_away(hostile: Path) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        sent(hostile, head(4 * CHUNK_BYTES), data(bytes(4 * CHUNK_BYTES)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_answers(hostile)


def raw(socket: Path, method: str, messages: Iterable[bytes]) -> tuple[list[bytes], grpc.StatusCode, str]:
    """Send messages of arbitrary bytes; returns the replies, the status code and its details."""
    with grpc.insecure_channel(grpc_address(socket)) as channel:
        call = channel.stream_stream(method)(iter(messages), timeout=LONG)
        try:
            return list(call), call.code(), call.details()
        except grpc.RpcError as error:
            return [], error.code(), error.details()


@given(st.sampled_from(["Train", "Describe", "Statement", "Other"]), st.lists(st.binary(max_size=40), max_size=3))
@settings(max_examples=60, deadline=None)
def test_messages_of_any_bytes_get_a_message_or_a_status_that_repeats_nothing(
    hostile: Path, method: str, messages: list[bytes]
) -> None:
    marked = [message + b"4711" for message in messages]
    replies, code, details = raw(hostile, f"/sotto.vault.v1.Vault/{method}", marked)
    assert replies or code is not grpc.StatusCode.OK
    assert "4711" not in details


def test_garbage_is_answered_with_a_status(hostile: Path) -> None:
    assert raw(hostile, "/sotto.vault.v1.Vault/Train", [b"\xff" * 9])[1] is grpc.StatusCode.INTERNAL
    assert raw(hostile, "/sotto.vault.v1.Vault/Erase", [b""])[1] is grpc.StatusCode.UNIMPLEMENTED
    assert_answers(hostile)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@given(st.binary(max_size=300), st.sampled_from([b"", PREFACE, PREFACE + b"\0\0\0\x04\0\0\0\0\0"]))
@settings(max_examples=60, deadline=None)
def test_any_bytes_on_the_socket_leave_it_answering(hostile: Path, content: bytes, before: bytes) -> None:
    with sockets.socket(sockets.AF_UNIX) as caller:
        caller.connect(str(hostile))
        try:
            caller.sendall(before + content)
        except OSError:  # the server may close the connection at once
            return
    with remote(hostile) as vault:
        assert vault.describe().organization == "echo"


def test_memory_follows_what_is_sent_and_not_what_is_announced(hostile: Path) -> None:
    """Four callers announce a gibibyte each, send one piece, and wait."""
    before = psutil.Process().memory_info().rss
    with grpc.insecure_channel(grpc_address(hostile)) as channel:
        stub: Any = stubs.VaultStub(channel)  # type: ignore[no-untyped-call]
        reached = []

        def waiting() -> Iterator[pb.TrainPart]:
            yield head(MOST_BYTES)
            yield data(bytes(CHUNK_BYTES))
            reached.append(1)
            wait_until(lambda: not calls[0].is_active(), "the end of the call")

        calls = [stub.Train(waiting(), timeout=LONG) for _ in range(4)]
        wait_until(lambda: len(reached) == 4, "four uploads")
        assert_answers(hostile)
        assert psutil.Process().memory_info().rss - before < 2**28
        for call in calls:
            call.cancel()
    wait_until(lambda: _is_idle(hostile), "the callers to be dropped")


def _is_idle(socket: Path) -> bool:
    try:
        assert_answers(socket)
    except Refused:
        return False
    return True


def modes(paths: Iterable[Path]) -> list[str]:
    return [f"{path.stat().st_mode & 0o777:o}" for path in paths]


def test_only_the_vaults_own_user_may_connect(tmp_path: Path) -> None:
    socket = tmp_path / "new" / "vault.sock"
    with served(Echo(), socket):
        assert modes([socket, socket.parent]) == ["600", "700"]
        assert socket.stat().st_uid == os.getuid()
    assert not socket.exists()


def test_a_group_may_connect_too_and_gets_as_far_as_the_socket(tmp_path: Path) -> None:
    number = next((number for number in os.getgroups() if number != os.getgid()), os.getgid())
    if os.getuid() == 0:
        number = grp.getgrnam("daemon").gr_gid
    group = grp.getgrgid(number).gr_name
    socket = tmp_path / "new" / "vault.sock"
    with served(Echo(), socket, group):
        assert modes([socket, socket.parent]) == ["660", "710"]
        assert {socket.stat().st_gid, socket.parent.stat().st_gid} == {number}
        with remote(socket) as vault:
            assert vault.describe().organization == "echo"


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o755)
    with served(Echo(), tmp_path / "own" / "vault.sock"):
        assert modes([tmp_path / "own"]) == ["755"]


def test_the_socket_of_a_killed_vault_is_replaced(socket: Path) -> None:
    code = f"import socket, os; socket.socket(socket.AF_UNIX).bind({str(socket)!r}); os._exit(9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert socket.is_socket()
    with served(Echo(), socket), remote(socket) as vault:
        assert vault.describe().organization == "echo"


def test_what_is_no_socket_is_left_alone(socket: Path, tmp_path: Path) -> None:
    socket.write_bytes(b"mine")
    with pytest.raises(InputError, match="exists and is not a socket; it should be a new path"):
        VaultServer(Echo(), socket)
    assert socket.read_bytes() == b"mine"
    with pytest.raises(InputError, match=r"vault\.socket = .* its folder cannot be created"):
        VaultServer(Echo(), socket / "below" / "vault.sock")
    with pytest.raises(InputError, match=r"vault\.socket = .* cannot be created"):
        VaultServer(Echo(), socket / "vault.sock")


def test_an_unknown_group_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    for group in ("no-such-group", "zero\0byte", ""):
        with pytest.raises(InputError, match="the system has no such group"):
            VaultServer(Echo(), tmp_path / "new" / "vault.sock", group)
    assert not (tmp_path / "new").exists()


def test_a_path_of_107_bytes_is_the_longest(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(tmp_path)) - 1
    if room < 1:
        pytest.skip(f"{tmp_path} is too long for a socket")
    longest = tmp_path / ("x" * room)
    with served(Echo(), longest), remote(longest) as vault:
        assert vault.describe().organization == "echo"
    with pytest.raises(InputError, match="108 bytes; the system allows 107"):
        VaultServer(Echo(), tmp_path / ("x" * (room + 1)))


def test_200_megabytes_pass_without_a_second_copy_on_either_side() -> None:
    script = ROOT / "benchmarks" / "socket_throughput.py"
    command = [sys.executable, str(script), "--megabytes", "200", "--runs", "2"]
    printed = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ).stdout
    print(printed)  # noqa: T201
    *_, caller, vault = printed.splitlines()[-1].split()
    assert 200 <= float(caller) < 2 * 200
    assert 200 <= float(vault) < 2 * 200
