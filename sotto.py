"""The command line of Sotto: a table of commands; what they do is elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from common.errors import InputError, SottoError
from common.settings import Section, template
from common.untrusted import printable, printable_lines

if TYPE_CHECKING:
    from server.registry import Registry
    from server.superlink import Server

# Quiet and offline, before any library that reads these is imported.
for _name, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Threads that wait for long should sleep: spinning ones bring a busy machine to a crawl.
    "GOMP_SPINCOUNT": "10000",
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    "GRPC_VERBOSITY": "NONE",
}.items():
    os.environ.setdefault(_name, _value)

_HELP = "Fine-tune one language model together, without showing anybody a record."

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=_HELP)
_groups = {
    "server": "The coordinator's server.",
    "vault": "The process with the data.",
    "supernode": "The process with the network.",
    "client": "Both processes of an organization.",
    "privacy": "What a run cost, what is left, what a plan would need.",
    "init": "Write a commented file to start from.",
}
server, vault, supernode, client, privacy, init = (
    typer.Typer(no_args_is_help=True, help=text) for text in _groups.values()
)
for _group, _table in zip(_groups, (server, vault, supernode, client, privacy, init), strict=True):
    app.add_typer(_table, name=_group)

_MOST_OF_AN_ERROR = 4000
_screen = Console()
_errors = Console(stderr=True)

OrganizationFile = Annotated[Path, typer.Argument(help="organization.toml")]
RelayFile = Annotated[Path, typer.Argument(help="relay.toml")]
ServerFile = Annotated[Path | None, typer.Argument(help="server.toml; without one, the defaults.")]
ServerOption = Annotated[Path | None, typer.Option("--server", help="server.toml; without it, the defaults.")]
NewFile = Annotated[Path, typer.Argument(help="A new file.")]
Result = Annotated[Path, typer.Argument(help="A run directory, an adapter folder, or a model folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.command()
def simulate(
    plan: Annotated[Path | None, typer.Argument(help="A plan; without one, the embedded demo.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; by default a new one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    no_privacy: Annotated[bool, typer.Option("--no-privacy", help="Train without clipping and noise.")] = False,
) -> None:
    """Run a plan with many organizations on this machine."""
    from common.plan import Plan
    from server.progress import ProgressBar
    from server.run_directory import ensure_free, new_run_id
    from server.summary import print_summary
    from simulations.demo.prepare import prepare_demo
    from simulations.run import organizations_of, simulate

    if resume and out is None:
        raise InputError("--resume needs --out: the directory of the run to continue")
    read = Plan.read(plan) if plan else None
    run = new_run_id(read.name if read else "demo")
    folder = out or Path("runs") / run
    if not resume:
        ensure_free(folder)
    try:
        with _screen.status("loading"):
            chosen = read or prepare_demo(folder / "data")
            records = organizations_of(chosen)
        with ProgressBar(chosen, not no_privacy, _screen) as bar:
            result = simulate(
                chosen, records, folder, run=run, resume=resume, private=not no_privacy, observer=bar
            )
    except KeyboardInterrupt:
        words = [
            "sotto simulate",
            str(plan or ""),
            f"--out {folder} --resume",
            "--no-privacy" if no_privacy else "",
        ]
        _errors.print(f"stopped; continue with: {escape(' '.join(filter(None, words)))}", soft_wrap=True)
        raise typer.Exit(130) from None
    print_summary(result.directory, result.report, _screen, result.answers)


@app.command("run")
def run_plan(
    plan: Annotated[Path, typer.Argument(help="The plan.")],
    out: Annotated[Path, typer.Option(help="The run directory: a new one, or with --resume the run's.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    server: ServerOption = None,
) -> None:
    """Run a plan with the organizations that are connected to the server of this machine."""
    from common.plan import Plan
    from server.progress import ProgressBar
    from server.run import run_federated
    from server.run_directory import new_run_id
    from server.summary import print_summary

    chosen, settings = Plan.read(plan), _settings(server)
    try:
        with ProgressBar(chosen, True, _screen) as bar:
            directory, report = run_federated(
                chosen, out, settings, resume=resume, run=new_run_id(chosen.name), observer=bar
            )
    except KeyboardInterrupt:
        words = f"sotto run {plan} --out {out} --resume" + (f" --server {server}" if server else "")
        _errors.print(f"stopped; continue with: {escape(words)}", soft_wrap=True)
        raise typer.Exit(130) from None
    print_summary(directory, report, _screen)


@server.command("start")
def start_server(settings: ServerFile = None) -> None:
    """Run Flower's SuperLink on this machine until Ctrl-C."""
    from server.superlink import serve

    serve(_settings(settings), _report)


