"""Who is behind which node: nodes that come, go, come back as another, claim a name, stay silent, send garbage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

import server.rounds.exchange
import server.rounds.roster
import server.rounds.rounds
from common.errors import SottoError
from common.flower import codec
from common.protocol.protocol import Description
from server.rounds.exchange import exchange
from server.rounds.roster import Roster
from server.rounds.rounds import wait_for_organizations
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid

Answer = Callable[[Message], Message | None]


class Nodes(LocalGrid):
    """A grid whose nodes are functions: message → reply, or None for silence. Nodes come and go."""

    def __init__(self) -> None:
        super().__init__({})
        self.answers: dict[int, Answer] = {}
        self.sent: list[tuple[int, str]] = []
        self._pending: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.answers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        identities = list(super().push_messages(messages))
        for identity in identities:
            message = self._waiting.pop(identity)
            self.sent.append((message.metadata.dst_node_id, message.metadata.message_type))
            self._pending[identity] = message
        # As Flower's grid does, for a node that it does not know.
        return [
            identity if self._pending[identity].metadata.dst_node_id in self.answers else None  # type: ignore[misc]
            for identity in identities
        ]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = []
        for identity in message_ids:
            message = self._pending[identity]
            answer = self.answers.get(message.metadata.dst_node_id)
            reply = answer(message) if answer else None
            if reply is not None:
                del self._pending[identity]
                found.append(reply)
        return found

    def asked(self, node: int, kind: str) -> int:
        return self.sent.count((node, kind))


def organization(name: str, sender: int | None = None) -> Answer:
    """An honest organization, unless it claims that its replies come from another node."""

    def answer(message: Message) -> Message:
        if message.metadata.message_type == codec.DESCRIBE:
            content = codec.pack_description(Description(name, "example", 100))
        else:
            content = RecordDict({"sotto": ConfigRecord({"by": name})})
        reply = Message(content, reply_to=message)
        if sender is not None:
            reply.metadata.__dict__["_src_node_id"] = sender
        return reply

    return answer


def silence(message: Message) -> None:
    return None


def failing(message: Message) -> Message:
    return Message(Error(code=0, reason="node is gone"), reply_to=message)


def garbage(content: RecordDict) -> Answer:
    return lambda message: Message(content, reply_to=message)


def flaky(times: int, then: Answer) -> Answer:
    """Flower cannot deliver the first messages other than descriptions."""
    left = [times]

    def answer(message: Message) -> Message | None:
        if message.metadata.message_type != codec.DESCRIBE and left[0]:
            left[0] -= 1
            return failing(message)
        return then(message)

    return answer


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    for name in ("_ASK_AGAIN_SECONDS", "_CHALLENGE_SECONDS"):
        monkeypatch.setattr(server.rounds.roster, name, 0.3)
    monkeypatch.setattr(server.rounds.roster, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(server.rounds.exchange, "_RETURN_SECONDS", 0.3)
    monkeypatch.setattr(server.rounds.rounds, "_SETTLE_SECONDS", 0.3)
    for module in (server.rounds.exchange, server.rounds.rounds):
        monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    return Nodes()


def look(roster: Roster, seconds: float = 0.0) -> dict[str, int]:
    deadline = time.monotonic() + seconds
    roster.look()
    while time.monotonic() < deadline:
        roster.look()
        time.sleep(0.01)
    return roster.nodes


def test_names_go_to_the_nodes_that_say_them_in_the_order_of_the_names(nodes: Nodes) -> None:
    nodes.answers = {1: organization("north"), 2: organization("east")}
    roster = Roster(nodes)
    assert list(look(roster).items()) == [("east", 2), ("north", 1)]
    assert (roster.name_of(1), roster.name_of(2)) == ("north", "east")
    assert roster.settled
    look(roster, 0.5)
    assert nodes.asked(1, codec.DESCRIBE) == 1, "who has said a name is not asked again"


def test_nodes_that_come_and_go_are_seen(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    assert look(roster) == {"a": 1}
    nodes.answers[2] = organization("b")
    assert look(roster) == {"a": 1, "b": 2}
    gone = nodes.answers.pop(1)
    assert look(roster) == {"b": 2}
    nodes.answers[1] = gone
    assert look(roster) == {"a": 1, "b": 2}


def test_an_organization_that_comes_back_as_another_node_keeps_its_name(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    look(roster)
    del nodes.answers[1]
    nodes.answers[7] = organization("a")
    assert look(roster) == {"a": 7}
    assert roster.name_of(1) == "a", "what it answered as the earlier node still counts"


def test_only_nodes_of_registered_organizations_take_part_and_under_their_own_names(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a"), 2: organization("b"), 3: organization("a"), 4: organization("c")}
    registered = {1: "a", 2: "a-friend", 4: "c"}
    roster = Roster(nodes, registered.get)
    assert look(roster) == {"a": 1, "c": 4}
    assert nodes.asked(3, codec.DESCRIBE) == 0, "who is not registered is not even asked"
    assert roster.silent == {2: "it is registered for 'a-friend' and says that it is 'b'"}
    del registered[4]
    assert look(roster) == {"a": 1}, "who is revoked is out at once"
    registered[2] = "b"
    assert look(roster, 0.5) == {"a": 1, "b": 2}


def test_an_organization_comes_back_although_flower_has_not_noticed_that_its_node_died(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    look(roster)
    nodes.answers[1] = silence
    nodes.answers[2] = organization("a")
    assert look(roster) == {"a": 1}, "the earlier node has some time to show that it lives"
    assert not roster.settled
    assert look(roster, 0.5) == {"a": 2}


def test_two_that_claim_the_name_of_a_dead_node_do_not_both_get_it(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    look(roster)
    nodes.answers = {1: silence, 2: organization("a"), 3: organization("a")}
    with pytest.raises(SottoError, match="two organizations have the name 'a'"):
        look(roster, 3.0)


def test_the_name_of_a_living_node_cannot_be_taken(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    look(roster)
    nodes.answers[2] = organization("a")
    with pytest.raises(SottoError, match="two organizations have the name 'a'"):
        look(roster, 1.0)
    assert roster.nodes == {"a": 1}


def test_a_name_that_is_claimed_by_the_living_and_then_left_stays_where_it_was(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a")}
    roster = Roster(nodes)
    look(roster)
    nodes.answers[1] = silence
    nodes.answers[2] = organization("a")
    look(roster)
    del nodes.answers[2]
    nodes.answers[1] = organization("a")
    assert look(roster, 0.5) == {"a": 1}


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"sotto": ConfigRecord({"json": "no json"})}),
        RecordDict({"sotto": ConfigRecord({"json": "[" * 5000})}),
        RecordDict({"sotto": ConfigRecord({"json": json.dumps(["a"])})}),
        RecordDict({"sotto": ConfigRecord({"json": 7})}),
        RecordDict({"sotto": ConfigRecord({"refused": "busy", "detail": 7})}),
        *(
            RecordDict({"sotto": ConfigRecord({"json": json.dumps(said)})})
            for said in (
                {"organization": "../a", "unit": "example", "public_size": 1},
                {"organization": "a", "unit": "example", "public_size": -1},
                {"organization": ["a"], "unit": "example", "public_size": 1},
                {"organization": "a", "unit": "example", "public_size": 1, "more": 1},
            )
        ),
    ],
)
def test_a_node_that_says_garbage_takes_no_part_and_disturbs_nobody(nodes: Nodes, content: RecordDict) -> None:
    nodes.answers = {1: organization("a"), 2: garbage(content)}
    roster = Roster(nodes)
    assert look(roster, 0.5) == {"a": 1}
    assert list(roster.silent) == [2]
    assert not roster.settled
    assert nodes.asked(2, codec.DESCRIBE) >= 2, "it is asked again"
    nodes.answers[2] = organization("b")
    assert look(roster, 0.5) == {"a": 1, "b": 2}
    assert roster.silent == {}


def test_a_run_that_can_begin_waits_for_a_silent_node_only_for_a_while(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a"), 2: silence, 3: failing}
    roster = Roster(nodes)
    wait_for_organizations(roster, 1, 10.0, Observer())
    assert roster.nodes == {"a": 1}
    with pytest.raises(SottoError, match=r"1 organizations are connected; the plan needs 2 \(a node does not say"):
        wait_for_organizations(roster, 2, 0.5, Observer())


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
