"""Rounds whose tensors travel in fewer bits: what is asked, what the coordinator keeps, and what it counted."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from common.adapter.adapter import Adapter, from_bytes, initial, is_lora, to_bytes, to_wire
from common.adapter.compression import NumberFormat
from common.adapter.rounding import PublicUniforms
from common.errors import Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.report.page import render_page
from common.report.report import build_report
from common.run.round_line import RoundLine
from common.run.traffic import traffic
from server.rounds.rounds import run_rounds
from server.run.start import start_run
from server.run_directory.run_directory import RunDirectory
from server.run_directory.summary import run_summary
from server.tracking.observer import Observer
from server.tracking.summary import print_summary
from simulations.local_grid import LocalGrid
from tests.common.report.sample_run import PLAN, RUN, statement
from tests.common.tasks.bases import LABELS, save_base
from tests.conftest import MakePlan
from tests.server.run_directory.sample_directory import make_run

FEWER: list[NumberFormat] = ["bfloat16", "int8", "int4"]


class Scripted:
    """Answers each request with an update that has one value everywhere, in some format."""

    def __init__(self, name: str, value: float, shapes: Any, number_format: NumberFormat = "float32") -> None:
        self._name, self._value, self._shapes, self._format = name, value, shapes, number_format
        self.requests: list[TrainRequest] = []

    def describe(self) -> Description:
        return Description(self._name, "example", 100)

    def train(self, request: TrainRequest) -> Release:
        self.requests.append(request)
        update = {name: np.full(shape, self._value, np.float32) for name, shape in self._shapes.items()}
        return Release(to_wire(update, self._format, PublicUniforms(self._name, request.round)))

    def statement(self, run: str) -> Statement:
        raise Refused("malformed-request", run)


@pytest.fixture
def start(make_plan: MakePlan, tmp_path: Path) -> Callable[..., RunDirectory]:
    def make(**sections: Any) -> RunDirectory:
        plan = make_plan(**{"aggregation": {"method": "fedavg"}, **sections})
        return start_run(plan, tmp_path / "run", private=True, model=LoraModel(plan.model.base, plan))

    return make


def run(directory: RunDirectory, *participants: Scripted) -> Adapter:
    return run_rounds(LocalGrid(dict(enumerate(participants, start=1))), directory, None, Observer())


def first(directory: RunDirectory) -> Adapter:
    return initial(directory.trained_shapes, 0)


@pytest.mark.parametrize("form", FEWER)
def test_a_request_is_the_same_for_all_and_when_the_round_is_run_again(
    start: Callable[..., RunDirectory], form: NumberFormat
) -> None:
    directory = start(wire={"adapter": form})
    shapes = directory.trained_shapes
    a, b = (Scripted(name, 0.1, shapes) for name in "ab")
    run(directory, a, b)
    assert [request.digest() for request in a.requests] == [request.digest() for request in b.requests]
    # The coordinator died before the second round counted.
    shutil.rmtree(directory.path / "checkpoints" / "round-0002")
    again = Scripted("a", 0.1, shapes)
    run(RunDirectory.open(directory.path), again, Scripted("b", 0.1, shapes))
    assert again.requests == a.requests[1:]


@pytest.mark.parametrize("form", FEWER)
def test_what_is_sent_is_the_adapter_within_a_step_and_rounded_anew_in_each_round(
    start: Callable[..., RunDirectory], form: NumberFormat
) -> None:
    directory = start(wire={"adapter": form})
    shapes = directory.trained_shapes
    a = Scripted("a", 0.0, shapes)
    run(directory, a, Scripted("b", 0.0, shapes))
    sent = [from_bytes(request.adapter, shapes, form) for request in a.requests]
    for name, tensor in first(directory).items():
        step = np.abs(tensor).max() / {"bfloat16": 127, "int8": 127, "int4": 7}[form]
        assert all((np.abs(one[name] - tensor) <= step * (1 + 1e-6)).all() for one in sent)
    assert any((sent[0][name] != sent[1][name]).any() for name in shapes)


@pytest.mark.parametrize("form", FEWER)
def test_errors_of_the_rounding_do_not_add_up(start: Callable[..., RunDirectory], form: NumberFormat) -> None:
    """Nobody changes anything in ten rounds: the coordinator's adapter is the one that it began with."""
    directory = start(wire={"adapter": form}, training={"rounds": 10})
    shapes = directory.trained_shapes
    after = run(directory, Scripted("a", 0.0, shapes), Scripted("b", 0.0, shapes))
    assert to_bytes(after) == to_bytes(first(directory))


def test_updates_far_below_a_step_of_what_is_sent_are_not_lost(start: Callable[..., RunDirectory]) -> None:
    directory = start(wire={"adapter": "int4"}, training={"rounds": 8})
    shapes = directory.trained_shapes
    after = run(directory, Scripted("a", 1e-4, shapes), Scripted("b", 3e-4, shapes))
    for name, tensor in first(directory).items():
        assert after[name] - tensor == pytest.approx(8 * 2e-4, rel=1e-3)


