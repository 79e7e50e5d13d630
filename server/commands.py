"""The coordinator's commands: the server, runs, and results."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.errors import InputError
from common.system import logs
from common.system.console import (
    AsJson,
    Insecure,
    NewFile,
    PlanFile,
    errors,
    print_json,
    print_stopped,
    report,
    screen,
    stream,
    write_template,
)

if TYPE_CHECKING:
    from server.superlink.settings import Server

commands, server, privacy, init = (typer.Typer() for _ in range(4))
GROUPS = {"server": server, "privacy": privacy, "init": init}

ServerFile = Annotated[Path | None, typer.Argument(help="server.toml; default settings without it.")]
ServerOption = Annotated[Path | None, typer.Option("--server", help="server.toml; default settings without it.")]
Result = Annotated[Path, typer.Argument(help="A run directory, an adapter folder, or a model folder.")]


@commands.command("run")
def run_plan(
    plan: PlanFile,
    out: Annotated[Path, typer.Option(help="The run directory: a new one, or with --resume that of the run.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    server: ServerOption = None,
    insecure: Insecure = False,
) -> None:
    """Run a plan with the organizations that are connected to the server of this machine."""
    from common.plan.plan import Plan
    from server.run.federated import run_federated
    from server.run_directory.run_directory import new_run_id
    from server.tracking.progress import run_progress
    from server.tracking.summary import print_summary

    logs.configure("run")
    chosen, settings = Plan.read(plan), _settings(server, insecure)
    try:
        with run_progress(chosen, True, screen) as bar:
            directory, report = run_federated(
                chosen, out, settings, resume=resume, run=new_run_id(chosen.name), observer=bar
            )
    except KeyboardInterrupt:
        command = f"sotto run {plan} --out {out} --resume" + (f" --server {server}" if server else "")
        command += " --insecure" if insecure else ""
        print_stopped(command)
        raise typer.Exit(130) from None
    print_summary(directory, report, screen)


@commands.command()
def merge(
    run: Annotated[Path, typer.Argument(help="A complete run directory, or an adapter folder.")],
    out: Annotated[Path, typer.Option(help="A new folder for the merged model.")],
    quantize: Annotated[
        Literal["4bit", "8bit"] | None,
        typer.Option(help="Quantize the merged model and measure the loss."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="With --quantize: public records to measure on; by default the plan's.")
    ] = None,
) -> None:
    """Merge the adapter into the base model: a Hugging Face folder."""
    if quantize is not None:
        from common.results.quantize import print_saving
        from server.run.result import merge_result_quantized

        with screen.status("merging and quantizing"):
            saving = merge_result_quantized(run, out, quantize, data)
        print_saving(out, saving, screen)
        return
    if data is not None:
        raise InputError("--data needs --quantize: a merge without it changes no prediction")
    from server.run.result import merge_result

    with screen.status("merging"):
        difference = merge_result(run, out)
    screen.print(f"{out}: merged; largest difference of a logit {difference:.1e}", highlight=False, soft_wrap=True)


@commands.command()
def evaluate(
    result: Result,
    data: Annotated[Path, typer.Option(help="Records: .jsonl, .csv or .parquet; .gz.")],
    plan: Annotated[Path | None, typer.Option(help="The plan with the task, if the folder contains none.")] = None,
    template: Annotated[str | None, typer.Option(help="Template of a record's text, if not the plan's.")] = None,
    by: Annotated[str | None, typer.Option(help="A record field; its values are compared as groups.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on public records, overall and by group."""
    from common.results.evaluate import evaluate, print_evaluation, task_section, to_flat
    from server.run.result import load_result

    with errors.status("evaluating"):
        model, tokenizer, own_plan = load_result(result, plan)
        section = task_section(own_plan, template)
        evaluation, groups = evaluate(model, tokenizer, section, data, by)
    if as_json:
        print_json({**to_flat(evaluation), **({} if groups is None else {"by": groups.to_dict()})})
        return
    print_evaluation(evaluation, groups, screen)


