"""Requests for messages are kept until there may be one, and nothing that is kept costs a message."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sqlite3
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.admin.keys import make_keys
from common.keys.node_key import NodeKey
from common.system.wakeup import Wakeup
from server.superlink.database import ChangeWatcher, Database, Query
from server.superlink.held_requests import HeldRequests, Outcome
from server.superlink.superexec import TaskWaiter
from tests.server.superlink.gateways import NODE, Messages, Site, opened

LARGE = 2**64 - 5


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Messages]]:
    with opened(tmp_path_factory.mktemp("held_requests")) as site:
        messages = Messages(site.folder)
        yield site, messages
        messages.close()


@pytest.fixture
def site(open_site: tuple[Site, Messages]) -> Site:
    open_site[0].behind.seen.clear()
    return open_site[0]


@pytest.fixture
def messages(open_site: tuple[Site, Messages]) -> Iterator[Messages]:
    yield open_site[1]
    open_site[1].deliver()


def register(site: Site, folder: Path, name: str, node: int) -> NodeKey:
    make_keys(folder, name)
    site.registry.register(name, folder / "node.pub", folder / "statement.pub")
    site.registry.set_node_id(name, node)
    return NodeKey.read(folder / "node.key")


def test_a_pull_is_kept_until_there_is_a_message_for_its_node(site: Site, messages: Messages) -> None:
    pull = site.pull()
    assert pull.is_kept()
    messages.store(NODE + 1)
    assert pull.is_kept()
    assert site.pulls() == 0
    messages.store()
    assert pull.answer() == (200, b"answer")
    ((line, headers, body),) = site.behind.seen
    assert (line, body) == ("POST /v1/fleet/pull-messages", b"body")
    assert "flwr-signature" in headers


def test_a_message_that_waits_already_is_pulled_at_once(site: Site, messages: Messages) -> None:
    messages.store()
    assert site.pull().answer() == (200, b"answer")


def test_a_message_is_found_though_nobody_rings(site: Site, messages: Messages) -> None:
    pull = site.pull()
    assert pull.is_kept(0.1)
    messages.store(signal=False)
    assert pull.answer() == (200, b"answer")


def test_a_message_that_a_node_does_not_get_is_not_asked_for_again_and_again(
    site: Site, messages: Messages
) -> None:
    messages.store()
    assert site.pull().answer() == (200, b"answer")
    again = site.pull()
    assert again.is_kept(1.5)
    messages.store(1)
    assert again.answer() == (200, b"answer"), "something changed: it may get it now"
    assert site.pulls() == 2


def test_nothing_is_claimed_for_a_node_that_has_left(site: Site, messages: Messages) -> None:
    pull = site.pull()
    assert pull.is_kept()
    pull.leave()
    messages.store()
    time.sleep(1)
    assert site.pulls() == 0
    assert site.pull().answer() == (200, b"answer"), "the message is still there"
    assert site.pulls() == 1


def test_a_second_pull_of_a_node_ends_the_first(site: Site, messages: Messages) -> None:
    first = site.pull()
    assert first.is_kept(0.3)
    second = site.pull()
    status, answer = first.answer()
    assert (status, json.loads(answer)) == (503, {"reason": "another-pull"})
    assert second.is_kept(0.3)
    messages.store()
    assert second.answer() == (200, b"answer")
    assert site.pulls() == 1


def test_a_revoked_nodes_pull_ends_soon_and_says_why(site: Site, tmp_path: Path) -> None:
    kept, key = site.pull(), register(site, tmp_path, "county", LARGE)
    pull = site.pull(key)
    assert pull.is_kept()
    site.registry.revoke("county")
    status, answer = pull.answer()
    assert (status, json.loads(answer)) == (401, {"reason": "revoked-key"})
    assert kept.is_kept(), "the others stay"
    assert site.pulls() == 0


def test_a_node_with_a_large_number_is_woken(site: Site, messages: Messages, tmp_path: Path) -> None:
    pull = site.pull(register(site, tmp_path, "large", LARGE))
    assert pull.is_kept(0.3)
    messages.store(LARGE)
    assert pull.answer() == (200, b"answer")


def test_who_is_not_registered_is_not_kept(site: Site) -> None:
    status, answer = site.pull(NodeKey.generate()).answer()
    assert (status, json.loads(answer)) == (401, {"reason": "unknown-key"})


def test_a_gateway_that_ends_waits_for_no_pull(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        messages = Messages(site.folder)
        pull = site.pull()
        assert pull.is_kept()
        site.gateway.send_signal(signal.SIGTERM)
        status, answer = pull.answer()
        assert (status, json.loads(answer)) == (503, {"reason": "not-ready"})
        site.gateway.wait(10)
        assert site.pulls() == 0
        messages.close()


Gone = Callable[[], Coroutine[Any, Any, None]]


async def stays() -> None:
    await asyncio.Event().wait()


def hold(folder: Path, *, seconds: float, times: int = 1) -> list[Outcome]:
    """The outcomes of some requests, one after the other."""

    async def ask() -> list[Outcome]:
        held_requests = HeldRequests(
            Database(folder / "state.db", Query.MESSAGES), Wakeup.create(folder / "wakeup"), seconds
        )
        return [await held_requests.hold(NODE, lambda: True, stays) for _ in range(times)]

    return asyncio.run(ask())


async def leaves() -> None:
    pass


def test_what_waits_for_a_node_that_left_is_there_for_its_next_pull(tmp_path: Path) -> None:
    wakeup = Wakeup.create(tmp_path / "wakeup")
    messages = Messages(tmp_path)
    messages.store()

    async def ask() -> list[Outcome]:
        held_requests = HeldRequests(Database(tmp_path / "state.db", Query.MESSAGES), wakeup, 60)
        return [
            await asyncio.wait_for(held_requests.hold(NODE, lambda: True, gone), 10) for gone in (leaves, stays)
        ]

    assert asyncio.run(ask()) == [Outcome.DISCONNECTED, Outcome.FORWARD]
    messages.close()


def test_a_pull_that_the_superlink_did_not_get_is_not_kept_when_it_is_made_again(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        messages = Messages(site.folder)
        messages.store()
        site.behind.status = 0
        assert site.pull().answer()[0] == 503
        site.behind.status = 200
        assert site.pull().answer() == (200, b"answer")
        messages.close()


def test_a_pull_that_was_kept_long_enough_is_forwarded(tmp_path: Path) -> None:
    Wakeup.create(tmp_path / "wakeup")
    Messages(tmp_path).close()
    begin = time.monotonic()
    assert hold(tmp_path, seconds=0.4) == [Outcome.FORWARD]
    assert time.monotonic() - begin >= 0.4


@pytest.mark.parametrize("content", [None, b"no database at all, but long enough to be one" * 99, b""])
def test_pulls_are_forwarded_when_the_database_cannot_be_read(
    content: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "state.db").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert hold(tmp_path, seconds=60, times=3) == [Outcome.FORWARD] * 3
    assert len([line for line in caplog.messages if "cannot be read" in line]) == 1


def test_the_database_is_only_read(tmp_path: Path) -> None:
    Wakeup.create(tmp_path / "wakeup")
    messages = Messages(tmp_path)
    database = Database(tmp_path / "state.db", Query.MESSAGES)
    assert database.pending() == set()
    assert database._connection is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database._connection.execute("DELETE FROM message_ins")
    messages.store(LARGE)
    messages.store(7, ttl=-1.0)
    assert database.pending() == {LARGE}, "the other one is too old to be delivered"
    changes = database.changes
    assert database.pending() == {LARGE}
    assert database.changes == changes
    messages.deliver()
    assert database.pending() == set()
    messages.close()


def test_a_watch_rings_for_each_change_and_only_then(tmp_path: Path) -> None:
    watch_wakeup = Wakeup.create(tmp_path / "wakeup")
    watch = ChangeWatcher(tmp_path / "state.db", [watch_wakeup])
    watch()
    assert watch_wakeup.wait(0), "nobody is kept waiting where nothing can be seen"
    messages = Messages(tmp_path)
    watch()
    watch_wakeup.clear()
    watch()
    assert not watch_wakeup.wait(0)
    messages.store(signal=False)
    watch()
    assert watch_wakeup.wait(0)
    messages.close()


class Naps:
    """Counts the waits for a wake-up signal."""

    def __init__(self) -> None:
        self.count = 0

    def wait(self, _: float) -> bool:
        self.count += 1
        time.sleep(0.01)
        return False


def test_a_superexec_asks_for_each_run_once(tmp_path: Path) -> None:
    Wakeup.create(tmp_path / "wakeup")
    messages, naps = Messages(tmp_path), Naps()
    patience = TaskWaiter(Database(tmp_path / "state.db", Query.TASKS), naps, longest=0.3)  # type: ignore[arg-type]
    patience.sleep(0.0)
    assert naps.count > 5, "there is no run: as long as can be"
    messages.execute("INSERT INTO task (task_id, type, run_id, pending_at) VALUES (5, 'x', 6, 'now')")
    naps.count = 0
    patience.sleep(0.0)
    assert naps.count == 0
    patience.sleep(0.0)
    assert naps.count > 5, "nothing could be started for it"
    messages.execute("UPDATE task SET starting_at = 'now'")
    naps.count = 0
    patience.sleep(0.0)
    assert naps.count > 5
    messages.close()


def test_a_superexec_that_cannot_look_asks_as_often_as_flowers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    naps = Naps()
    patience = TaskWaiter(Database(tmp_path / "none.db", Query.TASKS), naps)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        patience.sleep(0.0)
        patience.sleep(0.0)
    assert naps.count == 0
    assert len(caplog.messages) == 1