@vault.command("start")
def start_vault(organization: OrganizationFile) -> None:
    """Guard an organization's records and train on them, until Ctrl-C. Needs no network."""
    from client.entropy import SystemEntropy
    from client.organization import Organization
    from client.start import serve_vault

    serve_vault(Organization.read(organization), SystemEntropy(), _report)


@supernode.command("start")
def start_supernode(relay: RelayFile) -> None:
    """Relay between the server and the vault, until Ctrl-C. Sees no records."""
    from client.supernode import Relay, serve_relay

    serve_relay(Relay.read(relay), _report)


@client.command("start")
def start_client(organization: OrganizationFile, relay: RelayFile) -> None:
    """Run vault and relay under one user, until Ctrl-C; the relay could then read what this user can."""
    from client.both import serve_both

    serve_both(organization, relay, _report)


@client.command("keys")
def make_client_keys(
    folder: Annotated[Path, typer.Argument(help="Where the keys go.")],
    name: Annotated[str, typer.Option(help="The organization's name.")] = "NAME",
) -> None:
    """Make the organization's statement key, at home; print the public half."""
    from client.keys import make_keys
    from common.signing import key_fingerprint, read_public

    public = make_keys(folder, name)
    _report(f"{public}: give this file to the coordinator, who runs: sotto server register {name} {public.name}")
    _report(f"its fingerprint is {key_fingerprint(read_public(public))}")


@client.command("approve")
def approve_plan(organization: OrganizationFile, plan: Annotated[Path, typer.Argument(help="The plan.")]) -> None:
    """Show what a plan would cost, and record it as approved."""
    from client.approval import Approvals
    from client.organization import Organization
    from client.price import price
    from common.plan import Plan

    own, chosen = Organization.read(organization), Plan.read(plan)
    cost = price(own, chosen)
    _report(
        f"{chosen.name}: {cost.mechanism.steps} steps at rate {cost.mechanism.sample_rate:.4g} with noise "
        f"σ = {cost.mechanism.noise_multiplier} cost ε = {cost.epsilon} at δ = {cost.delta:g}"
    )
    _report(f"lifetime: ε = {cost.spent} of {cost.cap.epsilon} is spent; after this run {cost.after}")
    Approvals(own.path(own.policy.approvals)).add(chosen)
    _report(f"approved: {chosen.digest()}")


@server.command("register")
def register_organization(
    name: Annotated[str, typer.Argument(help="The organization's name.")],
    key: Annotated[Path, typer.Argument(help="Its statement.pub.")],
    settings: ServerOption = None,
) -> None:
    """Take an organization's public key: only its signatures count from now on."""
    from common.signing import key_fingerprint

    public = _registry(settings).register(name, key)
    _report(f"{name}: registered; compare the fingerprint {key_fingerprint(public)} with the organization")


@server.command("revoke")
def revoke_organization(
    name: Annotated[str, typer.Argument(help="The organization's name.")], settings: ServerOption = None
) -> None:
    """Forget an organization's key and the head of its ledger."""
    _registry(settings).revoke(name)
    _report(f"{name}: revoked")


@server.command("list")
def list_organizations(settings: ServerOption = None) -> None:
    """Show the registered organizations."""
    from common.signing import key_fingerprint

    for name, public in _registry(settings).keys().items():
        _report(f"{name}  {key_fingerprint(public)}")


