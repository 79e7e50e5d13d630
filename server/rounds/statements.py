"""After a round: what the run costs each organization, as it states it."""

from __future__ import annotations

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import Refused
from common.flower import codec
from server.registry.heads import LedgerHeads
from server.rounds.exchange import exchange
from server.rounds.roster import Roster
from server.run_directory.run_directory import RunDirectory


def collect_statements(grid: Grid, directory: RunDirectory, roster: Roster) -> set[str]:
    """Ask each organization what the run costs it, and keep what it says.

    Returns:
        The names of those that stated something.
    """
    timeout = directory.plan.federation.round_timeout
    query = codec.pack_query(directory.info.run)
    queries = {name: Message(query, node, codec.STATEMENT, ttl=timeout) for name, node in roster.nodes.items()}
    stated, heads = set(), LedgerHeads(directory.info.registry_folder)
    for name, reply in exchange(grid, roster, queries, timeout, enough=0):
        try:
            statement = codec.unpack_statement(reply.content)
        except (Refused, codec.MessageError):
            continue  # it took part in no round, so that the run cost it nothing
        if statement.organization == name:
            directory.statements.write(statement)
            heads.note(name, statement.head)
            stated.add(name)
    return stated
