"""Output of the commands: text for a terminal, JSON for programs; errors on one line."""

from __future__ import annotations

import json
import logging
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from common.errors import InputError, SottoError
from common.settings import Section, template
from common.system import logs
from common.untrusted import printable, printable_lines

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
NewFile = Annotated[Path, typer.Argument(help="A new file.")]
PlanFile = Annotated[Path, typer.Argument(help="The plan.")]
OrganizationFile = Annotated[Path, typer.Argument(help="organization.toml")]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Without TLS and node keys: for trials on this machine only.")
]

__version__ = metadata.version("sotto")

_MOST_OF_AN_ERROR = 4000
screen = Console()
errors = Console(stderr=True)


def report(text: str) -> None:
    """Print a line without markup."""
    screen.print(text, highlight=False, soft_wrap=True, markup=False)


def stream(text: str) -> None:
    """Print a piece of generated text, without control characters."""
    screen.print(escape(printable_lines(text)), end="", highlight=False, soft_wrap=True)


def print_json(values: object) -> None:
    """Print one JSON object."""
    sys.stdout.write(json.dumps(values) + "\n")


def print_version(requested: bool) -> None:
    """Print the version and exit, if the option was given."""
    if requested:
        report(f"sotto {__version__}")
        raise typer.Exit


def print_error(error: SottoError) -> None:
    """Print an error on one line, or log it if the log format is JSON."""
    # The text can contain foreign data: a reason, a name, a line of a file.
    text = printable(str(error), _MOST_OF_AN_ERROR)
    if logs.is_json():
        logging.getLogger("sotto").error("%s", text)
    else:
        errors.print(f"[red]error:[/red] {escape(text)}", highlight=False, soft_wrap=True)


def print_stopped(again: str) -> None:
    """Print how to continue after Ctrl-C.

    Args:
        again: the command that continues.
    """
    if logs.is_json():
        logs.report(f"stopped; continue with: {again}")
    else:
        errors.print(f"stopped; continue with: {escape(again)}", soft_wrap=True)


def write_template(path: Path, kind: type[Section]) -> None:
    """Write a commented file to start from.

    Raises:
        InputError: the file exists.
    """
    if path.exists():
        raise InputError(f"{path}: exists already; give the name of a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(template(kind), encoding="utf-8")
    screen.print(f"{path}: written; a comment explains every key", highlight=False, soft_wrap=True)
