"""Sotto as a library and as a command line: the public Python interface, and the assembled command tables.

Everything is imported on first use: `import sotto` loads no PyTorch, no Flower and no Opacus.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import client.commands
import server.commands
import simulations.commands
from common.errors import InputError, Refused, SottoError
from common.system import console, logs
from common.system.console import __version__
from common.system.environment import set_defaults
from common.system.extras import explain_missing

if TYPE_CHECKING:
    from client.vault.policy.organization import Organization
    from common.plan.plan import Plan
    from common.report.report import PrivacyReport
    from server.run_directory.run_directory import RunDirectory
    from simulations.simulate import SimulationResult

__all__ = [
    "InputError",
    "Organization",
    "Plan",
    "Refused",
    "RunDirectory",
    "SimulationResult",
    "SottoError",
    "__version__",
    "budget",
    "calibrate",
    "evaluate",
    "generate",
    "load",
    "merge",
    "report",
    "simulate",
]

_CLASSES = {
    "Organization": "client.vault.policy.organization",
    "Plan": "common.plan.plan",
    "RunDirectory": "server.run_directory.run_directory",
    "SimulationResult": "simulations.simulate",
}

set_defaults()  # before any library that reads them is imported

_HELP = "Fine-tune one language model together, without showing anybody a record."
_TABLES = (simulations.commands, server.commands, client.commands)
_GROUPS = {
    "server": "The coordinator's server.",
    "vault": "The process with the records.",
    "supernode": "The process with the network.",
    "client": "An organization: keys, approvals, and both of its processes.",
    "privacy": "The cost of a run, the budget that is left, the noise that a plan needs.",
    "init": "Write a commented file to start from.",
}

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=_HELP)
for _table in (simulations.commands.commands, server.commands.commands):
    app.add_typer(_table)
for _name, _text in _GROUPS.items():
    _group = typer.Typer(no_args_is_help=True, help=_text)
    for _table in filter(None, (_module.GROUPS.get(_name) for _module in _TABLES)):
        _group.add_typer(_table)
    app.add_typer(_group, name=_name)


def simulate(
    plan: Plan | str | Path | None = None,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    private: bool = True,
    workers: int | None = None,
) -> SimulationResult:
    """Run a plan with many organizations on this machine, as `sotto simulate` does.

    Args:
        plan: a plan, or its file; without one, the embedded demo.
        out: the run directory; by default a new one in `runs/`.
        resume: continue the run in `out`.
        private: False trains without clipping and noise.
        workers: processes that compute gradients; by default one on each core, or on each GPU.

    Returns:
        The run's directory, its privacy report, and its answers to the plan's prompts.

    Raises:
        InputError: the plan does not match the records or the model, or `out` cannot be used; nothing is spent.
        SottoError: too few organizations answered.
    """
    from simulations.setup import set_up
    from simulations.simulate import simulate

    it = set_up(_plan(plan), None if out is None else Path(out), resume)
    return simulate(it.plan, it.records, it.folder, run=it.run, resume=resume, private=private, workers=workers)


def load(result: str | Path, plan: str | Path | None = None) -> tuple[Any, Any, Plan | None]:
    """Load a model, its tokenizer, and the plan that it was trained with.

    Args:
        result: a run directory, an adapter folder in PEFT format, or a model folder in Hugging Face format.
        plan: file of the plan, if the folder contains none.

    Raises:
        InputError: `result` is none of these, or its run is not complete.
    """
    from server.run.result import load_result

    return load_result(Path(result), None if plan is None else Path(plan))


def evaluate(
    result: str | Path, data: str | Path, *, plan: str | Path | None = None, template: str | None = None
) -> dict[str, float]:
    """Metrics of a result on public records, by name, including those of each class.

    Args:
        result: as for `load`.
        data: a file of records: .jsonl, .csv or .parquet; .gz.
        plan: file of the plan with the task, if the folder contains none.
        template: text of a record, in place of the plan's.

    Raises:
        InputError: the result or the records cannot be read, or do not match.
    """
    from common.results.evaluate import evaluate, task_section, to_flat

    model, tokenizer, loaded = load(result, plan)
    evaluation, _ = evaluate(model, tokenizer, task_section(loaded, template), Path(data), None)
    return to_flat(evaluation)


def generate(
    result: str | Path,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 80,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: Sequence[str] = (),
) -> list[str]:
    """Continue prompts, or answer them if the model was trained for chat.

    Args:
        result: as for `load`.
        prompts: one text for each answer.
        max_new_tokens: the most tokens to generate.
        temperature: 0 is greedy.
        top_p: sample from the most likely tokens with this total probability.
        stop: texts that end an answer.

    Returns:
        The answers, in the order of the prompts.

    Raises:
        InputError: the result cannot be read, or its task does not generate text.
    """
    from common.results.generate import Sampling, generate

    model, tokenizer, plan = load(result)
    sampling = Sampling(max_new_tokens, temperature, top_p, tuple(stop))
    section = plan.task if plan else None
    return [generate(model, tokenizer, prompt, sampling, section) for prompt in prompts]


def merge(result: str | Path, out: str | Path) -> float:
    """Merge an adapter into its base model, in float32, and save a Hugging Face folder.

    Args:
        result: a complete run directory, or an adapter folder.
        out: a new folder.

    Returns:
        The largest difference between a logit of the merged and of the unmerged model, on random tokens.

    Raises:
        InputError: `result` contains no adapter, or `out` exists already.
        SottoError: the merged model differs from the unmerged model.
    """
    from server.run.result import merge_result

    return merge_result(Path(result), Path(out))


def report(run: str | Path, keys: str | Path | None = None) -> PrivacyReport:
    """Verify a run's statements and recompute its cost. The keys are those of `privacy/report.json`.

    Args:
        run: a run directory.
        keys: a folder of NAME.pub files to verify with, in place of the run's own keys.

    Raises:
        InputError: it is not a run directory, or a key cannot be read.
    """
    from server.run.report import read_report

    return read_report(Path(run), None if keys is None else Path(keys))[1]


def calibrate(plan: Plan | str | Path, public_sizes: Sequence[int]) -> dict[str, Any]:
    """The noise that a plan needs for organizations of these public sizes, and that other settings would need.

    Args:
        plan: a plan, or its file.
        public_sizes: one for each organization, in units of privacy.

    Raises:
        InputError: ε is too small, or the plan does not fit a size.
    """
    from common.model.model import trained_coordinates
    from common.privacy.calibration import calibrate
    from simulations.public_numbers import public_numbers

    chosen = _plan(plan)
    return calibrate(chosen, public_numbers(chosen, public_sizes, []), trained_coordinates(chosen))


def budget(organization: str | Path) -> dict[str, Any]:
    """The ε that an organization has spent, reserved and left. Its vault may be running.

    Args:
        organization: its organization.toml.

    Raises:
        InputError: there is no ledger, or it is not the organization's.
    """
    from client.admin.budget import budget
    from client.vault.policy.organization import Organization

    return budget(Organization.read(Path(organization)))


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module 'sotto' has no attribute {name!r}")
    return getattr(importlib.import_module(_CLASSES[name]), name)


def _plan(plan: Plan | str | Path | None) -> Any:
    return __getattr__("Plan").read(Path(plan)) if isinstance(plan, str | Path) else plan


@app.callback()
def _options(
    log_format: Annotated[
        str, typer.Option(envvar=logs.FORMAT_VARIABLE, help="Format of the log: human or json.")
    ] = "human",
    version: Annotated[  # noqa: ARG001 - its callback prints it
        bool, typer.Option("--version", callback=console.print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tune one language model together, without showing anybody a record."""
    os.environ[logs.FORMAT_VARIABLE] = log_format  # child processes inherit it
    logs.configure("sotto", level=logging.WARNING)


def main() -> None:
    """Run the command line; an expected error is printed as one line and gives its exit code."""
    logging.getLogger().setLevel(logging.WARNING)
    # Deprecations of libraries concern the developers, who see them in the tests, not the users.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except SottoError as error:
        console.print_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        missing = explain_missing(error)
        if missing is None:
            raise
        console.print_error(missing)
        sys.exit(missing.exit_code)
    except Exception as error:  # a bug of ours: beside the records its text must not be shown
        if not logs.bug(error):
            raise
        sys.exit(1)
    finally:
        logs.reset()


if __name__ == "__main__":
    main()
