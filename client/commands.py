"""The organization's commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InputError
from common.system import logs
from common.system.console import (
    AsJson,
    Insecure,
    NewFile,
    OrganizationFile,
    PlanFile,
    errors,
    print_json,
    report,
    screen,
    write_template,
)

if TYPE_CHECKING:
    from client.admin.raise_cap import CapRaise

vault, supernode, client, privacy, init = (typer.Typer() for _ in range(5))
GROUPS = {"vault": vault, "supernode": supernode, "client": client, "privacy": privacy, "init": init}

RelayFile = Annotated[Path, typer.Argument(help="relay.toml")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask: for scripts.")]


@vault.command("start")
def start_vault(organization: OrganizationFile) -> None:
    """Hold an organization's records and train on them until Ctrl-C. Needs no network."""
    from client.vault.policy.organization import Organization
    from client.vault.start import serve_vault
    from client.vault.training.entropy import SystemEntropy

    logs.configure("vault", private=True)
    settings = Organization.read(organization)
    logs.configure("vault", settings.name, private=True)
    with logs.nothing_else():
        serve_vault(settings, SystemEntropy(), logs.report)


@supernode.command("start")
def start_supernode(relay: RelayFile, insecure: Insecure = False) -> None:
    """Relay messages between the server and the vault until Ctrl-C. Opens no records."""
    from client.relay.settings import Relay
    from client.relay.supernode import serve_relay

    logs.configure("relay")
    settings = Relay.read(relay)
    logs.configure("relay", settings.name)
    serve_relay(settings.without_tls() if insecure else settings, logs.report)


@client.command("start")
def start_client(organization: OrganizationFile, relay: RelayFile, insecure: Insecure = False) -> None:
    """Run vault and relay under one user until Ctrl-C; the relay could then read what this user can."""
    from client.admin.start import serve_both

    logs.configure("client")
    serve_both(organization, relay, logs.warn, insecure=insecure)


@client.command("keys")
def make_client_keys(
    folder: Annotated[Path, typer.Argument(help="Where to write the keys.")],
    name: Annotated[str, typer.Option(help="The organization's name.")] = "NAME",
) -> None:
    """Create the organization's keys on this machine and print the public keys."""
    from client.admin.keys import make_keys

    for key in make_keys(folder, name):
        report(f"{key.public}: {key.line.strip()}")
        report(f"  fingerprint {key.fingerprint}")
    register = f"sotto server register {name} node.pub statement.pub"
    report(f"give both .pub files to the coordinator, who runs: {register}")


@client.command("approve")
def approve_plan(
    organization: OrganizationFile,
    plan: PlanFile,
    runs: Annotated[int, typer.Option(help="How many runs to approve, from 1 to 1000.")] = 1,
    yes: Yes = False,
) -> None:
    """Show what a plan would cost, ask, and record it as approved for one more run."""
    from client.admin.approvals import approve, check_runs
    from client.admin.cost import plan_cost
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    check_runs(runs)
    settings, chosen = Organization.read(organization), Plan.read(plan)
    cost = plan_cost(settings, chosen, runs)
    _require_terminal(yes)
    report(
        f"{chosen.name}: {cost.mechanism.steps} steps at rate {cost.mechanism.sample_rate:.4g} with noise "
        f"σ = {cost.mechanism.noise_multiplier} cost ε = {cost.epsilon} at δ = {cost.delta:g}"
    )
    these = "this run" if runs == 1 else f"these {runs} runs"
    report(f"lifetime: ε = {cost.spent} of {cost.cap.epsilon} spent so far; {cost.after} after {these}")
    if not _confirmed(f"Approve {'one run' if runs == 1 else f'{runs} runs'} of this plan?", yes):
        raise typer.Exit(1)
    left = approve(settings, chosen, runs)
    report(f"approved: {chosen.digest()}; runs left: {left}")


@client.command("approvals")
def list_approved_plans(organization: OrganizationFile, as_json: AsJson = False) -> None:
    """List the approved plans, and how many of the approved runs are left."""
    from client.admin.approvals import list_approvals, print_approvals
    from client.vault.policy.organization import Organization

    values = list_approvals(Organization.read(organization))
    if as_json:
        print_json(values)
        return
    print_approvals(values, screen)


