"""Messages to organizations: sent again, to a new node, and not waited for without end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import pytest
from flwr.app import Message, RecordDict

import server.rounds.exchange
import server.rounds.roster
import server.rounds.rounds
from common.flower import codec
from server.rounds.exchange import exchange
from server.rounds.roster import Roster
from tests.server.rounds.nodes import Answer, Nodes, failing, flaky, look, organization


def ask(nodes: Nodes, *names: str, enough: int, timeout: float = 20.0) -> tuple[Roster, dict[str, Any]]:
    """Who answered a message of the kind "train", and as whom the reply was written."""
    roster = Roster(nodes)
    look(roster)
    requests = {name: Message(RecordDict(), roster.nodes[name], "train", ttl=timeout) for name in names}
    replies = dict(exchange(nodes, roster, requests, timeout, enough=enough))
    for name, reply in replies.items():
        assert roster.name_of(reply.metadata.src_node_id) == name
    return roster, {name: reply.content.config_records["sotto"]["by"] for name, reply in replies.items()}


def test_an_answer_counts_for_the_node_that_was_asked_whatever_it_says_of_itself(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a"), 2: organization("b", sender=1)}
    _, said = ask(nodes, "a", "b", enough=2)
    assert said == {"a": "a", "b": "b"}


def test_what_flower_could_not_deliver_is_sent_again(nodes: Nodes) -> None:
    nodes.answers = {1: flaky(2, organization("a")), 2: organization("b")}
    _, said = ask(nodes, "a", "b", enough=2)
    assert said == {"a": "a", "b": "b"}
    assert nodes.asked(1, "train") == 3
    assert nodes.asked(2, "train") == 1, "whoever has the message does not get it twice"


def test_the_message_follows_an_organization_to_its_new_node(nodes: Nodes) -> None:
    def dies(message: Message) -> Message | None:
        if message.metadata.message_type == codec.DESCRIBE:
            return organization("a")(message)
        nodes.answers = {5: organization("a"), 2: organization("b")}
        return None

    nodes.answers = {1: dies, 2: organization("b")}
    _, said = ask(nodes, "a", "b", enough=2)
    assert said == {"a": "a", "b": "b"}
    assert nodes.asked(5, "train") == 1


def test_a_node_that_is_gone_for_good_is_not_waited_for_when_enough_have_answered(nodes: Nodes) -> None:
    def dies(message: Message) -> Message | None:
        if message.metadata.message_type == codec.DESCRIBE:
            return organization("a")(message)
        nodes.answers.pop(1, None)
        return failing(message)

    nodes.answers = {1: dies, 2: organization("b")}
    begin = time.monotonic()
    _, said = ask(nodes, "a", "b", enough=1, timeout=60.0)
    assert said == {"b": "b"}
    assert time.monotonic() - begin < 30


def test_a_node_that_vanishes_without_an_error_is_not_waited_for_either(nodes: Nodes) -> None:
    """A relay that ended in order signs off: Flower then knows no node to report an error for."""

    def leaves(message: Message) -> Message | None:
        if message.metadata.message_type == codec.DESCRIBE:
            return organization("a")(message)
        nodes.answers.pop(1, None)
        return None

    nodes.answers = {1: leaves, 2: organization("b")}
    begin = time.monotonic()
    _, said = ask(nodes, "a", "b", enough=1, timeout=60.0)
    assert said == {"b": "b"}
    assert time.monotonic() - begin < 30


def test_a_living_node_that_stays_silent_is_waited_for_to_the_end_and_no_longer(nodes: Nodes) -> None:
    def mute(message: Message) -> Message | None:
        return organization("a")(message) if message.metadata.message_type == codec.DESCRIBE else None

    nodes.answers = {1: mute, 2: organization("b")}
    begin = time.monotonic()
    _, said = ask(nodes, "a", "b", enough=1, timeout=1.5)
    assert said == {"b": "b"}
    assert 1.4 < time.monotonic() - begin < 30


def answers_when_asked_again(name: str, nodes: Nodes, away: bool) -> Answer:
    """Takes the first message and dies; as another process under the same number, it knows nothing of it."""
    asked: list[str] = []

    def answer(message: Message) -> Message | None:
        identity = message.metadata.message_id
        if message.metadata.message_type == codec.DESCRIBE or identity in asked[1:]:
            return organization(name)(message)
        if identity not in asked:
            asked.append(identity)
            if away and len(asked) == 1:
                nodes.answers.pop(1)
                threading.Timer(0.2, lambda: nodes.answers.update({1: answer})).start()
        return None

    return answer


def test_a_node_that_was_away_is_asked_again_although_its_number_is_the_same(nodes: Nodes) -> None:
    nodes.answers = {1: answers_when_asked_again("a", nodes, away=True)}
    _, said = ask(nodes, "a", enough=1)
    assert said == {"a": "a"}
    assert nodes.asked(1, "train") == 2


def test_a_node_that_is_silent_for_long_is_asked_again(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.rounds.exchange, "_SILENT_SECONDS", 0.3)
    nodes.answers = {1: answers_when_asked_again("a", nodes, away=False)}
    _, said = ask(nodes, "a", enough=1)
    assert said == {"a": "a"}
    assert nodes.asked(1, "train") == 2


def test_an_earlier_message_may_still_be_answered(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that only seemed to be silent answers what it was asked first."""
    monkeypatch.setattr(server.rounds.exchange, "_SILENT_SECONDS", 0.3)
    first: list[str] = []

    def slow(message: Message) -> Message | None:
        if message.metadata.message_type == codec.DESCRIBE:
            return organization("a")(message)
        first.append(message.metadata.message_id)
        again = nodes.asked(1, "train") > 1
        return organization("a")(message) if again and message.metadata.message_id == first[0] else None

    nodes.answers = {1: slow}
    _, said = ask(nodes, "a", enough=1)
    assert said == {"a": "a"}


def test_a_node_that_always_fails_is_given_up_in_time(nodes: Nodes) -> None:
    nodes.answers = {1: flaky(10**9, organization("a"))}
    _, said = ask(nodes, "a", enough=1, timeout=1.0)
    assert said == {}
    assert nodes.asked(1, "train") < 20, "the pauses grow"


def test_an_organization_that_is_away_when_it_is_asked_gets_the_message_when_it_is_back(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    look(roster)
    request = {"a": Message(RecordDict(), 1, "train", ttl=20.0)}
    away = nodes.answers.pop(1)
    original = nodes.push_messages

    def push_and_return(messages: Iterable[Message]) -> Iterable[str]:
        identities = original(messages)
        nodes.answers[1] = away
        return identities

    nodes.push_messages = push_and_return  # type: ignore[method-assign]
    assert list(dict(exchange(nodes, roster, request, 20.0, enough=1))) == ["a"]
