"""Charts of an evaluation by class on public data: confusion matrix, and reliability of the confidence."""

from __future__ import annotations

from typing import Any

from rich.cells import cell_len, set_cell_size

from common.report.charts import BLUE, INK, ORANGE, Chart, svg
from common.tasks.class_report import BINS, ClassReport
from common.untrusted import printable

# In inches: smallest and largest cell of the matrix, its preferred width, and margins for labels.
_CELL, _LARGEST_CELL, _MATRIX = 0.34, 0.6, 2.4
_ABOVE, _LEFT, _RIGHT = 0.52, 1.0, 1.15
# Widths are measured in terminal cells, two for a Chinese character; a browser's font is about as wide.
_LONGEST, _CHARACTER = 26, 0.076


def confusion_chart(report: ClassReport) -> Chart | None:
    """Return the confusion matrix as a heat map; None if it is not stored, or there are no texts.

    Cells are coloured by their share of the row. Columns are labelled by row number, since names would not fit.
    """
    texts = sum(map(sum, report.matrix))
    if not texts:
        return None
    count = len(report.matrix)
    names = [_truncated(score.name) for score in report.scores]
    size = count * max(_CELL, min(_LARGEST_CELL, _MATRIX / count))
    left = max(_LEFT, max(map(cell_len, names)) * _CHARACTER + 0.42)
    width, height = left + max(_RIGHT, size) + 0.1, _ABOVE + size + 0.06

    def draw(axes: Any) -> None:
        axes.figure.set_layout_engine("none")
        axes.set_position((left / width, 0.06 / height, size / width, size / height))  # fractions of the figure
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
        above = -0.34 * count / size  # 0.34 inches above the matrix, in cells
        axes.text(0, above, "predicted class", color=INK, fontweight="bold", va="center")
        axes.text(-0.2, above, "true class", color=INK, fontweight="bold", va="center", ha="right")

    right = sum(report.matrix[place][place] for place in range(count))
    text = f"{right:,} of {texts:,} texts were classified correctly."
    if report.confusions:
        most = report.confusions[0]
        times = f"{most.count:,} text" + ("" if most.count == 1 else "s")
        right_class, predicted_class = printable(most.right, 60), printable(most.told, 60)
        text += f" The most frequent confusion: {right_class} was predicted as {predicted_class} ({times})."
    return Chart(svg(draw, "confusion", (width, height)), text, width)


def reliability_chart(report: ClassReport) -> Chart | None:
    """Return the reliability diagram (Guo et al. 2017, https://arxiv.org/abs/1706.04599); None without texts."""
    texts = sum(part.count for part in report.calibration)
    if not texts:
        return None

    def draw(axes: Any) -> None:
        for place, part in enumerate(report.calibration):
            if part.count:
                start, middle, end = (place + 0.06) / BINS, (place + 0.5) / BINS, (place + 0.94) / BINS
                axes.bar(middle, part.accuracy, end - start, color=BLUE)
                # The mean confidence, which the bar should reach.
                axes.plot([start, end], [part.confidence] * 2, color=ORANGE, linewidth=2)
                top = max(part.accuracy, part.confidence) + 0.02
                axes.text(middle, top, _short(part.count), ha="center", va="bottom", fontsize=6.5, color=INK)
        axes.plot([0, 1], [0, 1], color="#8a949e", linewidth=1, linestyle=(0, (4, 3)), zorder=0.5)
        axes.set(xlim=(0, 1), ylim=(0, 1.08))
        axes.set_xlabel("confidence: probability of the predicted class")
        axes.set_ylabel("share classified correctly")

    text = (
        f"Expected calibration error {report.calibration_error:.3g}, over {texts:,} texts: "
        "the mean difference between confidence and accuracy."
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
    """Format a count in at most four characters."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number // (1000 if letter == 'k' else size)}{letter}"
    return str(number)


def _truncated(name: str) -> str:
    shown = printable(name, 200)
    return shown if cell_len(shown) <= _LONGEST else set_cell_size(shown, _LONGEST - 1).rstrip() + "…"
