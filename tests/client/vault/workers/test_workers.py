"""Worker processes: the same bits for any number of them, and after any of them dies."""

from __future__ import annotations

import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from client.vault.workers import pool as pools
from client.vault.workers.compute import Compute
from client.vault.workers.pool import WorkerPool
from client.vault.workers.server_handle import WorkerServerHandle
from common.errors import Refused
from common.plan.plan import Plan
from tests.client.vault.bench import RECORDS, Bench, Records, open_bench
from tests.common.tasks.bases import record
from tests.common.tasks.conftest import MakeTaskPlan, bases, task_plan  # noqa: F401 - fixtures
from tests.conftest import MakePlan

USERS: Records = [{**one, "user": number % 7} for number, one in enumerate(RECORDS)]
LONG = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[WorkerServerHandle]:
    handle = WorkerServerHandle()
    yield handle
    handle.close()


@pytest.fixture
def bench(server: WorkerServerHandle, tmp_path: Path, make_plan: MakePlan) -> Iterator[Callable[..., Bench]]:
    """Benches with so many workers, each with a ledger of its own."""
    made: list[Compute] = []

    def make(workers: int, plan: Plan | None = None, records: Records = RECORDS, **options: Any) -> Bench:
        made.append(Compute(workers, server=server))
        path = tmp_path / f"ledger-{len(made)}.db"
        return open_bench(path, plan or make_plan(), records, compute=made[-1], **options)

    yield make
    for compute in made:
        for pool in compute._pools.values():
            pool.close()


