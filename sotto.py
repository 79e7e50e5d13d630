"""The command line of Sotto: a table of commands; what they do is elsewhere."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from common.errors import InputError, SottoError

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
}.items():
    os.environ.setdefault(_name, _value)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
init = typer.Typer(no_args_is_help=True, help="Write a commented file to start from.")
app.add_typer(init, name="init")

_screen = Console()
_errors = Console(stderr=True)

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
    from simulations.demo.prepare import prepare_demo
    from simulations.run import organizations_of, simulate
    from simulations.summary import print_summary

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
    print_summary(result, _screen)


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
        sys.stdout.write(json.dumps(metrics) + "\n")
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
        _screen.print(escape(text), highlight=False, soft_wrap=True)


@init.command("plan")
def init_plan(path: Annotated[Path, typer.Argument(help="A new file.")]) -> None:
    """Write a commented plan."""
    from common.plan import Plan
    from common.settings import template

    if path.exists():
        raise InputError(f"{path}: exists already; give the name of a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template(Plan), encoding="utf-8")
    _screen.print(f"{path}: written; every key is explained where it stands", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line; every foreseen error is one line and its exit code."""
    logging.getLogger().setLevel(logging.WARNING)
    # What libraries will change some day is for us to read in the tests, not for users on their screens.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except SottoError as error:
        _errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
