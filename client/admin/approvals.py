"""`sotto client approve`, `approvals` and `withdraw`: which plans a vault may run, and how often."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from client.vault.ledger.reader import read_ledger
from client.vault.ledger.reservation import Reservation, count_runs
from client.vault.policy.approval import Approval, Approvals
from client.vault.policy.organization import Organization
from common.errors import InputError
from common.plan.plan import Plan
from common.untrusted import printable

# Of one command. Everything the approved runs may cost is shown before the question.
MOST_RUNS = 1000
# Digits of a digest that are shown, and the least that identify a plan.
_SHOWN_DIGITS, _LEAST_DIGITS = 12, 8


def check_runs(runs: int) -> None:
    """Check the number of runs of a new approval.

    Raises:
        InputError: it is out of range.
    """
    if not 1 <= runs <= MOST_RUNS:
        raise InputError(f"--runs {runs}: it should be a number of runs from 1 to {MOST_RUNS}")


def approve(organization: Organization, plan: Plan, runs: int) -> int:
    """Approve more runs of a plan.

    Returns:
        How many runs are approved and not yet used.

    Raises:
        InputError: the approved plans cannot be read or written, or the ledger cannot be read.
    """
    used = count_runs(_charged_runs(organization), plan.digest())
    return _file(organization).add(plan, runs, used).left(used)


def approved_runs(organization: Organization, plan: Plan) -> tuple[Approval | None, int]:
    """The approval of a plan, if there is one, and how many runs of it are left.

    Raises:
        InputError: the approved plans or the ledger cannot be read.
    """
    approval = _file(organization).read().get(plan.digest())
    used = count_runs(_charged_runs(organization), plan.digest())
    return approval, approval.left(used) if approval else 0


def list_approvals(organization: Organization) -> dict[str, Any]:
    """All approvals, with the number of runs that the ledger contains.

    Raises:
        InputError: the approved plans or the ledger cannot be read.
    """
    charged = _charged_runs(organization)
    return {
        "organization": organization.name,
        "required": organization.policy.plans == "approved",
        "plans": [
            {
                "plan": approval.name,
                "digest": approval.digest,
                "at": approval.at,
                "runs_approved": approval.total,
                "runs_used": count_runs(charged, approval.digest),
                "runs_left": approval.left(count_runs(charged, approval.digest)),
            }
            for approval in _file(organization).read().values()
        ],
    }


def print_approvals(values: Mapping[str, Any], console: Console) -> None:
    """Print the approvals as a table."""
    if values["plans"]:
        table = Table("plan", "digest", "approved at", "runs approved", "used", "left")
        for row in values["plans"]:
            numbers = (row["runs_approved"], row["runs_used"], row["runs_left"])
            table.add_row(row["plan"], row["digest"][:_SHOWN_DIGITS], row["at"], *map(str, numbers))
        console.print(table)
    else:
        console.print(f"{values['organization']}: no plan is approved", highlight=False, soft_wrap=True)
    if not values["required"]:
        console.print(
            'policy.plans = "any-within-policy": the vault needs no approval', highlight=False, soft_wrap=True
        )


def withdraw(organization: Organization, plan: str) -> tuple[Approval, int]:
    """Withdraw the approval of a plan. A run that is already charged goes on.

    Args:
        organization: the organization's settings.
        plan: the plan's file, or at least the first eight digits of its digest.

    Returns:
        The approval, and how many of its runs were not used.

    Raises:
        InputError: no such plan is approved, or the approved plans or the ledger cannot be read or written.
    """
    file = _file(organization)
    approvals = file.read()
    start = _digest(plan)
    found = [approval for digest, approval in approvals.items() if digest.startswith(start)]
    if not found:
        raise InputError(
            f"{printable(plan)}: no plan with digest {start} is approved; see: sotto client approvals"
        )
    if len(found) > 1:
        raise InputError(
            f"{printable(plan)}: {len(found)} approved plans have a digest that starts with it; give more digits"
        )
    used = count_runs(_charged_runs(organization), found[0].digest)
    file.withdraw(found[0].digest)
    return found[0], found[0].left(used)


def _digest(plan: str) -> str:
    """The digest of a plan's file, or the digits that are given."""
    if re.fullmatch(f"[0-9a-f]{{{_LEAST_DIGITS},64}}", plan):
        return plan
    try:
        is_file = Path(plan).is_file()
    except (OSError, ValueError):  # too long for a path, or a null byte
        is_file = False
    if is_file:
        return Plan.read(Path(plan)).digest()
    raise InputError(
        f"{printable(plan)}: it should be the file of a plan, or its digest: {_LEAST_DIGITS} to 64 of the digits "
        "0-9 and a-f"
    )


def _file(organization: Organization) -> Approvals:
    return Approvals(organization.path(organization.policy.approvals))


def _charged_runs(organization: Organization) -> list[Reservation]:
    """The runs in the ledger; none if the vault has not created it yet."""
    if not organization.path(organization.vault.ledger).exists():
        return []
    with read_ledger(organization) as ledger:
        return ledger.runs()