@pytest.mark.parametrize("form", FEWER)
def test_updates_in_the_plans_format_are_averaged_and_others_refused_by_name(
    start: Callable[..., RunDirectory], form: NumberFormat
) -> None:
    directory = start(wire={"update": form})
    shapes = directory.trained_shapes
    # One value everywhere is the end of each scale, or a bfloat16: nothing is rounded.
    right = [Scripted(name, value, shapes, form) for name, value in (("a", 0.25), ("b", 0.75))]
    other: list[NumberFormat] = [one for one in ["float32", *FEWER] if one != form]
    wrong = [Scripted(f"wrong-{one}", 5.0, shapes, one) for one in other]
    after = run(directory, *right, *wrong)
    for name, tensor in first(directory).items():
        assert after[name] - tensor == pytest.approx(2 * 0.5, rel=1e-5)
    for line in directory.rounds()[1:]:
        assert line.organizations["answered"] == ["a", "b"]
        assert set(line.organizations["refused"]) == {f"wrong-{one}" for one in other}


def test_a_plan_without_the_section_sends_the_bytes_of_float32(start: Callable[..., RunDirectory]) -> None:
    directory = start()
    a = Scripted("a", 0.5, directory.trained_shapes)
    run(directory, a, Scripted("b", 0.5, directory.trained_shapes))
    assert a.requests[0].adapter == to_bytes(first(directory))
    assert b"wire" not in a.requests[0].plan


def test_a_round_of_the_head_alone_asks_for_the_head_alone(
    start: Callable[..., RunDirectory], tmp_path: Path
) -> None:
    directory = start(
        model={"base": str(save_base("encoder", tmp_path / "base"))},
        task={"kind": "classification", "max_length": 32, "labels": LABELS},
        training={"rounds": 2, "head_rounds": 1},
    )
    shapes = directory.trained_shapes
    head = {name: shape for name, shape in shapes.items() if not is_lora(name)}

    class Obedient(Scripted):
        def train(self, request: TrainRequest) -> Release:
            self._shapes = head if request.round == 1 else shapes
            return super().train(request)

    a = Obedient("a", 0.5, head)
    after = run(directory, a, Obedient("b", 0.5, head), Scripted("all", 9.0, shapes))
    assert from_bytes(a.requests[0].adapter, head).keys() == head.keys()
    second = from_bytes(a.requests[1].adapter, shapes)
    for name, tensor in first(directory).items():
        assert second[name] - tensor == pytest.approx(0.5 if name in head else 0.0)
    assert "all" in directory.rounds()[1].organizations["refused"]
    assert after.keys() == shapes.keys()


# What was counted

SHAPES = {"q_proj.lora_A.weight": (2, 6), "q_proj.lora_B.weight": (4, 2)}
LINES = [
    RoundLine(0, {}),
    RoundLine(1, {"asked": ["a", "b", "c"], "answered": ["a", "b"]}, bytes_up=30, bytes_down=50),
    RoundLine(2, {"asked": ["a"], "answered": ["a"]}, bytes_up=10, bytes_down=22),
]


def test_the_share_is_of_float32_a_and_b_for_each_request_and_each_answer() -> None:
    moved = traffic(LINES, SHAPES)
    assert (moved.up, moved.down) == (40, 72)
    assert moved.full == 4 * (12 + 8) * (4 + 3)
    assert moved.share == pytest.approx(112 / 560)
    assert traffic([], SHAPES).share == 0


def shown(path: Path, plan: Plan) -> tuple[str, str]:
    """What the terminal and the page say of a run under a plan."""
    directory = make_run(path, [statement("st-mary")], {})
    directory.plan = plan
    report = build_report(RUN, directory.statements.read(), {})
    screen = Console(file=io.StringIO(), width=200)
    print_summary(directory, report, screen)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    return text, render_page(report, run_summary(directory))


def test_terminal_and_page_show_the_bytes_and_the_share_where_there_is_one(tmp_path: Path) -> None:
    text, page = shown(tmp_path / "plain", PLAN)
    assert "0.0 MB of noised updates up, 0.0 MB of adapters down\n" in text
    assert "0.0 MB of adapters." in page
    assert "float32" not in text + page
    values = {**PLAN.model_dump(exclude_none=True), "wire": {"update": "int4", "adapter": "int8"}}
    text, page = shown(tmp_path / "small", Plan.model_validate(values))
    # 21 lines of 1000 bytes up and 2000 down; 20 numbers of 4 bytes, asked and answered in 20 of them.
    share = 21 * 3000 / (20 * 2 * 80)
    assert f"{share:.1%} of float32 A and B both ways" in text
    assert "rounded to int4 after the noise" in page
    assert "rounded to int8" in page
    assert f"{100 * share:.1f} % of A and B in float32" in page
