"""A real vault on a real socket that meets damaged requests, and a relay that meets a damaged vault."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.channel import vault_pb2 as pb
from client.channel.framing import MESSAGE_LIMIT, PIECE_BYTES, grpc_address, split
from client.relay.vault_client import RemoteVault
from common.errors import Refused
from common.plan.plan import Plan
from common.protocol.protocol import REASONS, Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.settings import validate
from tests.client.vaults import open_vault, parts, request_for, served, write_organization
from tests.fuzz.hostile import MARK, ONE, TEXTS, damaged_bytes, damaged_json_text, messages
from tests.fuzz.test_fuzz_bytes import SPECIAL, container
from tests.fuzz.test_fuzz_texts import HEAD, STATED, compact, spelt
from tests.waiting import LONG

SERVICE = "/sotto.vault.v1.Vault/"
RUN = "test-run"
# Stands in every private record and in no message: nothing that leaves may hold it.
SECRET = "secret-4711"


@dataclasses.dataclass
class Target:
    """A vault whose budget is spent: whatever is asked now, its ledger has to stay as it is.

    Attributes:
        stored: each round's request and its release.
    """

    socket: Path
    ledger: Path
    stored: list[tuple[TrainRequest, bytes]]
    channel: grpc.Channel
    before: str

    def ledger_text(self) -> str:
        """Everything that the ledger holds."""
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as database:
            return "\n".join(database.iterdump())

    def asked(self, method: str, sent: Iterable[bytes]) -> tuple[list[bytes], grpc.StatusCode, str]:
        """What comes back for messages of any bytes."""
        call = self.channel.stream_stream(SERVICE + method)(iter(sent), timeout=LONG)
        try:
            replies = list(call)
        except grpc.RpcError as error:
            return [], error.code(), error.details()
        return replies, call.code(), call.details()

    def assert_unharmed(self) -> None:
        """The ledger is as it was, and a good request gets the right bytes."""
        assert self.ledger_text() == self.before
        with RemoteVault(self.socket, LONG, LONG) as vault:
            assert vault.describe() == Description("st-mary", "example", 40)
            for request, update in self.stored:
                assert vault.train(request).update == update
            assert vault.statement(RUN).run == RUN


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    path = write_organization(folder, tiny_base)
    records = [{"text": f"{SECRET} {number}", "patient": f"{SECRET}-{number}"} for number in range(30)]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    path.write_text(path.read_text().replace("max_epsilon = 20.0", "max_epsilon = 8.0"))
    plan = validate(
        {
            "name": "test",
            "model": {"base": str(tiny_base)},
            "task": {"max_length": 32},
            "lora": {"rank": 2, "alpha": 4.0},
            "training": {"rounds": 2, "local_steps": 1, "batch_size": 8, "learning_rate": 0.01},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
        },
        Plan,
        "the test's plan",
    )
    vault = open_vault(path)
    requests = [request_for(plan, number, RUN) for number in (1, 2)]
    stored = [(request, vault.train(request).update) for request in requests]
    socket = folder / "vault.sock"
    with served(vault, socket), grpc.insecure_channel(grpc_address(socket), options=MESSAGE_LIMIT) as channel:
        made = Target(socket, folder / "ledger.db", stored, channel, "")
        made.before = made.ledger_text()
        yield made
        made.assert_unharmed()


def damaged_heads(draw: Callable[[Any], Any], request: TrainRequest) -> dict[str, Any]:
    """The fields of a request's head, of which one is as it should not be."""
    head: dict[str, Any] = {
        "run": request.run,
        "round": request.round,
        "plan": request.plan,
        "fingerprint": request.fingerprint,
        "adapter_size": len(request.adapter),
    }
    texts = [text for text in TEXTS if text.isascii() or text.isprintable()]
    kind = draw(st.integers(0, 6))
    if kind == 0:
        head["run"] = draw(st.sampled_from([*texts, RUN + "x", "x" * 80, "x" * 81]))
    elif kind == 1:
        head["round"] = draw(st.sampled_from([0, 3, 7, 2**31, 2**32 - 1]))
    elif kind == 2:
        agreement = json.loads(request.plan)
        text = draw(damaged_json_text({**agreement, "model": {**agreement["model"]}}, compact))
        head["plan"] = text.encode("utf-8", "surrogatepass")
    elif kind == 3:
        base = draw(
            st.sampled_from(["../models", "/etc", "vault.sock", "records.jsonl", "keys", ".", MARK, "a\0b"])
        )
        head["plan"] = compact({**json.loads(request.plan), "model": {"base": base, "dtype": "float32"}}).encode()
    elif kind == 4:
        head["fingerprint"] = draw(st.sampled_from([*texts, "0" * 64]))
    elif kind == 5:
        head["adapter_size"] = draw(st.sampled_from([0, 1, len(request.adapter) + 1, 2**30, 2**30 + 1, 2**64 - 1]))
    else:
        seen = draw(damaged_json_text(json.loads(HEAD.to_json()), spelt) | st.just(HEAD.to_json()))
        head["seen"] = seen.encode("utf-8", "replace").decode()
    return head