@commands.command()
def generate(
    result: Result,
    prompt: Annotated[list[str] | None, typer.Option(help="May be given more than once.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A file with one prompt per line.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum number of new tokens.")] = 80,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from the most likely tokens only.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Continue prompts with a model, or answer them if it was trained for chat."""
    from common.results.generate import Sampling, generate, read_prompts
    from server.run.result import load_result

    texts = [*(prompt or []), *(read_prompts(prompts) if prompts else [])]
    if not texts:
        raise InputError("there is no prompt; give --prompt TEXT or --prompts FILE")
    sampling = Sampling(max_new_tokens, temperature, top_p, tuple(stop or ()))
    with errors.status("loading"):
        model, tokenizer, plan = load_result(result)
    section = plan.task if plan else None
    answers = {}
    for text in texts:
        show = None if as_json else stream
        answers[text] = generate(model, tokenizer, text, sampling, section, show)
    if as_json:
        sys.stdout.write(json.dumps(answers, ensure_ascii=False) + "\n")


@server.command("start")
def start_server(settings: ServerFile = None, insecure: Insecure = False) -> None:
    """Run Flower's SuperLink and its TLS gateway until Ctrl-C."""
    from server.superlink.start import serve

    logs.configure("server")
    serve(_settings(settings, insecure), logs.report)


@server.command("certs")
def make_server_certificates(
    folder: Annotated[Path, typer.Argument(help="Folder for the authority and the certificate.")],
    host: Annotated[list[str], typer.Option(help="A host name or address; repeatable.")],
) -> None:
    """Create a certification authority, unless there is one, and the server's certificate."""
    from server.superlink.certificates import CA, make_certificates

    for path in make_certificates(folder, host):
        report(f"{path}: written")
    report(f"give {folder / CA} to every organization; keep the private keys secret")


@server.command("register")
def register_organization(
    name: Annotated[str, typer.Argument(help="The organization's name.")],
    node: Annotated[Path, typer.Argument(help="Its node.pub.")],
    statement: Annotated[Path, typer.Argument(help="Its statement.pub.")],
    settings: ServerOption = None,
) -> None:
    """Register an organization's public keys: its node may connect, and its signatures are valid."""
    from common.keys.statement_key import key_fingerprint
    from server.superlink.start import apply_registry

    server = _settings(settings)
    node_key, statement_key = server.organizations().register(name, node, statement)
    report(f"{name}: registered; compare these fingerprints with the organization")
    report(f"  node       {node_key.fingerprint}")
    report(f"  statement  {key_fingerprint(statement_key)}")
    apply_registry(server)


@server.command("revoke")
def revoke_organization(
    name: Annotated[str, typer.Argument(help="The organization's name.")], settings: ServerOption = None
) -> None:
    """Remove an organization's keys and the head of its ledger; it is locked out immediately."""
    from server.superlink.start import apply_registry

    server = _settings(settings)
    server.organizations().revoke(name)
    report(f"{name}: revoked")
    apply_registry(server)


@server.command("list")
def list_organizations(settings: ServerOption = None) -> None:
    """List the registered organizations and the fingerprints of their keys."""
    from common.keys.statement_key import key_fingerprint

    registry = _settings(settings).organizations()
    nodes = registry.node_keys()
    for name, public in registry.keys().items():
        node = nodes[name].fingerprint if name in nodes else "none"
        report(f"{name}  node {node}  statement {key_fingerprint(public)}")


@privacy.command("report")
def report_privacy(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    html: Annotated[Path | None, typer.Option(help="Write the report as an HTML page.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report as JSON.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="A folder of NAME.pub to verify with; by default the keys of the run.")
    ] = None,
) -> None:
    """Verify the statements of a run and recompute its cost. Exit code 1 if a statement does not hold."""
    from common.report.terminal import print_report, raise_problems
    from server.run.report import read_report, write_report

    with errors.status("computing"):
        directory, report = read_report(run, keys)
        write_report(directory, report, html, json_file)
    print_report(report, screen)
    raise_problems(report)


@init.command("plan")
def init_plan(path: NewFile) -> None:
    """Write a template of a plan, on which all participants agree."""
    from common.plan.plan import Plan

    write_template(path, Plan)


@init.command("server")
def init_server(path: NewFile) -> None:
    """Write a template of the coordinator's server settings."""
    from server.superlink.settings import Server

    write_template(path, Server)


def _settings(path: Path | None, insecure: bool = False) -> Server:
    from server.superlink.settings import Server

    settings = Server.read(path) if path else Server()
    return settings.without_tls() if insecure else settings
