"""`sotto privacy budget`: what an organization has spent, read from its ledger while a vault may be using it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from client.vault.ledger.reader import read_ledger
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap


def budget(organization: Organization) -> dict[str, Any]:
    """What an organization has spent, reserved and left, in ε at the δ of the lifetime cap in its ledger.

    The full cost of a run is charged when the run is reserved. Once all its rounds are released, the run is
    "complete" and its cost counts as spent; until then it is "reserved", and so is its cost, which is never
    refunded. Spent, reserved and left add up to the cap. The ledger is opened read-only: it is neither created
    nor written, and a vault that uses it is not disturbed.

    Raises:
        InputError: the ledger does not exist or belongs to another organization.
        LedgerError: an entry was changed or removed.
    """
    with read_ledger(organization) as ledger:
        # The ledger of an earlier version has no cap until its vault starts.
        cap, raised = ledger.cap.current or lifetime_cap(organization), ledger.cap.raised
        runs = [(run, len(ledger.settled_rounds(run.run))) for run in ledger.runs()]
        head = ledger.head
    charged = cap.spent([run.cost for run, _ in runs])
    # Under Rényi composition costs are not additive: "reserved" is the increase over what is already spent.
    spent = cap.spent([run.cost for run, settled in runs if settled >= run.rounds])
    return {
        "organization": organization.name,
        "delta": cap.delta,
        "epsilon_spent": spent,
        "epsilon_reserved": round(max(charged - spent, 0.0), 6),
        "epsilon_left": round(max(cap.epsilon - charged, 0.0), 6),
        "max_epsilon": cap.epsilon,
        "raised": raised,
        "accountant": cap.accountant,
        "head": {"number": head.number, "digest": head.digest},
        "runs": [
            {
                "run": run.run,
                "mechanisms": [run.mechanism.to_dict()],
                "state": "complete" if settled >= run.rounds else "reserved",
                "epsilon": run.epsilon,
                "delta": run.delta,
                "rounds": run.rounds,
                "rounds_released": settled,
            }
            for run, settled in runs
        ],
    }


def times(count: int) -> str:
    """Say how often something happened.

    >>> times(1), times(2)
    ('once', '2 times')
    """
    return "once" if count == 1 else f"{count} times"


def print_budget(values: Mapping[str, Any], console: Console) -> None:
    """Print the budget: a table of runs and a line of totals."""
    if values["runs"]:
        table = Table("run", "ε", "δ", "rate q", "noise σ", "steps", "rounds released", "state")
        for run in values["runs"]:
            (mechanism,) = run["mechanisms"]
            table.add_row(
                run["run"],
                f"{run['epsilon']:.4f}",
                f"{run['delta']:g}",
                f"{mechanism['sample_rate']:.4g}",
                f"{mechanism['noise_multiplier']:g}",
                str(mechanism["steps"]),
                f"{run['rounds_released']} of {run['rounds']}",
                run["state"],
            )
        console.print(table)
    raised = f"; the cap was raised {times(values['raised'])}" if values["raised"] else ""
    console.print(
        f"{values['organization']}: ε spent {values['epsilon_spent']:.4f}, reserved "
        f"{values['epsilon_reserved']:.4f}, left {values['epsilon_left']:.4f} of {values['max_epsilon']:g} at "
        f"δ = {values['delta']:g} ({values['accountant']}); ledger entry {values['head']['number']}{raised}",
        highlight=False,
        soft_wrap=True,
    )
