"""Whatever the records are, every answer has the same size and every refusal the same words.

A vault is asked the same questions over one set of records and over another: a record more or less, or an odd one.
For `unit = "user"` see test_vault_users.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from client.channel import vault_pb2 as pb
from client.channel import vault_pb2_grpc as stubs
from client.channel.framing import grpc_address
from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.preparation import ModelLoader
from client.vault.training.entropy import Entropy, Keystream
from client.vault.vault import Vault
from common.adapter import adapter
from common.errors import Refused
from common.flower.codec import pack_description, pack_refusal, pack_release, pack_statement, payload_size
from common.keys.statement_key import StatementKey
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from common.protocol.statement import Head, head_text
from common.settings import validate
from simulations.entropy import SeededEntropy
from tests.client.vault.bench import BAD, RECORDS
from tests.client.vaults import parts, served
from tests.waiting import LONG

Records = list[dict[str, Any]]
Answers = dict[str, Any]

KEY = StatementKey.generate()
OTHERS: dict[str, Records] = {
    "one less": RECORDS[:-1],
    "one more": [*RECORDS, {"text": "Customer: and mine?\nAgent: tomorrow."}],
    "one twice": [*RECORDS, RECORDS[0]],
    "an empty one": [*RECORDS, {"text": ""}],
    "one of spaces": [*RECORDS, {"text": " \n "}],
    "a null": [*RECORDS, {"text": None}],
    "no field at all": [*RECORDS, {}],
    "another field": [*RECORDS, {"other": 1}],
    "more fields": [*RECORDS, {"text": "yes", "name": "Ada", "tags": ["a"]}],
    "a number": [*RECORDS, {"text": 7.5}],
    "an endless number": [*RECORDS, {"text": 10**5000}],
    "a list": [*RECORDS, {"text": ["no", "text"]}],
    "a very long one": [*RECORDS, {"text": "x" * 5000}],
    "half a surrogate pair": [*RECORDS, {"text": "\ud800 broken"}],
    "special tokens": [*RECORDS, {"text": "<|endoftext|></s>\0{text}"}],
    "none": [],
}


def make_plan(base: Path, **sections: dict[str, Any]) -> Plan:
    values: dict[str, Any] = {
        "name": "test",
        "model": {"base": str(base)},
        "task": {"max_length": 32},
        "lora": {"rank": 2, "alpha": 4.0},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 8},
        "privacy": {"epsilon": 8.0, "delta": 1e-3},
    }
    for name, section in sections.items():
        values[name] = {**values[name], **section}
    return validate(values, Plan, "the test's plan")


REFUSED_PLANS: dict[str, dict[str, Any]] = {
    "epsilon": {"privacy": {"epsilon": 8.5}},
    "tiny epsilon": {"privacy": {"epsilon": 0.001}},
    "delta": {"privacy": {"delta": 0.026}},
    "batch": {"training": {"batch_size": 41}},
    "unit": {"privacy": {"unit": "user", "records_per_user": 2}},
    "rounds": {"training": {"rounds": 6}},
    "steps": {"training": {"local_steps": 11}},
    "another base": {"model": {"base": "../../etc"}},
    "a base that is not there": {"model": {"base": "gone"}},
    "a layer that is not there": {"lora": {"target_modules": ["none"]}},
    "longer than the base can read": {"task": {"max_length": 64}},
}


class Fails:
    """A failure in the middle of training, whose text holds a record."""

    def stream(self, organization: str, run: str, round_number: int) -> Keystream:
        raise RuntimeError(RECORDS[-1]["text"])


class Stale(LoraModel):
    """Trains copies of its tensors: no step would change the model."""

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        real = super().trained_parameters()
        return {name: torch.nn.Parameter(tensor.detach().clone()) for name, tensor in real.items()}


@dataclasses.dataclass
class Asked:
    """A vault, asked directly and on its socket."""

    vault: Vault
    stub: Any

    def train(self, request: TrainRequest) -> Any:
        """All that can be told from the answer: a refusal's bytes, a release's sizes."""
        told = [_visible(part) for part in self.stub.Train(_parts(request), timeout=LONG)]
        try:
            release = self.vault.train(request)
        except Refused as refusal:
            return refusal.code, refusal.detail, told, payload_size(pack_refusal(refusal))
        assert release.head is not None
        return "release", release.head.number, told, payload_size(pack_release(release))

    def statement(self, run: str) -> Any:
        """All that a statement says but for what each ledger has of its own, and the size of the whole."""
        reply = self.stub.Statement(pb.StatementRequest(run=run), timeout=LONG)
        try:
            statement = self.vault.statement(run)
        except Refused as refusal:
            return refusal.code, refusal.detail, reply.SerializeToString()
        said = json.loads(reply.statement)
        assert said.keys() == statement.to_dict().keys()
        for own in ("digest", "data_set", "signature"):
            del said["head"][own]
        del said["signature"]
        return said, reply.ByteSize(), payload_size(pack_statement(statement))

    def describe(self) -> Any:
        reply = self.stub.Describe(pb.DescribeRequest(), timeout=LONG)
        return self.vault.describe(), reply.SerializeToString(), pack_description(self.vault.describe())


def _visible(part: pb.ReleasePart) -> Any:
    if part.WhichOneof("part") == "refusal":
        return part.SerializeToString()
    return part.WhichOneof("part"), part.ByteSize()


def _parts(request: TrainRequest) -> Iterator[pb.TrainPart]:
    for part in parts(request):
        if part.WhichOneof("part") == "head":
            part.head.seen = head_text(request.seen)
        yield part


class Questions:
    """Asks vaults over different records the same questions.

    Args:
        base: of the plans.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._plan = make_plan(base)
        self._model = LoraModel(str(base), self._plan)
        self._stale = Stale(str(base), self._plan)
        self._start = adapter.initial(self._model.trained_shapes, 0)

    def request(self, number: int = 1, run: str = "one", plan: Plan | None = None) -> TrainRequest:
        start = adapter.to_bytes(self._start)
        return TrainRequest(run, number, (plan or self._plan).canonical(), self._model.fingerprint, start)

    def answers(self, records: Records, folder: Path) -> Answers:
        """What vaults over these records answer, by what they were asked."""
        folder.mkdir()
        said: Answers = {}

        def ask(
            kind: str,
            questions: Callable[[Asked], Iterator[tuple[str, Any]]],
            load: ModelLoader = self._load,
            entropy: Entropy | None = None,
            **policy: Any,
        ) -> None:
            ledger = Ledger(folder / f"{kind}.db", "st-mary", "example", KEY)
            policy = {"approvals": str(folder / "approved-plans.txt"), **policy}
            vault = Vault(self._organization(policy), records, ledger, load, entropy or SeededEntropy(3), "test")
            socket = folder / f"{kind}.sock"
            with served(vault, socket), grpc.insecure_channel(grpc_address(socket)) as channel:
                asked = Asked(vault, stubs.VaultStub(channel))  # type: ignore[no-untyped-call]
                said.update({f"{kind}: {question}": answer for question, answer in questions(asked)})
                said[f"{kind}: spent"] = ledger.spent()
            ledger.close()

        ask("usual", self._questions)
        ask("approved", self._only_train, plans="approved")
        ask("other tasks", self._only_train, tasks=["classification"])
        ask("not trainable", self._only_train, load=lambda _f, _p: self._stale)
        ask("training fails", self._only_train, entropy=Fails())
        return said

    def _load(self, folder: str, plan: Plan) -> LoraModel:
        return self._model if plan == self._plan else LoraModel(folder, plan)

    def _organization(self, policy: dict[str, Any]) -> Organization:
        base = str(self._base)
        values = {
            "name": "st-mary",
            "data": {"train": "records.jsonl", "public_size": 40},
            "models": {base: base, "gone": "/no/such/folder"},
            "policy": {
                "max_epsilon": 20.0,
                "max_epsilon_per_run": 8.0,
                "max_delta": 5e-3,
                "max_rounds": 5,
                "max_steps": 20,
                "plans": "any-within-policy",
                **policy,
            },
        }
        return validate(values, Organization, "test")

    def _only_train(self, asked: Asked) -> Iterator[tuple[str, Any]]:
        yield "train", asked.train(self.request())
        yield "statement", asked.statement("one")

    def _questions(self, asked: Asked) -> Iterator[tuple[str, Any]]:
        yield "describe", asked.describe()
        for what, values in BAD.items():
            yield what, asked.train(dataclasses.replace(self.request(), **values))
        for what, sections in REFUSED_PLANS.items():
            yield what, asked.train(self.request(plan=make_plan(self._base, **sections)))
        poisoned = {name: np.full_like(tensor, np.nan) for name, tensor in self._start.items()}
        yield "nan", asked.train(dataclasses.replace(self.request(), adapter=adapter.to_bytes(poisoned)))
        yield "statement before", asked.statement("one")
        yield "round 1", asked.train(self.request())
        yield "round 1 again", asked.train(self.request())
        moved = {name: tensor + np.float32(1.0) for name, tensor in self._start.items()}
        changed = dataclasses.replace(self.request(), adapter=adapter.to_bytes(moved))
        yield "round 1 with another adapter", asked.train(changed)
        other = make_plan(self._base, training={"learning_rate": 0.5})
        yield "round 2 of another plan", asked.train(self.request(2, plan=other))
        yield "round 2", asked.train(self.request(2))
        yield "statement", asked.statement("one")
        yield "a second run", asked.train(self.request(run="two"))
        yield "a third run", asked.train(self.request(run="three"))
        for what, key in {"a later head": KEY, "a forged head": StatementKey.generate()}.items():
            head = Head("00" * 16, 99, "00" * 32, "")
            head = dataclasses.replace(head, signature=key.sign(head.signed_bytes()))
            yield what, asked.train(dataclasses.replace(self.request(run="two"), seen=head))
        yield "statement after", asked.statement("two")


