"""The privacy report on a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.errors import SottoError
from common.protocol.statement import SIMULATED
from common.report.report import PrivacyReport, problems, two_decimals, warnings
from common.untrusted import printable

_SIGNATURES = {"valid": "green", "unregistered": "yellow", "invalid": "bold red", "none": "yellow"}


def print_report(report: PrivacyReport, console: Console) -> None:
    """Print a short table of the organizations, with a mark where a statement does not hold; then the warnings."""
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
            f"{_cell(item['name'])} [bold red]✕[/bold red]" if item["problems"] else _cell(item["name"]),
            _cell(item["unit"]),
            f"{item['epsilon']:.4f}",
            f"{item['delta']:g}",
            f"{two_decimals(lifetime['epsilon_spent'])} of {two_decimals(lifetime['max_epsilon'])}",
            _cell(item["boundary"]),
            f"[{colour}]{item['signature']}[/{colour}]",
        )
    console.print(table)
    if problems(report):
        console.print("[bold red]✕ the statement does not hold:[/bold red] do not rely on its numbers")
    for text in warnings(report):
        console.print(f"[yellow]warning:[/yellow] {escape(text)}", highlight=False, soft_wrap=True)
    if any(item["boundary"].startswith(SIMULATED) for item in organizations):
        console.print("[yellow]a simulation protects nobody: all records were in one process[/yellow]")


def raise_problems(report: PrivacyReport) -> None:
    """Raise an error if a statement of the report does not hold.

    Raises:
        SottoError: all problems, in one line.
    """
    if texts := problems(report):
        raise SottoError("; ".join(texts))


def _cell(text: str) -> str:
    return escape(printable(text, 40))
