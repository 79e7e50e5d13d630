"""Who is behind which node, whatever nodes do."""

from __future__ import annotations

import json

import pytest
from flwr.app import ConfigRecord, RecordDict

from common.errors import SottoError
from common.flower import codec
from server.rounds.roster import Roster
from server.rounds.waiting import wait_for_organizations
from server.tracking.observer import Observer
from tests.server.rounds.nodes import Nodes, failing, garbage, look, organization, silence


def test_names_go_to_the_nodes_that_say_them_in_the_order_of_the_names(nodes: Nodes) -> None:
    nodes.answers = {1: organization("north"), 2: organization("east")}
    roster = Roster(nodes)
    assert list(look(roster).items()) == [("east", 2), ("north", 1)]
    assert (roster.name_of(1), roster.name_of(2)) == ("north", "east")
    assert roster.all_identified
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
    assert roster.unidentified == {2: "it is registered as 'a-friend' and describes itself as 'b'"}
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
    assert not roster.all_identified
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
    assert list(roster.unidentified) == [2]
    assert not roster.all_identified
    assert nodes.asked(2, codec.DESCRIBE) >= 2, "it is asked again"
    nodes.answers[2] = organization("b")
    assert look(roster, 0.5) == {"a": 1, "b": 2}
    assert roster.unidentified == {}


def test_a_run_that_can_begin_waits_for_a_silent_node_only_for_a_while(nodes: Nodes) -> None:
    nodes.answers = {1: organization("a"), 2: silence, 3: failing}
    roster = Roster(nodes)
    wait_for_organizations(roster, 1, 10.0, Observer())
    assert roster.nodes == {"a": 1}
    with pytest.raises(
        SottoError, match=r"1 organizations are connected; the plan needs 2 \(a node cannot be identified"
    ):
        wait_for_organizations(roster, 2, 0.5, Observer())
