"""`sotto client check`: what is wrong at home, found before anything is served.

Nothing is spent, written or sent, no record is trained on, and a running vault is not disturbed. What is found
holds true numbers of the records: it is for the administrator's own terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from client.check.device import check_device
from client.check.findings import Check
from client.check.ledger import check_ledger
from client.check.models import check_models
from client.check.plan import check_plan
from client.check.records import check_examples, check_records
from client.check.socket import check_socket
from client.vault.policy.organization import Organization
from common.plan.plan import Plan

if TYPE_CHECKING:
    from client.relay.settings import Relay

GROUPS = ("records", "model", "device", "ledger", "plan", "connection")
_STYLES = {"ok": "green", "warning": "yellow", "wrong": "red"}


def check(
    organization: Organization,
    plan: Plan | None = None,
    relay: Relay | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> list[Check]:
    """Look at everything that an organization's file names.

    Args:
        organization: its file.
        plan: a plan that should run here; None to look at the organization alone.
        relay: its relay's file; None to ask neither its vault nor the server.
        told: what is being looked at, for whoever waits.

    Returns:
        What was found, by group in the order of `GROUPS`. Whatever goes wrong on the way is a finding too.

    Raises:
        ModuleNotFoundError: there is a relay's file, and the relay's libraries are not installed.
    """
    return sorted(_look(organization, plan, relay, told), key=lambda found: GROUPS.index(found.group))


def _look(
    organization: Organization, plan: Plan | None, relay: Relay | None, told: Callable[[str], None]
) -> Iterator[Check]:
    yield from check_socket(organization)
    if relay is not None:
        # With the libraries of the relay, which a vault alone lacks.
        from client.check.connection import check_relay

        # First: what is sent to the server is sent before any record was opened.
        told("vault and server")
        yield from check_relay(organization, relay)
    told("ledger")
    yield from check_ledger(organization)
    if plan is not None:
        told("plan")
        yield from check_plan(organization, plan)
    told("records")
    records = yield from check_records(organization)
    told("base models")
    tokenizer = yield from check_models(organization, plan)
    units = None
    if plan is not None and records is not None and tokenizer is not None:
        told("records as the plan encodes them")
        units = yield from check_examples(organization, plan, records, tokenizer)
    told("device")
    yield from check_device(organization, plan, units)


def to_json(organization: Organization, found: Sequence[Check]) -> dict[str, Any]:
    """What was found, for machines."""
    return {
        "organization": organization.name,
        "checks": [{"group": one.group, "name": one.name, "state": one.state, "text": one.text} for one in found],
        "ok": all_well(found),
    }


def all_well(found: Sequence[Check]) -> bool:
    """Whether nothing is wrong; warnings are allowed."""
    return all(one.state != "wrong" for one in found)


def print_checks(organization: Organization, found: Sequence[Check], console: Console) -> None:
    """One line a finding, and a line that sums them up."""
    for one in found:
        line = Text(f"{one.state:8}", _STYLES[one.state])
        console.print(line.append(f"{one.group:11}{one.name}: {one.text}", "default"), soft_wrap=True)
    wrong, warnings = (sum(one.state == state for one in found) for state in ("wrong", "warning"))
    console.print(
        f"{organization.name}: {wrong or 'nothing'} wrong, {warnings} to look at, {len(found)} looked at",
        highlight=False,
        soft_wrap=True,
    )