def children(server: WorkerServerHandle) -> list[psutil.Process]:
    assert server._process is not None
    return [one for one in psutil.Process(server._process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]


def on_answer(number: int, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Do something before the answer of this number is received; the list counts them."""
    original, seen = pools._answer, [0]

    def answer(connection: Any) -> Any:
        seen[0] += 1
        if seen[0] == number:
            do()
        return original(connection)

    monkeypatch.setattr(pools, "_answer", answer)
    return seen


def test_a_release_has_the_same_bits_for_any_number_of_workers(bench: Callable[..., Bench]) -> None:
    one = bench(1).update()
    assert one.any()
    assert (bench(2).update() == one).all()
    assert (bench(4).update() == one).all()


def test_users_of_several_examples_are_dealt_in_any_parts(
    bench: Callable[..., Bench], make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(privacy={"unit": "user", "records_per_user": 3}, training={"batch_size": 5})
    data = {"unit": "user", "user_field": "user", "public_size": 7}
    policy = {"max_delta": 5e-3}
    one = bench(1, plan, USERS, data=data, policy=policy).update()
    assert one.any()
    original = pools.portions

    def shuffled(*arguments: Any) -> list[Any]:
        units = [unit for part in original(*arguments) for unit in part]
        random.Random(1).shuffle(units)
        return [units[:1], units[1:4], units[4:]]

    monkeypatch.setattr(pools, "portions", shuffled)
    assert (bench(2, plan, USERS, data=data, policy=policy).update() == one).all()


def test_vectors_of_a_frozen_model_are_computed_by_workers(
    bench: Callable[..., Bench],
    task_plan: MakeTaskPlan,  # noqa: F811
) -> None:
    training = {"rounds": 2, "head_rounds": 1, "local_steps": 2, "batch_size": 8}
    plan = task_plan("classification", "encoder", training=training)
    records = [record(number) for number in range(30)]
    made = [bench(workers, plan, records) for workers in (1, 2)]
    head = {name: tensor for name, tensor in made[0].start.items() if name.startswith("head.")}
    updates = []
    for each in made:
        each.start = head
        updates.append(each.vault.train(each.request()).update)
    assert updates[0] == updates[1]


@pytest.mark.parametrize("number", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4)), 9])
def test_a_step_whose_worker_is_killed_is_done_again_and_nothing_counts_twice(
    bench: Callable[..., Bench],
    server: WorkerServerHandle,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = bench(1).update()
    subject = bench(2)
    subject.vault.train(subject.request(run="another"))  # the workers are there, and compared
    seen = on_answer(number, lambda: children(server)[number % 2].kill(), monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert (subject.update() == expected).all()
    assert seen[0] > number
    assert "a worker process ended (exit code -9" in caplog.text
    assert len(subject.ledger.spent()) == 2


@pytest.mark.slow
def test_the_process_that_workers_are_forked_from_may_die_too(
    bench: Callable[..., Bench], server: WorkerServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = bench(1).update()
    subject = bench(2)
    subject.vault.train(subject.request(run="another"))

    def end() -> None:
        for worker in children(server):
            worker.kill()
        assert server._process is not None
        server._process.kill()

    on_answer(5, end, monkeypatch)
    assert (subject.update() == expected).all()


def test_workers_that_die_each_time_fail_the_round_which_can_be_asked_for_again(
    bench: Callable[..., Bench], server: WorkerServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = bench(2)
    subject.vault.train(subject.request(run="another"))
    original = WorkerPool._deal

    def deal(self: WorkerPool, *arguments: Any) -> Any:
        children(server)[0].kill()
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "_deal", deal)
        with pytest.raises(Refused) as refusal:
            subject.vault.train(subject.request())
    assert refusal.value.code == "training-failed"
    assert len(subject.ledger.spent()) == 2, "the run is charged once"
    assert (subject.update() == bench(1).update()).all()


def test_after_an_error_in_one_worker_no_answer_of_another_is_taken_for_a_later_one(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = bench(2)
    subject.vault.train(subject.request(run="another"))
    original = pools.portions
    with monkeypatch.context() as patch:
        patch.setattr(pools, "portions", lambda *arguments: [[("no example",)], *original(*arguments)])
        with pytest.raises(Refused, match="round 1 of test-run"):
            subject.vault.train(subject.request())
    assert (subject.update() == bench(1).update()).all()


def test_workers_whose_gradients_differ_are_refused_before_any_spend(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = WorkerPool._ask_all

    def ask(self: WorkerPool, *request: Any) -> list[Any]:
        answers = original(self, *request)
        return [answers[0], "another digest"] if request[0] == "settle" else answers

    monkeypatch.setattr(WorkerPool, "_ask_all", ask)
    subject = bench(2)
    with pytest.raises(Refused, match="gradients of one worker are not those of another"):
        subject.vault.train(subject.request())
    assert subject.ledger.spent() == []


def test_more_workers_than_memory_holds_are_refused_with_the_number_that_fits(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed: list[int] = []
    original = WorkerPool._check_memory

    def check(self: WorkerPool, each: int) -> None:
        needed.append(each)
        monkeypatch.setattr(pools, "available_memory", lambda: each + 1)  # room for a second one
        original(self, each)

    monkeypatch.setattr(WorkerPool, "_check_memory", check)
    subject = bench(4)
    with pytest.raises(Refused, match=r"memory holds 2; vault.workers should be 2 or less"):
        subject.vault.train(subject.request())
    assert subject.ledger.spent() == []
    assert 2**20 < needed[0] < 2**30, "what one process of a tiny model takes for itself"


def test_without_a_number_as_many_workers_are_used_as_fit(
    bench: Callable[..., Bench], server: WorkerServerHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.vault.workers.compute.usable_cores", lambda: 4)
    monkeypatch.setattr(WorkerPool, "_check_memory", _only_two(WorkerPool._check_memory, monkeypatch))
    compute = Compute(None, server=server)
    one = bench(1)
    subject = bench(1)
    subject.vault._preparation._compute = compute
    assert (subject.update() == one.update()).all()
    (pool,) = compute._pools.values()
    assert pool.size == 2
    pool.close()


def _only_two(check: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def checked(self: WorkerPool, each: int) -> None:
        monkeypatch.setattr(pools, "available_memory", lambda: each)
        check(self, each)

    return checked


def test_a_worker_holds_no_record_ledger_key_or_network(
    bench: Callable[..., Bench], server: WorkerServerHandle, tmp_path: Path
) -> None:
    subject = bench(2)
    subject.update()
    workers = children(server)
    assert len(workers) >= 2
    assert server._process is not None
    for process in [psutil.Process(server._process.pid), *workers]:
        links = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert not [link for link in links if str(tmp_path) in link], "no file of the vault"
        if process in workers:
            assert {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in (0, 1, 2)} == {
                os.devnull
            }
        assert process.net_connections(kind="inet") == []
    # Interrupts from a terminal reach the vault's whole process group: the vault decides what ends.
    workers[0].send_signal(signal.SIGINT)
    subject.vault.train(subject.request(run="another"))
    assert workers[0].is_running()
