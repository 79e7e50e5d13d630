"""Replies are pulled in the background: one that hangs disturbs no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest
from flwr.app import Message, RecordDict

from server.rounds.background_grid import BackgroundGrid
from simulations.local_grid import LocalGrid


class Stalling(LocalGrid):
    """Pulling a reply of node 1 hangs until it is let go; of node 2 it fails; the others answer at once."""

    def __init__(self) -> None:
        super().__init__({})
        self.let_go = threading.Event()
        self.pulls: list[str] = []

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (identity,) = message_ids
        self.pulls.append(identity)
        message = self._waiting[identity]
        if message.metadata.dst_node_id == 1:
            assert self.let_go.wait(60)
        if message.metadata.dst_node_id == 2:
            raise ConnectionError("the SuperLink is gone")
        return [Message(RecordDict(), reply_to=message)]


@pytest.fixture
def stalling() -> Iterable[Stalling]:
    grid = Stalling()
    yield grid
    grid.let_go.set()


def test_a_reply_that_hangs_holds_up_no_other_and_is_had_when_it_is_there(stalling: Stalling) -> None:
    grid = BackgroundGrid(stalling)
    hangs, quick = grid.push_messages([Message(RecordDict(), node, "train", ttl=60.0) for node in (1, 3)])
    for _ in range(3):
        assert list(grid.pull_messages([hangs])) == []
    (reply,) = grid.pull_messages([hangs, quick])
    assert reply.metadata.reply_to_message_id == quick
    assert stalling.pulls.count(hangs) == 1, "Flower hands a reply out once: it is not asked for again meanwhile"

    stalling.let_go.set()
    deadline = time.monotonic() + 60
    while not (late := list(grid.pull_messages([hangs]))):
        assert time.monotonic() < deadline
    assert [one.metadata.reply_to_message_id for one in late] == [hangs]


def test_an_error_of_the_grid_is_raised(stalling: Stalling) -> None:
    grid = BackgroundGrid(stalling)
    (identity,) = grid.push_messages([Message(RecordDict(), 2, "train", ttl=60.0)])
    for _ in range(2):
        with pytest.raises(ConnectionError, match="SuperLink is gone"):
            grid.pull_messages([identity])