@pytest.fixture(scope="module")
def bench(tiny_base: Path) -> Questions:
    return Questions(tiny_base)


@pytest.fixture(scope="module")
def expected(bench: Questions, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What is answered over the usual records."""
    return bench.answers(RECORDS, tmp_path_factory.mktemp("usual") / "vault")


def test_every_reason_is_among_the_answers_that_are_compared(expected: Answers) -> None:
    codes = {answer[0] for answer in expected.values() if isinstance(answer, tuple) and isinstance(answer[0], str)}
    assert codes == {
        "release", "malformed-request", "model-not-allowed", "model-differs", "plan-changed", "policy", "budget",
        "ledger-behind", "plan-not-approved", "round-conflict", "not-trainable", "training-failed",
    }  # fmt: skip
    for what, code in {
        "usual: round 1": "release",
        "usual: round 2": "release",
        "usual: a second run": "release",
        "usual: a third run": "budget",
        "usual: round 1 with another adapter": "round-conflict",
        "usual: round 2 of another plan": "plan-changed",
        "usual: a later head": "ledger-behind",
        "usual: a forged head": "malformed-request",
        "usual: another base": "model-not-allowed",
        "approved: train": "plan-not-approved",
        "not trainable: train": "not-trainable",
        "training fails: train": "training-failed",
    }.items():
        assert expected[what][0] == code, what
    assert {expected[f"usual: {what}"][0] for what in REFUSED_PLANS} == {"policy", "model-not-allowed"}


@pytest.mark.parametrize("records", OTHERS.values(), ids=list(OTHERS))
def test_every_answer_is_the_same_whatever_the_records_are(
    bench: Questions, expected: Answers, records: Records, tmp_path: Path
) -> None:
    said = bench.answers(records, tmp_path / "vault")
    assert said.keys() == expected.keys()
    for what, answer in said.items():
        assert answer == expected[what], what
