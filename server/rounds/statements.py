"""Collection of the organizations' statements of what the run costs them."""

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
    """Ask each connected organization for its statement, and store the statements.

    Returns:
        The organizations that sent a statement.
    """
    timeout = directory.plan.federation.round_timeout
    query = codec.pack_query(directory.info.run)
    queries = {name: Message(query, node, codec.STATEMENT, ttl=timeout) for name, node in roster.nodes.items()}
    stated, heads = set(), LedgerHeads(directory.info.registry_folder)
    for name, reply in exchange(grid, roster, queries, timeout, enough=0):
        try:
            statement = codec.unpack_statement(reply.content)
        except (Refused, codec.MessageError):
            continue  # it participated in no round: the run cost it nothing
        if statement.organization == name:
            directory.statements.write(statement)
            heads.record(name, statement.head)
            stated.add(name)
    return stated
