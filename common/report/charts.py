"""Charts of the privacy report over rounds, as inline SVG; equal input gives equal bytes."""

from __future__ import annotations

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.privacy.accounting import rough_epsilon
from common.privacy.mechanism import Mechanism
from common.untrusted import printable

# Blue and orange of the Okabe-Ito palette for colour-blind readers; lines also differ in their dashes.
BLUE, ORANGE, INK, GRID = "#0b5f9e", "#c2500a", "#33404d", "#dfe4e8"
_SIZE = (5.0, 3.1)
_POINTS = 8


@dataclass(frozen=True)
class Chart:
    """A chart with a description of its contents.

    Attributes:
        svg: element for an HTML page.
        text: description, in sentences.
        width: in inches.
    """

    svg: str
    text: str
    width: float = _SIZE[0]


def epsilon_chart(mechanism: Mechanism, epsilon: float, delta: float, rounds: int, name: str) -> Chart:
    """Return the chart of ε over rounds: charged before round 1, and the cost of the completed rounds alone.

    Args:
        mechanism: of the whole run.
        epsilon: of the whole run.
        delta: of the run.
        rounds: number of rounds of the plan, each with the same number of the mechanism's steps.
        name: of the organization.
    """
    marks = {max(1, round(rounds * part / _POINTS)) for part in range(1, _POINTS + 1)}
    shown = sorted({1, *marks} - {rounds})
    alone = [_after(mechanism, delta, number, rounds) for number in shown]
    numbers, values = [0, *shown, rounds], [0.0, *(min(value, epsilon) for value in alone), epsilon]

    def draw(axes: Any) -> None:
        axes.plot([0, rounds], [epsilon, epsilon], color=BLUE, linewidth=2.4, label="charged, before round 1")
        axes.plot(numbers, values, color=ORANGE, linewidth=2, linestyle=(0, (5, 2)), label="rounds so far, alone")
        axes.fill_between([0, rounds], 0, [epsilon, epsilon], color=BLUE, alpha=0.07, linewidth=0)
        axes.set_ylim(0, max(epsilon, 0.01) * 1.3)
        axes.set_ylabel("privacy loss ε")
        axes.legend(loc="upper left", ncols=2, frameon=False, handlelength=2.2, columnspacing=1.4)
        _rounds_axis(axes, rounds)

    text = (
        f"{printable(name, 40)}: ε = {epsilon:g} was charged before round 1 and stays charged; "
        f"the rounds alone would cost {values[1]:g} after round 1 and {epsilon:g} after round {rounds}."
    )
    return Chart(svg(draw, "epsilon"), text)


def quality_chart(metrics: Sequence[tuple[int, Mapping[str, float]]], chosen: int | None = None) -> Chart | None:
    """Return the chart of a metric on public data over rounds; None if there is none.

    Args:
        metrics: (round, metrics) in ascending order; rounds without metrics are left out.
        chosen: the round whose adapter was selected as the result, if any.
    """
    metrics = [(number, values) for number, values in metrics if values]
    names = (
        [name for name in ("perplexity", "f1", "accuracy", *metrics[-1][1]) if name in metrics[-1][1]]
        if metrics
        else []
    )
    # A poisoned model may have an infinite perplexity.
    points = [
        (number, values[name])
        for name in names[:1]
        for number, values in metrics
        if name in values and math.isfinite(values[name])
    ]
    if not points:
        return None
    name = names[0]
    numbers, values = [number for number, _ in points], [value for _, value in points]
    label = printable(name, 40)

    def draw(axes: Any) -> None:
        axes.plot(numbers, values, color=BLUE, linewidth=2, marker="o", markersize=4)
        axes.set_ylim(0, max(values) * 1.15 or 1)
        axes.set_ylabel(f"{label} on public data")
        for place in (0, -1) if len(points) > 1 else (0,):
            axes.annotate(
                f"{values[place]:.3g}",
                (numbers[place], values[place]),
                xytext=(6 if place == 0 else 0, 8),
                textcoords="offset points",
                ha="left" if place == 0 else "right",
                color=INK,
                fontweight="bold",
            )
        if chosen in numbers:
            axes.plot([chosen], [values[numbers.index(chosen)]], color=ORANGE, marker="o", markersize=8)
        _rounds_axis(axes, max(numbers[-1], 1))

    better = "; lower is better" if name in ("perplexity", "loss") else ""
    text = (
        f"{label} on public data: {values[0]:.4g} before the first round, "
        f"{values[-1]:.4g} after round {numbers[-1]}{better}."
    )
    if chosen in numbers:
        text += f" Best after round {chosen}: {values[numbers.index(chosen)]:.4g} (orange)."
    return Chart(svg(draw, "quality"), text)


def _after(mechanism: Mechanism, delta: float, number: int, rounds: int) -> float:
    steps = max(1, mechanism.steps * number // rounds)
    return rough_epsilon(Mechanism(mechanism.sample_rate, mechanism.noise_multiplier, steps), delta)


def _rounds_axis(axes: Any, rounds: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(-0.02 * rounds, rounds * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("rounds completed")


def svg(draw: Callable[[Any], None], name: str, size: tuple[float, float] = _SIZE) -> str:
    """Render a chart as an element for an HTML page.

    Args:
        draw: draws on the given axes.
        name: of the chart, unique within a page.
        size: in inches.
    """
    # Imported here because it is slow to load. Its messages about the font cache are irrelevant.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.family": "DejaVu Sans",  # included in matplotlib
                "font.size": 9.5,
                "svg.fonttype": "none",
                "svg.hashsalt": name,
                "text.parse_math": False,
                "text.color": INK,
                "axes.labelcolor": INK,
                "axes.edgecolor": "#9aa5af",
                "axes.spines.top": False,
                "axes.spines.right": False,
                "xtick.color": INK,
                "ytick.color": INK,
                "xtick.major.width": 0,
                "ytick.major.width": 0,
                "axes.grid": True,
                "axes.grid.axis": "y",
                "grid.color": GRID,
                "axes.axisbelow": True,
            }
        )
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _inline(buffer.getvalue())


def _inline(document: str) -> str:
    """Convert an SVG document to an element of an HTML page: page's font, no external resources, unique ids."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", _font, svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    return re.sub(r"\n\s*", "\n", svg).strip()


def _font(match: re.Match[str]) -> str:
    weight = f"; font-weight: {match[1]}" if match[1] else ""
    return f"font-size: {match[2]}{weight}"