def damaged_tensors(draw: Callable[[Any], Any], adapter: bytes) -> bytes:
    """An adapter with a value that is not finite, a changed header, or changed bytes."""
    length = int.from_bytes(adapter[:8], "little")
    kind = draw(st.integers(0, 2))
    if kind == 0:
        header = draw(damaged_json_text(json.loads(adapter[8 : 8 + length])))
        return container(header, adapter[8 + length :])
    if kind == 1:
        place = 8 + length + 4 * (draw(ONE) % ((len(adapter) - 8 - length) // 4))
        return adapter[:place] + np.float32(SPECIAL[draw(ONE) % 3]).tobytes() + adapter[place + 4 :]
    return draw(damaged_bytes([adapter]))


@st.composite
def damaged_requests(draw: Callable[[Any], Any], target: Target) -> tuple[str, list[bytes]]:
    """A method, and the bytes of the messages that it is sent."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        method = draw(st.sampled_from(["Train", "Describe", "Statement", "Other"]))
        return method, draw(st.lists(st.binary(max_size=40), max_size=3))
    if kind == 1:
        run = draw(st.sampled_from([text for text in TEXTS if text.isascii()] + [RUN + " ", MARK]))
        whole = pb.StatementRequest(run=run).SerializeToString()
        return "Statement", [draw(damaged_bytes([whole])) if draw(st.booleans()) else whole]
    request = target.stored[draw(st.integers(0, 1))][0]
    if kind <= 5:
        head = pb.TrainPart(head=pb.TrainHead(**damaged_heads(draw, request)))
        return "Train", [part.SerializeToString() for part in (head, *list(parts(request))[1:])]
    if kind <= 7:
        adapter = damaged_tensors(draw, request.adapter)
        return "Train", [part.SerializeToString() for part in parts(dataclasses.replace(request, adapter=adapter))]
    whole = [part.SerializeToString() for part in parts(request)]
    if kind == 8:
        place = draw(ONE) % len(whole)
        whole[place] = draw(damaged_bytes([whole[place], pb.StatementRequest(run=RUN).SerializeToString()]))
        return "Train", whole
    order = draw(st.lists(st.sampled_from([*whole, b""]), max_size=4))
    return "Train", order


def request_of(sent: list[bytes]) -> TrainRequest:
    """What was asked, read without the program: of a release it has to be a request that was stored."""
    head, *rest = (pb.TrainPart.FromString(part) for part in sent)
    content = b"".join(part.data for part in rest)
    return TrainRequest(head.head.run, head.head.round, head.head.plan, head.head.fingerprint, content)


@messages(350, slow=4)
@given(data=st.data())
def test_a_vault_that_gets_damaged_requests_answers_none_and_spends_nothing(
    target: Target, data: st.DataObject
) -> None:
    method, sent = data.draw(damaged_requests(target))
    replies, code, details = target.asked(method, sent)
    assert SECRET.encode() not in b"".join(replies)
    assert SECRET not in details
    if method == "Train" and code is grpc.StatusCode.OK and replies:
        first = pb.ReleasePart.FromString(replies[0])
        if first.WhichOneof("part") == "refusal":
            assert first.refusal.code in REASONS
            assert len(first.refusal.detail) <= 500
            assert len(replies) == 1
        else:
            released = b"".join(pb.ReleasePart.FromString(reply).data for reply in replies[1:])
            assert (request_of(sent), released) in target.stored
    assert target.ledger_text() == target.before
    if data.draw(st.integers(0, 49)) == 0:
        target.assert_unharmed()


def test_replays_under_another_run_or_with_a_forged_head_cost_nothing(target: Target) -> None:
    request, update = target.stored[0]
    changed = {
        "budget": dataclasses.replace(request, run="another-run"),
        "round-conflict": dataclasses.replace(request, adapter=target.stored[1][0].adapter + b"x"),
        "model-differs": dataclasses.replace(request, run="another-run", fingerprint="0" * 64),
        "malformed-request": dataclasses.replace(request, seen=HEAD),
        "model-not-allowed": dataclasses.replace(
            request, run="x", plan=request.plan.replace(b'"base":"/', b'"base":"/../')
        ),
    }
    with RemoteVault(target.socket, LONG, LONG) as vault:
        for code, hostile in changed.items():
            with pytest.raises(Refused) as caught:
                vault.train(hostile)
            assert caught.value.code == code
    target.assert_unharmed()
    assert update


# A hostile vault


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
        detail=draw(st.sampled_from(["why", "\x1b]0;title\x07\u202e", "x" * (PIECE_BYTES // 2), "a\nb\0"])),
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
