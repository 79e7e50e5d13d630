"""The order of answering: nothing of a record before the charge, and no answer, cost or time that follows one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import client.vault.records.units
from client.vault.training import dp_sgd, entropy, rows, rows_cache
from client.vault.training.entropy import Keystream
from common.errors import Refused
from common.protocol.protocol import TrainRequest
from simulations.entropy import SeededEntropy
from tests.client.vault.bench import BAD, RECORDS, Bench, MakeBench, Records, open_bench
from tests.conftest import MakePlan


class Watched(list[dict[str, Any]]):
    """Records that note what the ledger has charged whenever they are read."""

    def __init__(self, records: Records) -> None:
        super().__init__(records)
        self.charged: Callable[[], int] = int
        self.read: list[int] = []

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.read.append(self.charged())
        return super().__iter__()

    def __getitem__(self, place: Any) -> Any:
        self.read.append(self.charged())
        return super().__getitem__(place)


def refused_requests(bench: Bench) -> list[TrainRequest]:
    request = bench.request()
    return [
        *(dataclasses.replace(request, **values) for values in BAD.values()),
        dataclasses.replace(request, fingerprint="another"),
        dataclasses.replace(request, adapter=request.adapter[:-1]),
    ]


def test_no_record_is_read_before_the_run_is_charged(make_bench: MakeBench) -> None:
    watched = Watched(RECORDS)
    bench = make_bench(records=watched)
    watched.charged = lambda: len(bench.ledger.spent())
    for request in refused_requests(bench):
        with pytest.raises(Refused):
            bench.vault.train(request)
    assert watched.read == []
    bench.vault.train(bench.request())
    assert len(watched.read) >= len(RECORDS)
    assert set(watched.read) == {1}


def test_a_plan_whose_rows_differ_is_refused_before_the_charge(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_cache.RowsCache, "_known", {})
    monkeypatch.setattr(rows, "_agree", lambda *_: False)
    watched = Watched(RECORDS)
    bench = make_bench(records=watched)
    with pytest.raises(Refused, match=r"not-trainable.*tokens is not the same each time"):
        bench.vault.train(bench.request())
    assert (bench.ledger.spent(), watched.read) == ([], [])


class Panic(BaseException):
    """What a panic in Rust becomes: no Exception."""


ODD: dict[str, dict[str, Any]] = {
    "twelve million spaces": {"text": " " * 12_000_000 + "x"},
    "a long text": {"text": "parcel " * 140_000},
    "a text that the tokenizer panics at": {"text": "panic"},
    "a text that exhausts the memory": {"text": "memory"},
}
ERRORS = {"panic": Panic, "memory": MemoryError}


@pytest.mark.parametrize("odd", ODD.values(), ids=list(ODD))
def test_every_question_is_answered_alike_and_encodes_as_much_beside_an_odd_record(
    make_plan: MakePlan, tmp_path: Path, odd: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    encode = client.vault.records.units.encode_record

    def encoder(record: dict[str, Any], task: Any, transform: Any) -> Any:
        calls.append(record["text"][:6])
        error = ERRORS.get(record["text"])
        return encode(record, task, failing(error) if error else transform)

    def failing(error: type[BaseException]) -> Callable[[Any], Any]:
        def fail(_: Any) -> Any:
            raise error(odd["text"])

        return fail

    monkeypatch.setattr(client.vault.records.units, "encode_record", encoder)

    def answers(records: Records) -> list[tuple[Any, ...]]:
        bench = open_bench(tmp_path / f"{len(records)}.db", make_plan(), records)
        told: list[tuple[Any, ...]] = []
        for request in [*refused_requests(bench), bench.request(), bench.request(2), bench.request()]:
            calls.clear()
            try:
                answer: Any = len(bench.vault.train(request).update)
            except Refused as refusal:
                answer = refusal.code, refusal.detail
            told.append((answer, len(calls) - (len(records) if calls else 0), len(bench.ledger.spent())))
        return told

    usual = answers(RECORDS)
    assert answers([*RECORDS, odd]) == usual
    assert {encoded for _, encoded, _ in usual} == {0}, "all records once, or none"


# The time of an answer


class Slow(SeededEntropy):
    """Training that takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(3)
        self._seconds = seconds

    def stream(self, organization: str, run: str, round_number: int) -> Keystream:
        time.sleep(self._seconds)
        if self._seconds == 0.25:
            raise RuntimeError("training fails")
        return super().stream(organization, run, round_number)


def test_a_round_is_settled_at_its_time_whether_training_was_quick_slow_or_failed(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("client.vault.reply_time.time", clock)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    for seconds in (0.0, 0.25, 1.5, 9.0):
        bench = open_bench(
            tmp_path / f"{seconds}.db", make_plan(), RECORDS, entropy=Slow(seconds), vault={"reply_seconds": 9.0}
        )
        began = clock.now
        settled: list[float] = []
        settle = bench.ledger.settle

        def at(*values: Any, settle: Any = settle, settled: Any = settled) -> None:
            settled.append(clock.now)
            settle(*values)

        monkeypatch.setattr(bench.ledger, "settle", at)
        if seconds == 0.25:
            with pytest.raises(Refused, match="training-failed"):
                bench.vault.train(bench.request())
        else:
            bench.vault.train(bench.request())
            assert settled == [began + 9.0], "a statement shows the newest entry of the ledger"
        assert clock.now == began + 9.0


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_training_that_takes_longer_than_its_time_is_released_with_a_warning_at_home(
    make_plan: MakePlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = open_bench(tmp_path / "ledger.db", make_plan(), RECORDS, vault={"reply_seconds": 1e-6})
    bench.vault.train(bench.request())
    assert "longer than vault.reply_seconds = 1e-06: its time was visible" in caplog.text


# The keystream


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_step_uses_as_much_of_the_keystream_as_is_said(size: int) -> None:
    used = []

    class Counting(Keystream):
        def bytes(self, size: int) -> bytes:
            used.append((self, size))
            return super().bytes(size)

    stream = Counting(b"k" * 32)
    stream.branch()
    stream.branch()
    dp_sgd.add_noise(torch.zeros(size, dtype=torch.int64), 1.0, stream)
    assert sum(count for owner, count in used if owner is stream) == dp_sgd.noise_bytes(size)


def test_a_round_that_one_keystream_cannot_noise_is_refused_before_the_charge(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench()
    size = sum(shape[0] * shape[1] for shape in bench.model.trained_shapes.values())
    steps = bench.plan.training.local_steps
    for limit, fits in ((steps * dp_sgd.noise_bytes(size) - 1, False), (steps * dp_sgd.noise_bytes(size), True)):
        monkeypatch.setattr("client.vault.preparation.STREAM_LIMIT", limit)
        if fits:
            assert bench.vault.train(bench.request()).update
        else:
            with pytest.raises(Refused, match=rf"at most {steps - 1} steps a round are possible with {size} "):
                bench.vault.train(bench.request())
            assert bench.ledger.spent() == []
    assert entropy.STREAM_LIMIT == 2**32 * 64
