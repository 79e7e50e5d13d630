"""The summary that a finished run prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.report.report import PrivacyReport, problems
from common.run.selection import result_line, selection_note
from common.run.traffic import compressed_share, traffic
from common.system import logs
from common.untrusted import printable, printable_lines
from server.run_directory.run_directory import RunDirectory


def print_summary(
    directory: RunDirectory,
    report: PrivacyReport,
    console: Console,
    answers: Sequence[tuple[str, str, str]] = (),
) -> None:
    """Print cost per organization, quality before and after, traffic, answers, and the paths of the results.

    Args:
        directory: of the run.
        report: its privacy report.
        console: to print on.
        answers: (prompt, answer of the base model, answer after the run).
    """
    if logs.is_json():
        logs.report("the run is complete", _fields(directory, report))
        return
    _print_cost(report, console)
    _print_quality(directory, console)
    for prompt, before, after in answers:
        console.print(f"\n[bold]{escape(prompt)}[/bold]")
        console.print(f"  before  {escape(printable_lines(before))}", highlight=False)
        console.print(f"  after   [green]{escape(printable_lines(after))}[/green]", highlight=False)
    path = directory.path
    console.print(f"\nadapter         {path / 'adapter'}", highlight=False, soft_wrap=True)
    console.print(f"privacy report  {path / 'privacy' / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"rounds          {path / 'rounds.jsonl'}", highlight=False, soft_wrap=True)


def _fields(directory: RunDirectory, report: PrivacyReport) -> dict[str, Any]:
    """Return the summary for the JSON log; the files contain the rest."""
    costs = {
        item["name"]: {"epsilon": item["epsilon"], "delta": item["delta"]} for item in report["organizations"]
    }
    rounds = directory.rounds()
    numbers = {"rounds": rounds[-1].round, "result_round": result_line(directory.plan, rounds).round}
    return {"run": report["run"], "directory": str(directory.path), **numbers, "costs": costs}


def _print_cost(report: PrivacyReport, console: Console) -> None:
    if not report["organizations"]:
        console.print("[red]trained without privacy: ε is infinite[/red]")
        return
    table = Table("organization", "public size", "rate q", "noise σ", "steps", "ε", "δ")
    for item in report["organizations"]:
        mechanism = item["mechanisms"][0]
        table.add_row(
            escape(printable(item["name"], 40)) + (" [bold red]✕[/bold red]" if item["problems"] else ""),
            str(item["public_size"]),
            f"{mechanism['sample_rate']:.4f}",
            f"{mechanism['noise_multiplier']:.3f}",
            str(mechanism["steps"]),
            f"{item['epsilon']:.4f}",
            f"{item['delta']:g}",
        )
    console.print(table)
    for text in problems(report):
        console.print(f"[bold red]✕ {escape(text)}[/bold red]: do not rely on its numbers", soft_wrap=True)


def _print_quality(directory: RunDirectory, console: Console) -> None:
    rounds = directory.rounds()
    total = traffic(rounds, directory.info.shapes)
    result = result_line(directory.plan, rounds)
    first, last = rounds[0].metrics, result.metrics
    name, _ = directory.plan.task.headline
    if name in last:
        console.print(
            f"{name} on the public data: [bold]{first[name]:.4g}[/bold] before, "
            f"[bold]{last[name]:.4g}[/bold] after {result.round} rounds",
            highlight=False,
        )
    if text := selection_note(directory.plan, rounds, private=directory.info.private):
        console.print(text, highlight=False)
    share = compressed_share(directory.plan, rounds, directory.info.shapes)
    console.print(
        f"sent: {total.up / 1e6:.1f} MB of noised updates up, {total.down / 1e6:.1f} MB of adapters down"
        + ("" if share is None else f", {share:.1%} of float32 A and B both ways"),
        highlight=False,
    )
