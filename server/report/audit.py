"""`sotto privacy report`: what a run cost, recomputed from its statements, and whether they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import InputError, SottoError
from common.keys.statement_key import read_keys
from common.protocol.report import build_report, problems, two_decimals, warnings
from common.protocol.statement import SIMULATED
from common.untrusted import printable
from server.registry.registry import Registry
from server.report.page import page_of
from server.run_directory.run_directory import RunDirectory

_SIGNATURES = {"valid": "green", "unregistered": "yellow", "invalid": "bold red", "none": "yellow"}


def read_report(path: Path, keys: Path | None = None) -> tuple[RunDirectory, dict[str, Any]]:
    """The privacy report of a run, made anew. Nothing is written.

    Args:
        path: the run directory.
        keys: a folder of `NAME.pub` files; the keys that were registered for the run if it is missing.

    Raises:
        InputError: it is no run, a statement is broken or missing, or the folder holds no keys.
    """
    directory = RunDirectory.open(path)
    statements = directory.statements.read()
    answered = {name for line in directory.rounds() for name in line.organizations.get("answered", [])}
    if not directory.info.private:
        statements = []
    elif missing := sorted(answered - {item.organization for item in statements}):
        names = ", ".join(printable(name, 60) for name in missing)
        raise InputError(f"{path / 'privacy' / 'statements'}: lacks the statement of {names}, which took part")
    elif not statements:
        raise InputError(f"{path}: holds no statements yet; no organization has answered a round")
    if keys is None:
        known = directory.statements.keys() or Registry(directory.info.registry_folder).keys()
    else:
        known = _read_keys(keys)
    report = build_report(directory.info.run, statements, known, plan=directory.plan, answered=answered)
    return directory, report


def write_report(
    directory: RunDirectory, report: Mapping[str, Any], html: Path | None, as_json: Path | None
) -> None:
    """Write the report where it is wanted, as a page or for machines.

    Raises:
        InputError: a file cannot be written.
    """
    texts = {}
    if html is not None:
        texts[html] = page_of(directory, report)
    if as_json is not None:
        texts[as_json] = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """A short table, and what has to be said beside it."""
    organizations = report["organizations"]
    if not organizations:
        console.print("[red]trained without privacy: ε is infinite[/red]")
        return
    table = Table(
        title="ε recomputed from the mechanisms",
        title_justify="left",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    for header in ("organization", "unit", "ε", "δ", "spent of cap", "boundary", "signature"):
        table.add_column(header, no_wrap=header in ("ε", "δ", "spent of cap", "signature"), overflow="fold")
    for item in organizations:
        lifetime, colour = item["lifetime"], _SIGNATURES[item["signature"]]
        table.add_row(
            _cell(item["name"]),
            _cell(item["unit"]),
            f"{item['epsilon']:.4f}",
            f"{item['delta']:g}",
            f"{two_decimals(lifetime['epsilon_spent'])} of {two_decimals(lifetime['max_epsilon'])}",
            _cell(item["boundary"]),
            f"[{colour}]{item['signature']}[/{colour}]",
        )
    console.print(table)
    for text in warnings(report):
        console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)
    if any(item["boundary"].startswith(SIMULATED) for item in organizations):
        console.print("[yellow]a simulation protects nobody: all records were in one process[/yellow]")


def raise_problems(report: Mapping[str, Any]) -> None:
    """End a command whose report does not hold.

    Raises:
        SottoError: what is wrong, in one line.
    """
    found = problems(report)
    if found:
        raise SottoError("; ".join(found))


def _cell(text: str) -> str:
    return escape(printable(text, 40))


def _read_keys(folder: Path) -> dict[str, str]:
    keys = read_keys(folder)
    if not keys:
        raise InputError(f"{folder}: holds no public keys; it should hold one NAME.pub for each organization")
    return keys