@client.command("withdraw")
def withdraw_approval(
    organization: OrganizationFile,
    plan: Annotated[str, typer.Argument(help="The plan's file, or at least 8 digits of its digest.")],
) -> None:
    """Withdraw the approval of a plan. A run that is already charged goes on."""
    from client.admin.approvals import withdraw
    from client.vault.policy.organization import Organization

    settings = Organization.read(organization)
    approval, left = withdraw(settings, plan)
    report(f"withdrawn: {approval.digest}, {approval.name}; approved runs that were left: {left}")
    if settings.policy.plans == "any-within-policy":
        report('policy.plans = "any-within-policy": the vault runs this plan without an approval')


@client.command("check")
def check_client(
    organization: OrganizationFile,
    relay: Annotated[
        Path | None, typer.Option(help="relay.toml: also check the connection to vault and server.")
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan to check against this organization.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check an organization's setup before starting it. Spends no budget and writes nothing."""
    from client.check.check import check, passed, print_findings, to_json
    from client.relay.settings import Relay
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    settings, chosen = Organization.read(organization), Plan.read(plan) if plan else None
    node = Relay.read(relay) if relay else None
    with errors.status("checking") as status:
        findings = check(settings, chosen, node, lambda text: status.update(f"checking: {text}"))
    if as_json:
        print_json(to_json(settings, findings))
    else:
        print_findings(settings, findings, screen)
    if not passed(findings):
        raise typer.Exit(1)


@client.command("anonymize")
def anonymize_client(
    organization: OrganizationFile,
    preview: Annotated[
        bool, typer.Option("--preview", help="Required: show the replacements; nothing is written.")
    ] = False,
    plan: Annotated[
        Path | None, typer.Option(help="Search the fields that this plan reads; by default every field.")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="Examples of each kind, at most.")] = 3,
) -> None:
    """Show on this terminal what data.anonymize replaces in the organization's records."""
    from client.admin.preview import preview as preview_replacements
    from client.admin.preview import print_preview
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    if not preview:
        raise InputError(
            "--preview is required: a vault anonymizes whenever it encodes records, and writes no file"
        )
    settings, chosen = Organization.read(organization), Plan.read(plan) if plan else None
    with errors.status("searching") as status:
        result = preview_replacements(settings, chosen, examples, lambda text: status.update(f"searching: {text}"))
    print_preview(settings, result, screen)


@privacy.command("budget")
def show_budget(organization: OrganizationFile, as_json: AsJson = False) -> None:
    """Show what an organization has spent, reserved and left. Its vault may be running."""
    from client.admin.budget import budget, print_budget
    from client.vault.policy.organization import Organization

    values = budget(Organization.read(organization))
    if as_json:
        print_json(values)
        return
    print_budget(values, screen)


@privacy.command("raise-cap")
def raise_lifetime_cap(organization: OrganizationFile, yes: Yes = False) -> None:
    """Raise the lifetime cap in the ledger to that of organization.toml. The vault must not be running."""
    from client.admin.budget import times
    from client.admin.raise_cap import raise_cap
    from client.vault.policy.organization import Organization

    settings = Organization.read(organization)

    def confirm(change: CapRaise) -> bool:
        _require_terminal(yes)
        before, after = change.current, change.wanted
        earlier = f"; it was raised {times(change.raised)} before" if change.raised else ""
        report(
            f"{settings.name}: lifetime cap ε = {before.epsilon}, δ = {before.delta} becomes ε = {after.epsilon}, "
            f"δ = {after.delta}; ε = {change.spent} is spent{earlier}"
        )
        return _confirmed("Every later statement will say that the cap was raised. Raise it?", yes)

    if not raise_cap(settings, confirm):
        raise typer.Exit(1)
    report(f"raised: the vault of {settings.name} may now spend ε = {settings.policy.max_epsilon} in all")


def _require_terminal(yes: bool) -> None:
    """Check that a question can be asked, or need not be."""
    if not yes and not (sys.stdin and sys.stdin.isatty()):
        raise InputError("there is no terminal to ask on; to answer yes in a script, add --yes")


def _confirmed(question: str, yes: bool) -> bool:
    """Ask on the terminal, unless the answer is given."""
    if yes or typer.confirm(question):
        return True
    report("nothing was recorded")
    return False


@init.command("organization")
def init_organization(path: NewFile) -> None:
    """Write a template of organization.toml: records and policy, read by the vault."""
    from client.vault.policy.organization import Organization

    write_template(path, Organization)


@init.command("relay")
def init_relay(path: NewFile) -> None:
    """Write a template of relay.toml: where the vault and the server are."""
    from client.relay.settings import Relay

    write_template(path, Relay)
