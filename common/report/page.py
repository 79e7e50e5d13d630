"""The privacy report as one HTML page without scripts or external resources; equal input gives equal bytes.

Autoescaping covers everything that organizations wrote; the charts are the only exception.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.protocol.statement import SIMULATED
from common.report.charts import Chart, epsilon_chart, quality_chart
from common.report.evaluation import EvaluationSection, evaluation_section
from common.report.report import MechanismEntry, OrganizationEntry, PrivacyReport, two_decimals
from common.run.round_line import RoundLine
from common.run.selection import best_evaluation
from common.run.summary import RunSummary
from common.run.traffic import compressed_share, traffic
from common.untrusted import printable

_UNITS = {"example": "record", "user": "person (all of that person's records)"}
_MOST_LINES = 200

_SIGNATURES = {
    "valid": (
        "valid",
        (
            "The statement is signed with the key that this organization registered with the coordinator. Compare "
            "the fingerprint with the organization to be sure that it is theirs."
        ),
    ),
    "unregistered": (
        "key not registered",
        (
            "The signature fits the key that the statement itself names, but no such key was registered. Anyone "
            "can make a key and sign with it, so this does not show who wrote the statement."
        ),
    ),
    "invalid": (
        "INVALID",
        (
            "The statement was changed after it was signed, was forged, or belongs to another run. Rely on none "
            "of its numbers."
        ),
    ),
    "none": ("none: simulated", "A simulated organization has no key, and nobody outside this machine took part."),
}

# A cell of the table of participation: (CSS class, text).
Cell = tuple[str, str]


class _Bar(TypedDict):
    """Widths of the gauge's parts, in per cent. By Rényi composition the costs of runs do not simply add up."""

    earlier: float
    run: float
    cap: float


class _Organization(OrganizationEntry):
    """An organization as the template shows it."""

    mechanism: MechanismEntry
    unit_words: str
    share: float
    bar: _Bar
    signature_words: str
    signature_meaning: str


