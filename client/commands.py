"""The organization's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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

vault, supernode, client, privacy, init = (typer.Typer() for _ in range(5))
GROUPS = {"vault": vault, "supernode": supernode, "client": client, "privacy": privacy, "init": init}

RelayFile = Annotated[Path, typer.Argument(help="relay.toml")]


@vault.command("start")
def start_vault(organization: OrganizationFile) -> None:
    """Guard an organization's records and train on them, until Ctrl-C. Needs no network."""
    from client.vault.policy.organization import Organization
    from client.vault.start import serve_vault
    from client.vault.training.entropy import SystemEntropy

    logs.begin("vault", private=True)
    own = Organization.read(organization)
    logs.begin("vault", own.name, private=True)
    with logs.nothing_else():
        serve_vault(own, SystemEntropy(), logs.report)


@supernode.command("start")
def start_supernode(relay: RelayFile, insecure: Insecure = False) -> None:
    """Relay between the server and the vault, until Ctrl-C. Sees no records."""
    from client.relay.settings import Relay
    from client.relay.supernode import serve_relay

    logs.begin("relay")
    own = Relay.read(relay)
    logs.begin("relay", own.name)
    serve_relay(own.without_tls() if insecure else own, logs.report)


@client.command("start")
def start_client(organization: OrganizationFile, relay: RelayFile, insecure: Insecure = False) -> None:
    """Run vault and relay under one user, until Ctrl-C; the relay could then read what this user can."""
    from client.admin.start import serve_both

    logs.begin("client")
    serve_both(organization, relay, logs.warn, insecure=insecure)


@client.command("keys")
def make_client_keys(
    folder: Annotated[Path, typer.Argument(help="Where the keys go.")],
    name: Annotated[str, typer.Option(help="The organization's name.")] = "NAME",
) -> None:
    """Make the organization's keys, at home; print the public halves."""
    from client.admin.keys import make_keys

    for key in make_keys(folder, name):
        report(f"{key.public}: {key.line.strip()}")
        report(f"  fingerprint {key.fingerprint}")
    register = f"sotto server register {name} node.pub statement.pub"
    report(f"give both .pub files to the coordinator, who runs: {register}")


@client.command("approve")
def approve_plan(organization: OrganizationFile, plan: PlanFile) -> None:
    """Show what a plan would cost, and record it as approved."""
    from client.admin.cost import price
    from client.vault.policy.approval import Approvals
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    own, chosen = Organization.read(organization), Plan.read(plan)
    cost = price(own, chosen)
    report(
        f"{chosen.name}: {cost.mechanism.steps} steps at rate {cost.mechanism.sample_rate:.4g} with noise "
        f"σ = {cost.mechanism.noise_multiplier} cost ε = {cost.epsilon} at δ = {cost.delta:g}"
    )
    report(f"lifetime: ε = {cost.spent} of {cost.cap.epsilon} is spent; after this run {cost.after}")
    Approvals(own.path(own.policy.approvals)).add(chosen)
    report(f"approved: {chosen.digest()}")


@client.command("check")
def check_client(
    organization: OrganizationFile,
    relay: Annotated[Path | None, typer.Option(help="relay.toml: ask its vault and the server, too.")] = None,
    plan: Annotated[Path | None, typer.Option(help="A plan that should run here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong at home, before anything is served. Nothing is spent, written or trained."""
    from client.check.check import all_well, check, print_checks, to_json
    from client.relay.settings import Relay
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    own, chosen = Organization.read(organization), Plan.read(plan) if plan else None
    node = Relay.read(relay) if relay else None
    with errors.status("looking") as status:
        found = check(own, chosen, node, lambda text: status.update(f"looking at: {text}"))
    if as_json:
        print_json(to_json(own, found))
    else:
        print_checks(own, found, screen)
    if not all_well(found):
        raise typer.Exit(1)


@client.command("anonymize")
def anonymize_client(
    organization: OrganizationFile,
    preview: Annotated[bool, typer.Option("--preview", help="Show it; nothing is ever written.")] = False,
    plan: Annotated[Path | None, typer.Option(help="Look at what this plan reads; else at every field.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Of each kind, at most.")] = 3,
) -> None:
    """Show what the table data.anonymize replaces in the organization's own records, on its own terminal."""
    from client.admin.preview import preview as look
    from client.admin.preview import print_preview
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    if not preview:
        raise InputError("give --preview: a vault replaces by itself whenever it encodes, and no file is written")
    own, chosen = Organization.read(organization), Plan.read(plan) if plan else None
    with errors.status("looking") as status:
        made = look(own, chosen, examples, lambda text: status.update(f"looking: {text}"))
    print_preview(own, made, screen)


@privacy.command("budget")
def show_budget(organization: OrganizationFile, as_json: AsJson = False) -> None:
    """Show what an organization spent, reserved and has left. Its vault may run meanwhile."""
    from client.admin.budget import budget, print_budget
    from client.vault.policy.organization import Organization

    values = budget(Organization.read(organization))
    if as_json:
        print_json(values)
        return
    print_budget(values, screen)


@init.command("organization")
def init_organization(path: NewFile) -> None:
    """An organization: its records and its policy, read by the vault."""
    from client.vault.policy.organization import Organization

    write_template(path, Organization)


@init.command("relay")
def init_relay(path: NewFile) -> None:
    """A relay: where the vault and the server are."""
    from client.relay.settings import Relay

    write_template(path, Relay)
