"""Before a round: enough organizations are there, and the plan can join what they train."""

from __future__ import annotations

import time

from common.errors import InputError, SottoError
from common.plan.plan import Plan
from server.rounds.roster import Roster
from server.tracking.observer import Observer

_POLL_SECONDS = 0.05
# How long a run that could begin waits for connected organizations that have not said who they are.
_SETTLE_SECONDS = 15.0


def wait_for_organizations(
    roster: Roster, needed: int, timeout: float, observer: Observer, settle: float | None = None
) -> None:
    """Wait until enough organizations are connected and have said who they are.

    Args:
        roster: sees who is connected.
        needed: how many are enough.
        timeout: seconds to wait for them at most.
        observer: told who is there while too few are.
        settle: seconds to wait at most for those beyond who have not said who they are; 15 without it.

    Raises:
        SottoError: too few came in time, or two have one name.
    """
    patience = _SETTLE_SECONDS if settle is None else settle
    begin = time.monotonic()
    told: list[str] | None = None
    while time.monotonic() - begin < timeout:
        roster.look()
        names = list(roster.nodes)
        if len(names) >= needed and (roster.settled or time.monotonic() - begin >= patience):
            return
        if names != told:
            told = names
            observer.waiting(names, needed)
        time.sleep(_POLL_SECONDS)
    reasons = "; ".join(f"a node does not say who it is: {reason}" for reason in roster.silent.values())
    raise SottoError(
        f"{len(roster.nodes)} organizations are connected; the plan needs {needed}"
        + (f" ({reasons})" if reasons else "")
    )


def check_ranks(roster: Roster, plan: Plan) -> None:
    """Make sure, before any is asked to spend, that the plan can join the ranks of those who are there.

    Raises:
        InputError: it cannot; names the first organization.
    """
    for name in roster.nodes:
        reason = plan.lora.refusal(roster.described[name].max_rank)
        if reason is not None:
            raise InputError(f"{name} trains at {reason} (aggregation.method = {plan.aggregation.method!r})")
