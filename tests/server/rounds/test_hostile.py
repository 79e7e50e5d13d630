"""What a hostile organization sends ends its own part in a run, and never the run."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError
from rich.console import Console

import sotto
from common.adapter.adapter import Adapter, to_bytes
from common.flower import codec, patches
from common.plan.aggregation import Aggregation
from common.protocol.protocol import Description, Release
from common.protocol.statement import Statement
from common.report.charts import quality_chart
from common.report.report import build_report
from common.results.model_card import adapter_card
from server.aggregation.optimizers import ServerState
from server.rounds.background_grid import BackgroundGrid
from server.rounds.roster import Roster
from server.rounds.rounds import run_rounds
from server.rounds.strategy import LoraAveraging
from server.tracking.observer import Observer
from server.tracking.summary import print_summary
from simulations.local_grid import LocalGrid
from tests.client.vaults import Echo
from tests.common.report.sample_run import RUN, SHAPES, statement, summary
from tests.server.run_directory.sample_directory import make_run

B = "q_proj.lora_B.weight"
ESCAPES = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"


def filled(value: float) -> Adapter:
    return {B: np.full(SHAPES[B], value, np.float32)}


class Fixed:
    """Answers every request with the same release.

    Args:
        update: in it.
    """

    def __init__(self, name: str, update: Adapter, public_size: int = 100) -> None:
        self._description = Description(name, "example", public_size)
        self._update = update

    def describe(self) -> Description:
        return self._description

    def train(self, request: Any) -> Release:
        return Release(to_bytes(self._update))

    def statement(self, run: str) -> Statement:
        return replace(statement(self._description.organization), run=run)


def run(path: Path, grid: Any, rounds: int = 2, *, screen: bool = True) -> tuple[Adapter, list[dict[str, Any]]]:
    """The adapter after some rounds of a run, and who did what in each."""
    directory = make_run(path, [], {})
    directory.plan = directory.plan.model_copy(
        update={
            "training": directory.plan.training.model_copy(update={"rounds": rounds}),
            "aggregation": Aggregation(screen=screen),
        }
    )
    (path / "rounds.jsonl").unlink()
    adapter = run_rounds(grid, directory, None, Observer())
    return adapter, [line.organizations for line in directory.rounds()[1:]]


def test_updates_that_overflow_only_when_they_are_added_are_refused_by_name(tmp_path: Path) -> None:
    """Each is finite. Two of them on top of each other are not, and the run would end for everybody."""
    largest = float(np.finfo(np.float32).max)
    participants = {1: Fixed("a", filled(0.5)), 2: Fixed("b", filled(0.5)), 3: Fixed("evil", filled(largest))}
    adapter, rounds = run(tmp_path, LocalGrid(participants), rounds=4, screen=False)
    assert all(np.isfinite(tensor).all() for tensor in adapter.values())
    assert all(line["answered"][:2] == ["a", "b"] for line in rounds)
    assert "not finite" in rounds[-1]["refused"]["evil"]


@pytest.mark.parametrize("size", [0, -1, 10**400, 10**16, True, 5.0], ids=str)
def test_a_public_size_that_cannot_be_weighed_is_no_description(size: Any) -> None:
    with pytest.raises(ValueError, match="not a description"):
        Description.from_json(json.dumps({"organization": "evil", "public_size": size, "unit": "example"}))


class Unreadable(LocalGrid):
    """What node 3 sends raises or gives something that is no reply."""

    def __init__(self, participants: dict[int, Any], broken: Callable[[Message], Any]) -> None:
        super().__init__(participants)
        self._broken = broken

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (identity,) = message_ids
        message = self._waiting.get(identity)
        if message is not None and message.metadata.dst_node_id == 3 and message.metadata.message_type == "train":
            del self._waiting[identity]
            return [self._broken(message)]
        return super().pull_messages([identity])


def raising(error: Exception) -> Callable[[Message], Any]:
    def fail(_: Message) -> Any:
        raise error

    return fail


def wrong_content(message: Message) -> Message:
    reply = Message(RecordDict(), reply_to=message)
    reply.__dict__["_content"] = ArrayRecord()
    return reply


BROKEN = {
    "a mismatch of children": raising(ValueError("mismatch")),
    "a message without a child": raising(IndexError("list index out of range")),
    "an unknown kind of object": raising(KeyError("Evil")),
    "a broken protobuf": raising(DecodeError("truncated")),
    "a shape that is no list": raising(TypeError("'int' object is not iterable")),
    "a chain without end": raising(RecursionError()),
    "a message that holds an array record": wrong_content,
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_reply_that_flower_cannot_put_together_ends_its_senders_part_and_not_the_run(
    what: str, tmp_path: Path
) -> None:
    participants = {1: Fixed("a", filled(0.5)), 2: Fixed("b", filled(0.5)), 3: Fixed("evil", filled(9.0))}
    adapter, rounds = run(tmp_path, BackgroundGrid(Unreadable(participants, BROKEN[what])))
    assert (adapter[B] == 1.0).all()
    for line in rounds:
        assert line["answered"] == ["a", "b"]
        assert "the message has no answer" in line["refused"]["evil"]


# Arrays that unpack to more than they are


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Array, "inflate", Array.inflate)  # what it was comes back
    monkeypatch.setattr(patches, "MOST_BYTES", 1000)
    patches.bound_arrays()


def objects(array: Array, places: Callable[[list[int]], list[int]]) -> tuple[str, dict[str, bytes]]:
    """An array as Flower sends it, whose list of pieces is changed."""
    content, children = array.deflate(), {key: child.deflate() for key, child in (array.children or {}).items()}
    head, body = content.split(b"\x00", 1)
    values = json.loads(body)
    values["arraychunk_ids"] = places(values["arraychunk_ids"])
    body = json.dumps(values).encode()
    kind, ids, _ = head.split(b" ")
    return "root", {**children, "root": b" ".join([kind, ids, str(len(body)).encode()]) + b"\x00" + body}


@pytest.mark.usefixtures("bounded")
def test_an_array_is_never_put_together_beyond_the_size_of_any_adapter() -> None:
    array = Array("uint8", (100,), "safetensors", b"x" * 100)
    assert inflate_object_from_contents(*objects(array, lambda places: places)).data == array.data
    assert len(inflate_object_from_contents(*objects(array, lambda places: places * 10)).data) == 1000
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        inflate_object_from_contents(*objects(array, lambda places: places * 11))
    with pytest.raises(ValueError, match="too many pieces"):
        inflate_object_from_contents(*objects(array, lambda places: places * 100_000))


# What the operator sees


@pytest.fixture
def screen() -> Console:
    return Console(file=io.StringIO(), width=500)


def test_the_reason_of_a_refusal_reaches_no_screen_with_control_characters(tmp_path: Path) -> None:
    content = codec.pack_refusal(codec.Refused("budget", f"why {ESCAPES}\nsecond line"))
    reply = Message(content, 3, "train")
    reply.metadata.__dict__["_src_node_id"] = 3
    grid = LocalGrid({3: Echo()})
    roster = Roster(grid)
    for _ in range(3):
        roster.refresh()
    strategy = LoraAveraging(make_run(tmp_path, [], {}), roster, ServerState(filled(0.0)))
    list(strategy.configure_train(1, codec.adapter_record(filled(0.0)), codec.ConfigRecord(), grid))
    strategy.aggregate_train(1, [reply])
    (reason,) = strategy.outcome.refused.values()
    assert reason.isprintable()
    assert reason.startswith("budget: why ")


def test_an_error_reaches_the_screen_without_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{ESCAPES}plan.toml"
    path.write_text("")
    monkeypatch.setattr(sys, "argv", ["sotto", "init", "plan", str(path)])
    with pytest.raises(SystemExit) as ended:
        sotto.main()
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert "exists already" in shown
    assert shown.strip().isprintable()


HOSTILE = f"[x](http://evil) <img src=x onerror=alert(1)> | `code` **bold** {ESCAPES}\n# heading"


def test_what_an_organization_states_is_words_in_the_model_card() -> None:
    item = replace(statement("st-mary"), unit=HOSTILE, adjacency=HOSTILE)
    card = adapter_card(summary([]), build_report(RUN, [item], {}))
    row = next(line for line in card.splitlines() if line.startswith("| st-mary"))
    cells = row.replace("\\|", "").strip("|").split("|")
    assert len(cells) == 5
    assert "](http" not in card.replace("\\](", "")
    assert "<img" not in card.replace("\\<", "")
    assert "\n# heading" not in card
    assert "\x1b" not in card


def test_answers_of_a_model_reach_the_screen_without_control_characters(tmp_path: Path, screen: Console) -> None:
    directory = make_run(tmp_path, [], {})
    report = build_report(RUN, [statement("st-mary")], {})
    print_summary(directory, report, screen, [("hello", f"one\ntwo{ESCAPES}", ESCAPES)])
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "one\ntwo" in shown
    assert all(line.isprintable() for line in shown.splitlines())


def test_a_model_that_was_poisoned_still_has_a_report() -> None:
    finite = quality_chart([(0, {"perplexity": 9.0}), (1, {"perplexity": float("inf")})])
    assert finite is not None
    assert quality_chart([(0, {"perplexity": float("nan")}), (1, {"perplexity": float("inf")})]) is None
