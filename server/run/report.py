"""The privacy report of a run directory: recomputed from its files, and written to files."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputError
from common.keys.statement_key import read_keys
from common.report.page import render_page
from common.report.report import PrivacyReport, build_report, to_json
from common.run.round_line import organizations_that_answered
from common.untrusted import printable
from server.registry.registry import Registry
from server.run_directory.run_directory import RunDirectory
from server.run_directory.summary import run_summary


def read_report(path: Path, keys: Path | None = None) -> tuple[RunDirectory, PrivacyReport]:
    """Recompute the privacy report of a run. Nothing is written.

    Args:
        path: the run directory.
        keys: a folder of `NAME.pub` files; by default the keys that were registered for the run.

    Raises:
        InputError: `path` contains no run, a statement is malformed or missing, or `keys` contains no keys.
    """
    directory = RunDirectory.open(path)
    statements = directory.statements.read()
    answered = organizations_that_answered(directory.rounds())
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


def write_report(directory: RunDirectory, report: PrivacyReport, html: Path | None, as_json: Path | None) -> None:
    """Write a report as an HTML page, as JSON, or both.

    Raises:
        InputError: a file cannot be written.
    """
    texts = {}
    if html is not None:
        texts[html] = render_page(report, run_summary(directory))
    if as_json is not None:
        texts[as_json] = to_json(report)
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def _read_keys(folder: Path) -> dict[str, str]:
    keys = read_keys(folder)
    if not keys:
        raise InputError(f"{folder}: holds no public keys; it should hold one NAME.pub for each organization")
    return keys