def render_page(report: PrivacyReport, run: RunSummary) -> str:
    """Render the report of a run as one HTML page.

    Args:
        report: of the run, by `common.report.report.build_report`.
        run: the run.
    """
    plan, rounds = run.plan, run.rounds
    organizations = [_organization(item) for item in report["organizations"]]
    environment = Environment(
        loader=PackageLoader("common.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "eps": two_decimals,
        "one_in": _one_in,
        "odds": _odds,
        "capitalize_first": _capitalize_first,
    }
    return environment.get_template("page.html").render(
        report=report,
        plan=plan,
        private=run.private,
        organizations=organizations,
        simulated=any(item["boundary"].startswith(SIMULATED) for item in organizations),
        problems=[item for item in organizations if item["problems"]],
        warned=[item for item in organizations if item["warnings"]],
        weakest=_weakest(organizations),
        costliest=_costliest(organizations),
        charts=_charts(_costliest(organizations), plan, rounds),
        evaluation=_evaluation(evaluation_section(run)),
        participation=_participation(rounds, [item["name"] for item in organizations]),
        traffic=_traffic(run),
    )


def _finalize(value: object) -> object:
    """Make texts safe to display; numbers and charts are unchanged."""
    return value if not isinstance(value, str) or isinstance(value, Markup) else printable(value, 2000)


def _organization(item: OrganizationEntry) -> _Organization:
    lifetime, (mechanism,) = item["lifetime"], item["mechanisms"]
    spent, cap = lifetime["epsilon_spent"], lifetime["max_epsilon"]
    state, meaning = _SIGNATURES[item["signature"]]
    scale = max(spent, cap, 1e-9)
    this_run = min(item["epsilon"], spent)
    return {
        **item,
        "mechanism": mechanism,
        "unit_words": _UNITS.get(item["unit"], item["unit"]),
        "share": 100 * spent / cap if cap else 100.0,
        "bar": {
            "earlier": 100 * (spent - this_run) / scale,
            "run": 100 * this_run / scale,
            "cap": 100 * cap / scale,
        },
        "signature_words": state,
        "signature_meaning": meaning,
    }


def _weakest(organizations: Sequence[_Organization]) -> _Organization | None:
    """Return the organization with the largest ε over all its runs, of those whose statements hold."""
    valid = [item for item in organizations if not item["problems"]]
    return max(valid, key=lambda item: item["lifetime"]["epsilon_spent"], default=None)


def _costliest(organizations: Sequence[_Organization]) -> _Organization | None:
    """Return the organization whose run has the largest ε, of those whose statements hold."""
    valid = [item for item in organizations if not item["problems"]]
    return max(valid, key=lambda item: item["epsilon"], default=None)


def _charts(costliest: _Organization | None, plan: Plan, rounds: Sequence[RoundLine]) -> dict[str, Chart | None]:
    cost = None
    if costliest is not None:
        values, number = costliest["mechanism"], plan.training.rounds
        mechanism = Mechanism(values["sample_rate"], values["noise_multiplier"], values["steps"])
        cost = epsilon_chart(mechanism, costliest["epsilon"], costliest["delta"], number, costliest["name"])
    best = best_evaluation(plan, rounds)[0] if plan.evaluation.patience is not None else None
    quality = quality_chart([(line.round, line.metrics) for line in rounds], best.round if best else None)
    return {name: _safe(chart) for name, chart in (("epsilon", cost), ("quality", quality))}


def _evaluation(section: EvaluationSection | None) -> EvaluationSection | None:
    if section is None:
        return None
    return replace(section, confusion=_safe(section.confusion), reliability=_safe(section.reliability))


def _safe(chart: Chart | None) -> Chart | None:
    # Matplotlib escapes the texts of a chart.
    return None if chart is None else replace(chart, svg=Markup(chart.svg))  # noqa: S704


def _participation(rounds: Sequence[RoundLine], stated: Sequence[str]) -> dict[str, Any]:
    """Table of who answered in which round; consecutive equal rounds share a line."""
    names = sorted({*stated, *(name for line in rounds for name in _names(line))})
    lines: list[tuple[int, int, list[Cell]]] = []
    for line in rounds:
        if line.round < 1:
            continue
        cells = [_cell(line, name) for name in names]
        if lines and lines[-1][2] == cells and lines[-1][1] == line.round - 1:
            lines[-1] = (lines[-1][0], line.round, cells)
        else:
            lines.append((line.round, line.round, cells))
    return {"names": names, "lines": lines[:_MOST_LINES], "more": max(0, len(lines) - _MOST_LINES)}


def _names(line: RoundLine) -> set[str]:
    part = line.organizations
    return {*part.get("asked", []), *part.get("answered", []), *part.get("refused", {})}


def _cell(line: RoundLine, name: str) -> Cell:
    part = line.organizations
    if name in part.get("refused", {}):
        return "refused", part["refused"][name]
    if name in part.get("answered", []):
        return "answered", "answered"
    return ("silent", "no answer") if name in part.get("asked", []) else ("absent", "not connected")


def _traffic(run: RunSummary) -> dict[str, Any]:
    total = traffic(run.rounds, run.shapes)
    return {
        "rounds": max((line.round for line in run.rounds), default=0),
        "up": total.up / 1e6,
        "down": total.down / 1e6,
        "share": compressed_share(run.plan, run.rounds, run.shapes),
    }


def _one_in(delta: float) -> str:
    """Format a probability as "1 in 100,000", rounded up."""
    return f"1 in {math.floor(1 / delta + 1e-6):,}"


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _odds(epsilon: float) -> str:
    """Format e^ε, rounded up."""
    factor = math.exp(min(epsilon, 700.0))
    if factor < 10:
        return f"{math.ceil(factor * 10) / 10:g}"
    if factor < 1e12:
        return f"{math.ceil(factor):,}"
    return f"10 to the power of {math.ceil(math.log10(factor))}"
