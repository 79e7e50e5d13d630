"""A relay that meets a damaged vault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.channel import vault_pb2 as pb
from client.channel.framing import CHUNK_BYTES, MESSAGE_LIMIT, grpc_address, split
from client.relay.vault_client import RemoteVault
from common.errors import Refused
from common.protocol.protocol import REASONS, Description, Release, TrainRequest
from common.protocol.statement import Statement
from tests.fuzz.hostile import ONE, TEXTS, damaged_bytes, damaged_json_text, messages
from tests.fuzz.test_fuzz_texts import HEAD, STATED, spelt
from tests.waiting import LONG


class Scripted(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers every call with the same bytes."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []

    def service(self, handler_call_details: Any) -> Any:
        def stream(sent: Iterator[bytes], context: Any) -> Iterator[bytes]:
            for _ in sent:
                pass
            yield from self.replies

        def single(sent: bytes, context: Any) -> bytes:
            return self.replies[0] if self.replies else b""

        if handler_call_details.method.endswith("Train"):
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(single)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scripted, RemoteVault]]:
    socket = tmp_path_factory.mktemp("hostile") / "vault.sock"
    handler = Scripted()
    server = grpc.server(ThreadPoolExecutor(2), options=MESSAGE_LIMIT)
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(grpc_address(socket))
    server.start()
    with RemoteVault(socket, LONG, 0.0) as vault:
        yield handler, vault
    server.stop(None).wait()


REQUEST = TrainRequest("r", 1, b"{}", "f", b"adapter")
UPDATE = bytes(range(256)) * 5


def good_release() -> list[pb.ReleasePart]:
    head = pb.ReleaseHead(size=len(UPDATE), ledger_head=HEAD.to_json())
    return [pb.ReleasePart(head=head), *(pb.ReleasePart(data=piece) for piece in split(UPDATE))]


@st.composite
def damaged_answers(draw: Callable[[Any], Any], kind: str) -> list[bytes]:
    refusal = pb.Refusal(
        code=draw(st.sampled_from(["budget", "no-such-code", "x" * 9999, "\x1b[2J"])),
        detail=draw(st.sampled_from(["why", "\x1b]0;title\x07\u202e", "x" * (CHUNK_BYTES // 2), "a\nb\0"])),
    )
    if kind == "describe":
        names = [text for text in TEXTS if text.isascii() or text.isprintable()]
        said = pb.Description(
            organization=draw(st.sampled_from([*names, "st-mary"])),
            unit=draw(st.sampled_from(["example", "user", "", "x" * 9999])),
            public_size=draw(st.sampled_from([0, 1, 40, 10**15, 10**15 + 1, 2**64 - 1])),
            max_rank=draw(st.sampled_from([0, 1, 1024, 1025, 2**32 - 1])),
        )
        whole = [pb.DescribeReply(description=said), pb.DescribeReply(refusal=refusal), pb.DescribeReply()]
    elif kind == "statement":
        text = draw(damaged_json_text(STATED.to_dict(), spelt)).encode("utf-8", "replace").decode()
        whole = [pb.StatementReply(statement=text), pb.StatementReply(refusal=refusal), pb.StatementReply()]
    else:
        release = good_release()
        heads = [
            pb.ReleasePart(head=pb.ReleaseHead(size=size, ledger_head=seen))
            for size, seen in ((2**64 - 1, ""), (3, ""), (len(UPDATE), "{}"), (len(UPDATE), HEAD.to_json() + " "))
        ]
        pool = [*release, *heads, pb.ReleasePart(), pb.ReleasePart(data=b""), pb.ReleasePart(refusal=refusal)]
        order = release if draw(st.booleans()) else draw(st.lists(st.sampled_from(pool), max_size=4))
        sent = [part.SerializeToString() for part in order]
        if sent and draw(st.booleans()):
            place = draw(ONE) % len(sent)
            sent[place] = draw(damaged_bytes([sent[place]]))
        return sent
    sent = [whole[draw(ONE) % 3].SerializeToString()]
    return [draw(damaged_bytes(sent))] if draw(st.booleans()) else sent


@messages(300, slow=4)
@given(data=st.data(), kind=st.sampled_from(["describe", "train", "statement"]))
def test_a_damaged_vault_is_no_vault_to_its_relay(
    scripted: tuple[Scripted, RemoteVault], data: st.DataObject, kind: str
) -> None:
    handler, vault = scripted
    handler.replies = data.draw(damaged_answers(kind))
    ask: dict[str, Callable[[], Any]] = {
        "describe": vault.describe,
        "train": lambda: vault.train(REQUEST),
        "statement": lambda: vault.statement("r"),
    }
    try:
        said = ask[kind]()
    except Refused as refusal:
        assert refusal.code in REASONS
        assert refusal.detail.isprintable()
        assert len(refusal.detail) <= 500
        return
    if isinstance(said, Release):
        head, *rest = (pb.ReleasePart.FromString(part) for part in handler.replies)
        assert said.update == b"".join(part.data for part in rest)
        assert len(said.update) == head.head.size
        assert (said.head.to_json() if said.head else "") == head.head.ledger_head
    elif isinstance(said, Description):
        assert Description.from_json(said.to_json()) == said
    else:
        assert Statement.from_json(said.to_json()) == said


ORDERS: dict[str, Callable[[pb.ReleasePart, pb.ReleasePart], list[pb.ReleasePart]]] = {
    "two heads": lambda head, data: [head, head, data],
    "a head after the data": lambda head, data: [head, data, head, data],
    "data before the head": lambda head, data: [data, head, data],
    "an empty piece": lambda head, data: [head, pb.ReleasePart(data=b""), data],
    "an empty part": lambda head, data: [head, pb.ReleasePart(), data],
    "a refusal after the data": lambda head, data: [head, data, pb.ReleasePart(refusal=pb.Refusal(code="busy"))],
    "data twice": lambda head, data: [head, data, data],
    "nothing": lambda head, data: [],
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_release_out_of_order_is_none(scripted: tuple[Scripted, RemoteVault], order: str) -> None:
    handler, vault = scripted
    handler.replies = [part.SerializeToString() for part in good_release()]
    assert vault.train(REQUEST) == Release(UPDATE, HEAD)
    handler.replies = [part.SerializeToString() for part in ORDERS[order](*good_release())]
    with pytest.raises(Refused):
        vault.train(REQUEST)
