"""A real vault on a real socket that meets damaged requests."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.channel import vault_pb2 as pb
from client.channel.framing import MESSAGE_LIMIT, grpc_address
from client.relay.vault_client import RemoteVault
from common.errors import Refused
from common.plan.plan import Plan
from common.protocol.protocol import REASONS, Description, TrainRequest
from common.settings import validate
from tests.client.vaults import open_vault, parts, request_for, served, write_organization
from tests.fuzz.hostile import MARK, ONE, TEXTS, damaged_bytes, damaged_json_text, messages
from tests.fuzz.test_fuzz_bytes import SPECIAL, container
from tests.fuzz.test_fuzz_texts import HEAD, compact, spelt
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
