"""`sotto client check`: validate an organization's setup before it is started.

No budget is spent, nothing is written, no record is trained on or sent, and a running vault is not disturbed. The
findings contain true counts of the records: they are for the administrator's own terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from client.check.device import check_device
from client.check.findings import Finding
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
    report: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Check everything that an organization's settings refer to.

    Args:
        organization: the organization's settings.
        plan: a plan to check against them; None to check the organization alone.
        relay: the relay's settings; None to connect neither to the vault nor to the server.
        report: called with what is being checked, to show progress.

    Returns:
        The findings, sorted by group in the order of `GROUPS`. An error in a check is a finding too.

    Raises:
        ModuleNotFoundError: a relay is given, and the relay's libraries are not installed.
    """
    return sorted(_run(organization, plan, relay, report), key=lambda finding: GROUPS.index(finding.group))


def _run(
    organization: Organization, plan: Plan | None, relay: Relay | None, report: Callable[[str], None]
) -> Iterator[Finding]:
    yield from check_socket(organization)
    if relay is not None:
        # Imports the relay's libraries, which an installation of the vault alone lacks.
        from client.check.connection import check_relay

        # Before any record is opened, so that what is sent to the server cannot depend on one.
        report("vault and server")
        yield from check_relay(organization, relay)
    report("ledger")
    yield from check_ledger(organization)
    if plan is not None:
        report("plan")
        yield from check_plan(organization, plan)
    report("records")
    records = yield from check_records(organization)
    report("base models")
    tokenizer = yield from check_models(organization, plan)
    encoded = None
    if plan is not None and records is not None and tokenizer is not None:
        report("records as the plan encodes them")
        encoded = yield from check_examples(organization, plan, records, tokenizer)
    report("device")
    yield from check_device(organization, plan, encoded)


def to_json(organization: Organization, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings in machine-readable form."""
    return {
        "organization": organization.name,
        "checks": [
            {"group": finding.group, "name": finding.name, "state": finding.state, "text": finding.text}
            for finding in findings
        ],
        "ok": passed(findings),
    }


def passed(findings: Sequence[Finding]) -> bool:
    """Whether nothing is wrong; warnings are allowed."""
    return all(finding.state != "wrong" for finding in findings)


def print_findings(organization: Organization, findings: Sequence[Finding], console: Console) -> None:
    """Print one line per finding, and a summary line."""
    for finding in findings:
        line = Text(f"{finding.state:8}", _STYLES[finding.state])
        console.print(line.append(f"{finding.group:11}{finding.name}: {finding.text}", "default"), soft_wrap=True)
    wrong, warnings = (sum(finding.state == state for finding in findings) for state in ("wrong", "warning"))
    console.print(
        f"{organization.name}: {wrong or 'nothing'} wrong, {warnings} to review, {len(findings)} checked",
        highlight=False,
        soft_wrap=True,
    )
