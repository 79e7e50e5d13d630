"""Rounds with hostile or broken organizations: who is refused and why, and what becomes of the model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message

from common.adapter.adapter import Adapter, Shapes, from_bytes, initial, to_bytes
from common.errors import Refused, SottoError
from common.flower import codec
from common.plan.plan import Plan
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.settings import validate
from server.aggregation.optimizers import ServerState
from server.rounds.roster import Roster
from server.rounds.rounds import run_rounds
from server.rounds.strategy import LoraAveraging
from server.run_directory.run_directory import RunDirectory, RunInfo
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"
SHAPES: Shapes = {A: (4, 60), B: (60, 4)}
TRUTH = np.random.default_rng(0).normal(size=SHAPES[B])
NAMES = [f"org-{number}" for number in range(7)]


def honest(name: str, number: int) -> Adapter:
    """The truth and noise of about half its size, another one for each organization and round."""
    random = np.random.default_rng([NAMES.index(name), number])
    return {B: (TRUTH + random.normal(0, 0.5, TRUTH.shape)).astype(np.float32)}


Attack = Callable[[str, int], Adapter]


def sign_flip(name: str, number: int) -> Adapter:
    return {B: -10 * honest(name, number)[B]}


def large(name: str, number: int) -> Adapter:
    random = np.random.default_rng([NAMES.index(name), number])
    return {B: random.normal(0, 1000, TRUTH.shape).astype(np.float32)}


def nan(name: str, number: int) -> Adapter:
    return {B: np.where(TRUTH > 2, np.nan, TRUTH).astype(np.float32)}


class Organization:
    """Answers with an update that it makes up."""

    def __init__(self, name: str, update: Attack) -> None:
        self._name = name
        self._update = update

    def describe(self) -> Description:
        return Description(self._name, "example", 100)

    def train(self, request: TrainRequest) -> Release:
        return Release(to_bytes(self._update(self._name, request.round)))

    def statement(self, run: str) -> Statement:
        raise Refused("malformed-request", run)


def plan_of(**sections: Any) -> Plan:
    values: dict[str, Any] = {
        "name": "test",
        "model": {"base": "base"},
        "lora": {"rank": 4},
        "training": {"rounds": 3, "batch_size": 8},
        "federation": {"min_organizations": 3, "round_timeout": 5.0},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }
    return validate({**values, **sections}, Plan, "the test's plan")


def directory_of(path: Path, **sections: Any) -> RunDirectory:
    plan = plan_of(**sections)
    info = RunInfo("test-2026-11-22-1a2b3c4d", plan.digest(), "base", "cd" * 32, dict(SHAPES), private=True)
    return RunDirectory.create(path, info, plan, {B: np.zeros(SHAPES[B], np.float32)})


def run(path: Path, attack: Attack | None = None, hostile: int = 2, **aggregation: Any) -> RunDirectory:
    """A run in which the first so many of seven organizations are hostile; without an attack they are missing."""
    directory = directory_of(path, aggregation=aggregation)
    others = {place: Organization(name, honest) for place, name in enumerate(NAMES[hostile:], start=hostile + 1)}
    enemies = {place: Organization(name, attack) for place, name in enumerate(NAMES[:hostile], start=1) if attack}
    run_rounds(LocalGrid({**enemies, **others}), directory, None, Observer())
    assert not (directory.path / "updates").exists()
    return directory


def error(found: RunDirectory, wanted: RunDirectory) -> float:
    """Relative difference of the adapters after the last round."""
    one, other = (directory.latest_checkpoint()[1][B].astype(float) for directory in (found, wanted))
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


ATTACKS = {"sign flip × 10": sign_flip, "random of large norm": large, "nan": nan}
RULES = ["median", "trimmed-mean", "multi-krum"]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("screen", [True, False])
def test_with_two_hostile_of_seven_a_robust_run_stays_near_the_run_without_them(
    attack: str, rule: str, screen: bool, tmp_path: Path
) -> None:
    clean = run(tmp_path / "clean")
    poisoned = run(tmp_path / "run", ATTACKS[attack], robust=rule, byzantine=2, screen=screen)
    assert error(poisoned, clean) < 0.25


@pytest.mark.parametrize(("attack", "least"), [("sign flip × 10", 2.0), ("random of large norm", 20.0)])
def test_the_mean_without_a_screen_fails_under_the_same_attacks(attack: str, least: float, tmp_path: Path) -> None:
    """Else the test above would mean nothing."""
    clean = run(tmp_path / "clean")
    assert error(run(tmp_path / "run", ATTACKS[attack], screen=False), clean) > least
    assert error(run(tmp_path / "screened", ATTACKS[attack]), clean) < 1e-6, "the screen alone is enough for these"


def test_who_is_refused_and_why_stands_in_the_lines_of_the_rounds(tmp_path: Path) -> None:
    directory = run(tmp_path / "run", sign_flip)
    for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[1:]:
        said = json.loads(line)["organizations"]
        assert said["asked"] == NAMES
        assert said["answered"] == NAMES[2:]
        assert set(said["refused"]) == set(NAMES[:2])
        assert "times the median; at most 5 times is accepted" in said["refused"]["org-0"]
    assert len(directory.rounds()) == 4
    nans = run(tmp_path / "nan", nan, screen=False)
    assert "not finite" in nans.rounds()[1].organizations["refused"]["org-0"]


@pytest.mark.parametrize("method", ["svd", "stack"])
def test_rounds_that_average_products_need_no_full_mean(method: str, tmp_path: Path) -> None:
    """A trained A of each organization: after a round the server's product is the mean of theirs."""

    def both(name: str, number: int) -> Adapter:
        random = np.random.default_rng([NAMES.index(name), number])
        return {key: random.normal(0, 0.1, shape).astype(np.float32) for key, shape in SHAPES.items()}

    plan = plan_of(aggregation={"method": method, "screen": False}, training={"rounds": 1, "batch_size": 8})
    info = RunInfo("test-2026-11-22-1a2b3c4d", plan.digest(), "base", "cd" * 32, dict(SHAPES), private=True)
    start = initial(SHAPES, plan.lora.seed)
    directory = RunDirectory.create(tmp_path / "run", info, plan, start)
    everybody = {place: Organization(name, both) for place, name in enumerate(NAMES, start=1)}
    after = run_rounds(LocalGrid(everybody), directory, None, Observer())
    updates = [both(name, 1) for name in NAMES]
    wanted = sum((start[B] + update[B]) @ (start[A] + update[A]).astype(float) for update in updates) / 7
    u, weights, v = np.linalg.svd(wanted)
    np.testing.assert_allclose(after[B] @ after[A], (u[:, :4] * weights[:4]) @ v[:4], atol=1e-5)


