"""The privacy report as one HTML page: no script, nothing is loaded, equal input gives equal bytes.

Everything that organizations wrote is escaped where it is put in; the template knows no exception but the charts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.protocol.report import two_decimals
from common.protocol.statement import SIMULATED
from common.untrusted import printable
from server.report.charts import Chart, epsilon_chart, quality_chart
from server.report.evaluation import EvaluationSection, evaluation_section
from server.run_directory.evaluation import StoredEvaluation, read_evaluation
from server.run_directory.round_log import RoundLine
from server.run_directory.run_directory import RunDirectory
from server.run_directory.selection import best_evaluation
from server.run_directory.traffic import compressed_share

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

# A line of who took part: (state, text).
Cell = tuple[str, str]


def write_page(directory: RunDirectory, report: Mapping[str, Any]) -> None:
    """Write `privacy/report.html`, beside `report.json`."""
    directory.write_text("privacy/report.html", page_of(directory, report))


def page_of(directory: RunDirectory, report: Mapping[str, Any]) -> str:
    """The page of a run, from its files alone.

    Raises:
        InputError: a file of the run cannot be read.
    """
    return render_page(
        report,
        directory.plan,
        directory.rounds(),
        read_evaluation(directory),
        private=directory.info.private,
        share=compressed_share(directory),
    )


def render_page(
    report: Mapping[str, Any],
    plan: Plan,
    rounds: Sequence[RoundLine],
    stored: StoredEvaluation | None = None,
    *,
    private: bool = True,
    share: float | None = None,
) -> str:
    """The page.

    Args:
        report: of `common.protocol.report.build_report`.
        plan: of the run.
        rounds: all lines of `rounds.jsonl`.
        stored: what `evaluation.json` holds, if it is there.
        private: False for a simulation without privacy.
        share: of the bytes of float32 A and B both ways; None where the plan sends float32.
    """
    organizations = [_organization(item) for item in report["organizations"]]
    environment = Environment(
        loader=PackageLoader("server.report", ""),
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
        private=private,
        organizations=organizations,
        simulated=any(item["boundary"].startswith(SIMULATED) for item in organizations),
        problems=[item for item in organizations if item["problems"]],
        warned=[item for item in organizations if item["warnings"]],
        weakest=_weakest(organizations),
        charts=_charts(organizations, plan, rounds),
        evaluation=_evaluation(evaluation_section(plan, rounds, stored, private=private)),
        took_part=_took_part(rounds, [item["name"] for item in organizations]),
        traffic={**_traffic(rounds), "share": share},
        most_lines=_MOST_LINES,
    )


def _finalize(value: object) -> object:
    """What is put into the page: texts lose what cannot be seen; numbers and charts stay as they are."""
    return value if not isinstance(value, str) or isinstance(value, Markup) else printable(value, 2000)


def _organization(item: Mapping[str, Any]) -> dict[str, Any]:
    lifetime, (mechanism,) = item["lifetime"], item["mechanisms"]
    spent, cap = lifetime["epsilon_spent"], lifetime["max_epsilon"]
    state, meaning = _SIGNATURES[item["signature"]]
    scale = max(spent, cap, 1e-9)
    this_run = min(item["epsilon"], spent)
    return {
        **item,
        "mechanism": mechanism,
        "unit_words": _UNITS.get(item["unit"], item["unit"]),
        "left": max(cap - spent, 0.0),
        "share": 100 * spent / cap if cap else 100.0,
        # Widths of the gauge, in per cent. By Rényi composition the costs of runs do not simply add up.
        "bar": {
            "earlier": 100 * (spent - this_run) / scale,
            "run": 100 * this_run / scale,
            "cap": 100 * cap / scale,
        },
        "signature_words": state,
        "signature_meaning": meaning,
    }


def _weakest(organizations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The organization whose promise is the weakest of those that hold."""
    sound = [item for item in organizations if not item["problems"]]
    return max(sound, key=lambda item: item["lifetime"]["epsilon_spent"], default=None)


def _charts(
    organizations: Sequence[Mapping[str, Any]], plan: Plan, rounds: Sequence[RoundLine]
) -> dict[str, Chart | None]:
    costliest = max(organizations, key=lambda item: item["epsilon"], default=None)
    cost = None
    if costliest is not None:
        mechanism = Mechanism.from_dict(costliest["mechanism"])
        number = plan.training.rounds
        cost = epsilon_chart(mechanism, costliest["epsilon"], costliest["delta"], number, costliest["name"])
    best = best_evaluation(plan, rounds)[0] if plan.evaluation.patience is not None else None
    quality = quality_chart([(line.round, line.metrics) for line in rounds], best.round if best else None)
    return {name: _safe(chart) for name, chart in (("epsilon", cost), ("quality", quality))}


def _evaluation(section: EvaluationSection | None) -> EvaluationSection | None:
    if section is None:
        return None
    return replace(section, confusion=_safe(section.confusion), reliability=_safe(section.reliability))


def _safe(chart: Chart | None) -> Chart | None:
    # Matplotlib escaped the texts of the chart.
    return None if chart is None else replace(chart, svg=Markup(chart.svg))  # noqa: S704


def _took_part(rounds: Sequence[RoundLine], stated: Sequence[str]) -> dict[str, Any]:
    """Who answered in which round; rounds in which the same happened are one line."""
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
    said = line.organizations
    return {*said.get("asked", []), *said.get("answered", []), *said.get("refused", {})}


def _cell(line: RoundLine, name: str) -> Cell:
    said = line.organizations
    if name in said.get("refused", {}):
        return "refused", str(said["refused"][name])
    if name in said.get("answered", []):
        return "answered", "answered"
    return ("silent", "no answer") if name in said.get("asked", []) else ("absent", "not connected")


def _traffic(rounds: Sequence[RoundLine]) -> dict[str, Any]:
    return {
        "rounds": max((line.round for line in rounds), default=0),
        "up": sum(line.bytes_up for line in rounds) / 1e6,
        "down": sum(line.bytes_down for line in rounds) / 1e6,
    }


def _one_in(delta: float) -> str:
    """A probability as "1 in 100,000", never smaller than it is."""
    return f"1 in {math.floor(1 / delta + 1e-6):,}"


def _capitalize_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _odds(epsilon: float) -> str:
    """e^ε, rounded up."""
    factor = math.exp(min(epsilon, 700.0))
    if factor < 10:
        return f"{math.ceil(factor * 10) / 10:g}"
    if factor < 1e12:
        return f"{math.ceil(factor):,}"
    return f"10 to the power of {math.ceil(math.log10(factor))}"
