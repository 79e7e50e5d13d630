"""The command line of Sotto: a table of commands; what they do is elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from common.errors import InputError, SottoError
from common.settings import Section, template
from common.system import logs
from common.system.extras import explain_missing
from common.untrusted import printable, printable_lines

if TYPE_CHECKING:
    from server.superlink.start import Server

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
    "client": "An organization: keys, approvals, and both of its processes.",
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
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS and node keys, to try things out on this machine alone.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@app.callback()
def options(
    log_format: Annotated[
        str, typer.Option(envvar=logs.FORMAT_VARIABLE, help="Lines of the log: human, or json.")
    ] = "human",
) -> None:
    """Fine-tune one language model together, without showing anybody a record."""
    # In the environment, from which the processes that a command starts take it.
    os.environ[logs.FORMAT_VARIABLE] = log_format
    logs.begin("sotto", level=logging.WARNING)


@app.command()
def simulate(
    plan: Annotated[Path | None, typer.Argument(help="A plan; without one, the embedded demo.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; by default a new one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    no_privacy: Annotated[bool, typer.Option("--no-privacy", help="Train without clipping and noise.")] = False,
) -> None:
    """Run a plan with many organizations on this machine."""
    from common.plan.plan import Plan
    from server.run_directory.run_directory import ensure_free, new_run_id
    from server.tracking.progress import run_progress
    from server.tracking.summary import print_summary
    from simulations.demo.prepare import prepare_demo
    from simulations.simulate import organizations_of, simulate

    if resume and out is None:
        raise InputError("--resume needs --out: the directory of the run to continue")
    if logs.is_json():
        logs.begin("simulate", private=True)
    read = Plan.read(plan) if plan else None
    run = new_run_id(read.name if read else "demo")
    folder = out or Path("runs") / run
    if not resume:
        ensure_free(folder)
    try:
        with _screen.status("loading"):
            chosen = read or prepare_demo(folder / "data")
            records = organizations_of(chosen)
        with run_progress(chosen, not no_privacy, _screen) as bar:
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
        _print_stopped(" ".join(filter(None, words)))
        raise typer.Exit(130) from None
    print_summary(result.directory, result.report, _screen, result.answers)


@app.command("run")
def run_plan(
    plan: Annotated[Path, typer.Argument(help="The plan.")],
    out: Annotated[Path, typer.Option(help="The run directory: a new one, or with --resume the run's.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    server: ServerOption = None,
    insecure: Insecure = False,
) -> None:
    """Run a plan with the organizations that are connected to the server of this machine."""
    from common.plan.plan import Plan
    from server.run.run import run_federated
    from server.run_directory.run_directory import new_run_id
    from server.tracking.progress import run_progress
    from server.tracking.summary import print_summary

    logs.begin("run")
    chosen, settings = Plan.read(plan), _settings(server, insecure)
    try:
        with run_progress(chosen, True, _screen) as bar:
            directory, report = run_federated(
                chosen, out, settings, resume=resume, run=new_run_id(chosen.name), observer=bar
            )
    except KeyboardInterrupt:
        words = f"sotto run {plan} --out {out} --resume" + (f" --server {server}" if server else "")
        words += " --insecure" if insecure else ""
        _print_stopped(words)
        raise typer.Exit(130) from None
    print_summary(directory, report, _screen)


@server.command("start")
def start_server(settings: ServerFile = None, insecure: Insecure = False) -> None:
    """Run Flower's SuperLink, and the TLS door to it, until Ctrl-C."""
    from server.superlink.start import serve

    logs.begin("server")
    serve(_settings(settings, insecure), logs.report)


@server.command("certs")
def make_server_certificates(
    folder: Annotated[Path, typer.Argument(help="Where authority and certificate go.")],
    host: Annotated[list[str], typer.Option(help="A name or address of the server; may be given more than once.")],
) -> None:
    """Make a certification authority, unless there is one, and the server's certificate."""
    from server.superlink.certificates import CA, make_certificates

    for path in make_certificates(folder, host):
        _report(f"{path}: written")
    _report(f"give {folder / CA} to every organization; keep the keys to yourself")


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
        _report(f"{key.public}: {key.line.strip()}")
        _report(f"  fingerprint {key.fingerprint}")
    register = f"sotto server register {name} node.pub statement.pub"
    _report(f"give both .pub files to the coordinator, who runs: {register}")


