"""Conditions before a round: enough organizations are connected, and their ranks can be aggregated."""

from __future__ import annotations

import time

from common.errors import InputError, SottoError
from common.plan.plan import Plan
from server.rounds.roster import Roster
from server.tracking.observer import Observer

_POLL_SECONDS = 0.05
# How long a run that could begin waits for connected nodes that are not identified yet.
_SETTLE_SECONDS = 15.0


def wait_for_organizations(
    roster: Roster, needed: int, timeout: float, observer: Observer, settle: float | None = None
) -> None:
    """Wait until enough organizations are connected and identified.

    Args:
        roster: of the run.
        needed: number of organizations.
        timeout: maximum duration, in seconds.
        observer: notified while too few are connected.
        settle: how long to wait for unidentified nodes beyond `needed`, in seconds; by default 15.

    Raises:
        SottoError: too few are connected in time, or two have the same name.
    """
    settle_seconds = _SETTLE_SECONDS if settle is None else settle
    begin = time.monotonic()
    reported: list[str] | None = None
    while time.monotonic() - begin < timeout:
        roster.refresh()
        names = list(roster.nodes)
        if len(names) >= needed and (roster.all_identified or time.monotonic() - begin >= settle_seconds):
            return
        if names != reported:
            reported = names
            observer.waiting(names, needed)
        time.sleep(_POLL_SECONDS)
    reasons = "; ".join(f"a node cannot be identified: {reason}" for reason in roster.unidentified.values())
    raise SottoError(
        f"{len(roster.nodes)} organizations are connected; the plan needs {needed}"
        + (f" ({reasons})" if reasons else "")
    )


def check_ranks(roster: Roster, plan: Plan) -> None:
    """Check, before anything is spent, that the plan's method can aggregate the ranks of all organizations.

    Raises:
        InputError: it cannot; the message names the first such organization.
    """
    for name in roster.nodes:
        reason = plan.lora.refusal(roster.descriptions[name].max_rank)
        if reason is not None:
            raise InputError(f"{name} trains at {reason} (aggregation.method = {plan.aggregation.method!r})")