# Nothing to average


def test_a_round_in_which_all_are_refused_ends_the_run_with_the_reasons_and_changes_nothing(
    tmp_path: Path,
) -> None:
    directory = directory_of(tmp_path / "run")
    everybody = {place: Organization(name, nan) for place, name in enumerate(NAMES, start=1)}
    with pytest.raises(SottoError, match=r"round 1: 0 organizations answered, the plan needs 3 \(org-0: .*finite"):
        run_rounds(LocalGrid(everybody), directory, None, Observer())
    assert directory.latest_checkpoint()[0] == 0
    assert not (directory.path / "updates").exists()
    # It can be run again with those who have been put right.
    good = {place: Organization(name, honest) for place, name in enumerate(NAMES, start=1)}
    run_rounds(LocalGrid(good), directory, None, Observer())
    assert directory.latest_checkpoint()[0] == 3


def test_a_run_does_not_begin_with_too_few_organizations_for_the_hostile_ones(tmp_path: Path) -> None:
    directory = directory_of(
        tmp_path / "run",
        aggregation={"robust": "multi-krum", "byzantine": 2},
        federation={"min_organizations": 2, "round_timeout": 0.3},
    )
    six = {place: Organization(name, honest) for place, name in enumerate(NAMES[:6], start=1)}
    with pytest.raises(SottoError, match="6 organizations are connected; the plan needs 7"):
        run_rounds(LocalGrid(six), directory, None, Observer())


def test_a_round_with_too_few_updates_for_the_hostile_ones_does_not_count(tmp_path: Path) -> None:
    """An organization that refuses is not hostile: two of the other six still may be."""

    def refuses(name: str, number: int) -> Adapter:
        raise Refused("busy", "training for another")

    directory = directory_of(tmp_path / "run", aggregation={"robust": "multi-krum", "byzantine": 2})
    everybody = {place: Organization(name, honest) for place, name in enumerate(NAMES, start=1)}
    everybody[1] = Organization(NAMES[0], refuses)
    with pytest.raises(SottoError, match=r"6 organizations answered, the plan needs 7 \(org-0: busy"):
        run_rounds(LocalGrid(everybody), directory, None, Observer())


# Answers that are none of this round


@pytest.fixture
def asked(tmp_path: Path) -> Iterable[tuple[LoraAveraging, dict[int, Message]]]:
    """A strategy that has asked three organizations in round 2, and its messages by node."""
    grid = LocalGrid({place: Organization(name, honest) for place, name in enumerate(NAMES[:3], start=1)})
    roster = Roster(grid)
    for _ in range(8):
        roster.refresh()
    strategy = LoraAveraging(directory_of(tmp_path / "run"), roster, ServerState(filled(0.0)))
    sent = strategy.configure_train(2, codec.adapter_record(filled(0.0)), ConfigRecord(), grid)
    return strategy, {message.metadata.dst_node_id: message for message in sent}


def reply_to(message: Message, update: Adapter) -> Message:
    reply = Message(codec.pack_release(Release(to_bytes(update))), reply_to=message)
    reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
    return reply


def filled(value: float) -> Adapter:
    return {B: np.full(SHAPES[B], value, np.float32)}


def test_an_answer_for_another_round_is_refused(asked: tuple[LoraAveraging, dict[int, Message]]) -> None:
    strategy, sent = asked
    stale = reply_to(sent[3], filled(1.0))
    stale.metadata.__dict__["_group_id"] = "1"
    others = [reply_to(sent[node], filled(1.0)) for node in (1, 2)]
    arrays, _ = strategy.aggregate_train(2, [stale, *others])
    assert arrays is None, "two are left, and three are needed"
    assert strategy.outcome.refused == {"org-2": "the answer is for another round than 2"}


def test_a_second_answer_of_one_organization_is_logged_and_does_not_count(
    asked: tuple[LoraAveraging, dict[int, Message]], caplog: pytest.LogCaptureFixture
) -> None:
    strategy, sent = asked
    replies = [reply_to(sent[node], filled(1.0)) for node in (1, 2, 3)]
    with caplog.at_level(logging.WARNING):
        arrays, _ = strategy.aggregate_train(2, [replies[0], reply_to(sent[1], filled(4.0)), *replies[1:]])
    assert arrays is not None
    assert (from_bytes(codec.array_bytes(arrays), {B: SHAPES[B]})[B] == 1.0).all()
    assert strategy.outcome.answered == NAMES[:3]
    assert "org-0 answered twice" in caplog.text