@privacy.command("calibrate")
def calibrate_plan(
    plan: Annotated[Path, typer.Argument(help="The plan.")],
    public_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Public size of an organization; may be given more than once.")
    ] = None,
    organization: Annotated[
        list[Path] | None, typer.Option(help="An organization.toml; may be given more than once.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what noise a plan needs, what it costs, and what other settings would need. Nothing is spent."""
    from common.calibration import calibrate
    from common.calibration_table import print_calibration
    from common.model import trained_coordinates
    from common.plan import Plan
    from simulations.public_numbers import public_numbers

    chosen = Plan.read(plan)
    with _errors.status("loading") as status:
        numbers = public_numbers(chosen, public_size or [], organization or [])
        values = calibrate(
            chosen, numbers, trained_coordinates(chosen), lambda text: status.update(f"computing: {text}")
        )
    if as_json:
        _print_json(values)
        return
    print_calibration(values, _screen)


@privacy.command("budget")
def show_budget(organization: OrganizationFile, as_json: AsJson = False) -> None:
    """Show what an organization spent, reserved and has left. Its vault may run meanwhile."""
    from client.budget import budget, print_budget
    from client.organization import Organization

    values = budget(Organization.read(organization))
    if as_json:
        _print_json(values)
        return
    print_budget(values, _screen)


@privacy.command("report")
def report_privacy(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    html: Annotated[Path | None, typer.Option(help="Write the report as one page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report for machines.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="A folder of NAME.pub to verify with, in place of the run's own.")
    ] = None,
) -> None:
    """Verify the statements of a run and compute again what it cost. Exit code 1 if one does not hold."""
    from server.audit import print_report, raise_problems, read_report, write_report

    with _errors.status("computing"):
        directory, report = read_report(run, keys)
        write_report(directory, report, html, json_file)
    print_report(report, _screen)
    raise_problems(report)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="A complete run directory, or an adapter folder.")],
    out: Annotated[Path, typer.Option(help="A new folder for the merged model.")],
) -> None:
    """Merge the adapter into the base model: a Hugging Face folder."""
    from server.result import merge

    with _screen.status("merging"):
        difference = merge(run, out)
    _screen.print(
        f"{out}: merged; largest difference of a logit {difference:.1e}", highlight=False, soft_wrap=True
    )


@app.command()
def evaluate(
    result: Result,
    data: Annotated[Path, typer.Option(help="Records: .jsonl or .jsonl.gz.")],
    template: Annotated[str | None, typer.Option(help="Text of a record, where the folder holds no plan.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on public records."""
    from common.plan import Task
    from common.settings import validate
    from server.evaluate import evaluate
    from server.result import load_result

    with _errors.status("evaluating"):
        model, tokenizer, plan = load_result(result)
        if template is not None:
            section = validate({"template": template}, Task, "--template")
        else:
            section = plan.task if plan else Task()
        metrics = evaluate(model, tokenizer, section, data)
    if as_json:
        _print_json(metrics)
        return
    for name, value in metrics.items():
        _screen.print(f"{name:12} {value:.6g}", highlight=False)


@app.command()
def generate(
    result: Result,
    prompt: Annotated[list[str], typer.Option(help="Text to continue; may be given more than once.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 80,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Let a model continue prompts."""
    from server.generate import generate
    from server.result import load_result

    with _errors.status("generating"):
        model, tokenizer, _ = load_result(result)
        texts = [generate(model, tokenizer, text, max_new_tokens, temperature) for text in prompt]
    if as_json:
        sys.stdout.write(json.dumps(dict(zip(prompt, texts, strict=True)), ensure_ascii=False) + "\n")
        return
    for text in texts:
        _screen.print(escape(printable_lines(text)), highlight=False, soft_wrap=True)


@init.command("plan")
def init_plan(path: NewFile) -> None:
    """A plan: what all participants agree on."""
    from common.plan import Plan

    _write_template(path, Plan)


@init.command("organization")
def init_organization(path: NewFile) -> None:
    """An organization: its records and its policy, read by the vault."""
    from client.organization import Organization

    _write_template(path, Organization)


@init.command("relay")
def init_relay(path: NewFile) -> None:
    """A relay: where the vault and the server are."""
    from client.supernode import Relay

    _write_template(path, Relay)


@init.command("server")
def init_server(path: NewFile) -> None:
    """A server: where the coordinator's SuperLink listens."""
    from server.superlink import Server

    _write_template(path, Server)


def _settings(path: Path | None) -> Server:
    from server.superlink import Server

    return Server.read(path) if path else Server()


def _registry(settings: Path | None) -> Registry:
    from server.registry import Registry

    return Registry(_settings(settings).registry)


def _print_json(values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")


def _report(text: str) -> None:
    _screen.print(text, highlight=False, soft_wrap=True, markup=False)


def _write_template(path: Path, kind: type[Section]) -> None:
    if path.exists():
        raise InputError(f"{path}: exists already; give the name of a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template(kind), encoding="utf-8")
    _screen.print(f"{path}: written; every key is explained where it stands", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; every foreseen error is one line and its exit code."""
    logging.getLogger().setLevel(logging.WARNING)
    # What libraries will change some day is for us to read in the tests, not for users on their screens.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except SottoError as error:
        # It may hold what another party wrote: a reason, a name, a line of a file.
        text = escape(printable(str(error), _MOST_OF_AN_ERROR))
        _errors.print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