@client.command("approve")
def approve_plan(organization: OrganizationFile, plan: Annotated[Path, typer.Argument(help="The plan.")]) -> None:
    """Show what a plan would cost, and record it as approved."""
    from client.admin.cost import price
    from client.vault.policy.approval import Approvals
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan

    own, chosen = Organization.read(organization), Plan.read(plan)
    cost = price(own, chosen)
    _report(
        f"{chosen.name}: {cost.mechanism.steps} steps at rate {cost.mechanism.sample_rate:.4g} with noise "
        f"σ = {cost.mechanism.noise_multiplier} cost ε = {cost.epsilon} at δ = {cost.delta:g}"
    )
    _report(f"lifetime: ε = {cost.spent} of {cost.cap.epsilon} is spent; after this run {cost.after}")
    Approvals(own.path(own.policy.approvals)).add(chosen)
    _report(f"approved: {chosen.digest()}")


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
    with _errors.status("looking") as status:
        found = check(own, chosen, node, lambda text: status.update(f"looking at: {text}"))
    if as_json:
        _print_json(to_json(own, found))
    else:
        print_checks(own, found, _screen)
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
    with _errors.status("looking") as status:
        made = look(own, chosen, examples, lambda text: status.update(f"looking: {text}"))
    print_preview(own, made, _screen)


@server.command("register")
def register_organization(
    name: Annotated[str, typer.Argument(help="The organization's name.")],
    node: Annotated[Path, typer.Argument(help="Its node.pub.")],
    statement: Annotated[Path, typer.Argument(help="Its statement.pub.")],
    settings: ServerOption = None,
) -> None:
    """Take an organization's public keys: only its node may enter, and only its signatures count."""
    from common.keys.statement_key import key_fingerprint
    from server.superlink.start import apply_registry

    server = _settings(settings)
    node_key, statement_key = server.organizations().register(name, node, statement)
    _report(f"{name}: registered; compare these fingerprints with the organization")
    _report(f"  node       {node_key.fingerprint}")
    _report(f"  statement  {key_fingerprint(statement_key)}")
    apply_registry(server)


@server.command("revoke")
def revoke_organization(
    name: Annotated[str, typer.Argument(help="The organization's name.")], settings: ServerOption = None
) -> None:
    """Forget an organization's keys and the head of its ledger; it is shut out at once."""
    from server.superlink.start import apply_registry

    server = _settings(settings)
    server.organizations().revoke(name)
    _report(f"{name}: revoked")
    apply_registry(server)


@server.command("list")
def list_organizations(settings: ServerOption = None) -> None:
    """Show the registered organizations and the fingerprints of their keys."""
    from common.keys.statement_key import key_fingerprint

    registry = _settings(settings).organizations()
    nodes = registry.node_keys()
    for name, public in registry.keys().items():
        node = nodes[name].fingerprint if name in nodes else "none"
        _report(f"{name}  node {node}  statement {key_fingerprint(public)}")


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
    from common.model.model import trained_coordinates
    from common.plan.plan import Plan
    from common.privacy.calibration import calibrate
    from common.privacy.calibration_table import print_calibration
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
    from client.admin.budget import budget, print_budget
    from client.vault.policy.organization import Organization

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
    from server.report.audit import print_report, raise_problems, read_report, write_report

    with _errors.status("computing"):
        directory, report = read_report(run, keys)
        write_report(directory, report, html, json_file)
    print_report(report, _screen)
    raise_problems(report)


@app.command()
def merge(
    run: Annotated[Path, typer.Argument(help="A complete run directory, or an adapter folder.")],
    out: Annotated[Path, typer.Option(help="A new folder for the merged model.")],
    quantize: Annotated[
        Literal["4bit", "8bit"] | None, typer.Option(help="Make it smaller, and say what that cost.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --quantize: public records to measure on, if not the plan's.")
    ] = None,
) -> None:
    """Merge the adapter into the base model: a Hugging Face folder."""
    if quantize is not None:
        from server.results.quantize import merge_quantized, print_saving

        with _screen.status("merging and quantizing"):
            saving = merge_quantized(run, out, quantize, data)
        print_saving(out, saving, _screen)
        return
    if data is not None:
        raise InputError("--data needs --quantize: a merge without it changes no prediction")
    from server.results.adapter_folder import merge

    with _screen.status("merging"):
        difference = merge(run, out)
    _screen.print(
        f"{out}: merged; largest difference of a logit {difference:.1e}", highlight=False, soft_wrap=True
    )


