"""Charts of one evaluation on public data: which classes were taken for which, and was confidence earned."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len, set_cell_size

from common.tasks.class_report import BINS, ClassReport
from common.untrusted import printable
from server.report.charts import BLUE, INK, ORANGE, Chart, svg

# Inches: squares of the matrix where they are many and where they are few, and room for what is written beside.
_CELL, _LARGEST_CELL, _MATRIX = 0.34, 0.6, 2.4
_ABOVE, _LEFT, _RIGHT = 0.52, 1.0, 0.75
# Widths of characters as a terminal has them, two for a Chinese one: a browser's font is about as wide.
_LONGEST, _CHARACTER = 26, 0.076


def confusion_chart(report: ClassReport) -> Chart | None:
    """The confusion matrix as a heat map; None where it is not kept, or no text was told.

    A row is coloured by the share of its texts. Columns have the numbers of the rows: names would not fit.
    """
    texts = sum(map(sum, report.matrix))
    if not texts:
        return None
    count = len(report.matrix)
    names = [_fitted(score.name) for score in report.scores]
    size = count * max(_CELL, min(_LARGEST_CELL, _MATRIX / count))
    left = max(_LEFT, max(map(cell_len, names)) * _CHARACTER + 0.42)
    width, height = left + max(_RIGHT, size) + 0.1, _ABOVE + size + 0.06

    def draw(axes: Any) -> None:
        axes.figure.set_layout_engine("none")
        axes.set_position((left / width, 0.06 / height, size / width, size / height))  # shares of the figure
        for row, counts in enumerate(report.matrix):
            for column, number in enumerate(counts):
                _cell(axes, row, column, number, number / max(1, sum(counts)))
        axes.set(xlim=(0, count), ylim=(count, 0))
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        places = [place + 0.5 for place in range(count)]
        axes.set_xticks(places, [str(place + 1) for place in range(count)])
        axes.set_yticks(places, [f"{name}  {place}" for place, name in enumerate(names, start=1)])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        high = -0.34 * count / size  # inches above the matrix, in squares
        axes.text(0, high, "told class", color=INK, fontweight="bold", va="center")
        axes.text(-0.2, high, "right class", color=INK, fontweight="bold", va="center", ha="right")

    right = sum(report.matrix[place][place] for place in range(count))
    text = f"{right:,} of {texts:,} texts were told right."
    if report.confusions:
        most = report.confusions[0]
        times = f"{most.count:,} text" + ("" if most.count == 1 else "s")
        text += (
            f" The most frequent confusion: {printable(most.right, 60)} was taken for {printable(most.told, 60)} "
            f"({times})."
        )
    return Chart(svg(draw, "confusion", (width, height)), text, width)


def reliability_chart(report: ClassReport) -> Chart | None:
    """Accuracy against confidence (Guo et al. 2017, https://arxiv.org/abs/1706.04599); None without a text."""
    texts = sum(one.count for one in report.calibration)
    if not texts:
        return None

    def draw(axes: Any) -> None:
        for place, one in enumerate(report.calibration):
            if one.count:
                start, middle, end = (place + 0.06) / BINS, (place + 0.5) / BINS, (place + 0.94) / BINS
                axes.bar(middle, one.accuracy, end - start, color=BLUE)
                # Where the bar should end.
                axes.plot([start, end], [one.confidence] * 2, color=ORANGE, linewidth=2)
                top = max(one.accuracy, one.confidence) + 0.02
                axes.text(middle, top, _short(one.count), ha="center", va="bottom", fontsize=6.5, color=INK)
        axes.plot([0, 1], [0, 1], color="#8a949e", linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set(xlim=(0, 1), ylim=(0, 1.08))
        axes.set_xlabel("confidence: probability of the told class")
        axes.set_ylabel("share told right")

    text = (
        f"Expected calibration error {report.calibration_error:.3g}, over {texts:,} texts: "
        "the mean distance of confidence from accuracy."
    )
    return Chart(svg(draw, "reliability"), text)


def _cell(axes: Any, row: int, column: int, number: int, share: float) -> None:
    from matplotlib.patches import Rectangle

    white, blue = (1.0, 1.0, 1.0), tuple(int(BLUE[at : at + 2], 16) / 255 for at in (1, 3, 5))
    colour = tuple(start + (end - start) * (0.03 + 0.97 * share) for start, end in zip(white, blue, strict=True))
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="white", linewidth=1))
    ink = "white" if share > 0.6 else INK if number else "#8a949e"
    text = _short(number)
    size = 8.5 if len(text) < 4 else 6.5
    axes.text(column + 0.5, row + 0.52, text, ha="center", va="center", color=ink, fontsize=size)


def _short(number: int) -> str:
    """A count in at most four characters."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number // (1000 if letter == 'k' else size)}{letter}"
    return str(number)


def _fitted(name: str) -> str:
    shown = printable(name, 200)
    return shown if cell_len(shown) <= _LONGEST else set_cell_size(shown, _LONGEST - 1).rstrip() + "…"