@app.command()
def evaluate(
    result: Result,
    data: Annotated[Path, typer.Option(help="Records: .jsonl, .csv or .parquet; .gz.")],
    plan: Annotated[Path | None, typer.Option(help="The plan with the task, where the folder holds none.")] = None,
    template: Annotated[str | None, typer.Option(help="Text of a record, in place of the plan's.")] = None,
    by: Annotated[str | None, typer.Option(help="A field whose values make groups to compare.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on public records, for all of them and by group."""
    from server.results.adapter_folder import load_result
    from server.results.evaluate import evaluate, print_evaluation, task_section, to_flat

    with _errors.status("evaluating"):
        model, tokenizer, own = load_result(result, plan)
        section = task_section(own, template)
        evaluation, groups = evaluate(model, tokenizer, section, data, by)
    if as_json:
        _print_json({**to_flat(evaluation), **({} if groups is None else {"by": groups.to_dict()})})
        return
    print_evaluation(evaluation, groups, _screen)


@app.command()
def generate(
    result: Result,
    prompt: Annotated[list[str] | None, typer.Option(help="May be given more than once.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file of prompts, one a line.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to add at most.")] = 80,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest tokens only.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a model continue prompts, or answer them if it was trained for chat."""
    from server.results.adapter_folder import load_result
    from server.results.generate import Sampling, generate, read_prompts

    asked = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not asked:
        raise InputError("there is no prompt; give --prompt TEXT or --prompts FILE")
    sampling = Sampling(max_new_tokens, temperature, top_p, tuple(stop or ()))
    with _errors.status("loading"):
        model, tokenizer, plan = load_result(result)
    section = plan.task if plan else None
    texts = {}
    for text in asked:
        show = None if as_json else _stream
        texts[text] = generate(model, tokenizer, text, sampling, section, show)
    if as_json:
        sys.stdout.write(json.dumps(texts, ensure_ascii=False) + "\n")


@init.command("plan")
def init_plan(path: NewFile) -> None:
    """A plan: what all participants agree on."""
    from common.plan.plan import Plan

    _write_template(path, Plan)


@init.command("organization")
def init_organization(path: NewFile) -> None:
    """An organization: its records and its policy, read by the vault."""
    from client.vault.policy.organization import Organization

    _write_template(path, Organization)


@init.command("relay")
def init_relay(path: NewFile) -> None:
    """A relay: where the vault and the server are."""
    from client.relay.settings import Relay

    _write_template(path, Relay)


@init.command("server")
def init_server(path: NewFile) -> None:
    """A server: where the coordinator's SuperLink listens."""
    from server.superlink.start import Server

    _write_template(path, Server)


def _settings(path: Path | None, insecure: bool = False) -> Server:
    from server.superlink.start import Server

    settings = Server.read(path) if path else Server()
    return settings.without_tls() if insecure else settings


def _print_json(values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")


def _print_error(error: SottoError) -> None:
    # It may hold what another party wrote: a reason, a name, a line of a file.
    text = printable(str(error), _MOST_OF_AN_ERROR)
    if logs.is_json():
        logging.getLogger("sotto").error("%s", text)
    else:
        _errors.print(f"[red]error:[/red] {escape(text)}", highlight=False, soft_wrap=True)


def _print_stopped(again: str) -> None:
    if logs.is_json():
        logs.report(f"stopped; continue with: {again}")
    else:
        _errors.print(f"stopped; continue with: {escape(again)}", soft_wrap=True)


def _stream(text: str) -> None:
    _screen.print(escape(printable_lines(text)), end="", highlight=False, soft_wrap=True)


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
        _print_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        missing = explain_missing(error)
        if missing is None:
            raise
        _print_error(missing)
        sys.exit(missing.exit_code)
    except Exception as error:
        if not logs.bug(error):
            raise
        sys.exit(1)
    finally:
        logs.end()


if __name__ == "__main__":
    main()
