"""Print a calibration as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_NAMES = {"rounds": "rounds", "batch_size": "batch size", "epsilon": "ε"}


def print_calibration(values: Mapping[str, Any], console: Console) -> None:
    """Print a table of costs, the ratio of noise to signal, and a table of alternatives.

    Args:
        values: of `common.privacy.calibration.calibrate`.
        console: where to print.
    """
    table = Table("organization", "public size", "rate q", "noise σ", "steps", "ε (PRV)", "ε (RDP)", "δ")
    for row in values["organizations"]:
        table.add_row(
            escape(row["name"]),
            str(row["public_size"]),
            f"{row['sample_rate']:.4g}",
            f"{row['noise_multiplier']:g}",
            str(row["steps"]),
            f"{row['epsilon']:.4f}",
            f"{row['epsilon_rdp']:.4f}",
            f"{row['delta']:g}",
        )
    console.print(table)
    _print_ratio(values, console)
    _print_alternatives(values, console)


def _print_ratio(values: Mapping[str, Any], console: Console) -> None:
    ratio = values["noise_to_signal"]
    if ratio is None:
        text = "noise to signal: not computed, since the plan's base model is not a local folder"
    else:
        alone = ratio["alone"].values()
        text = (
            f"noise to signal, at best: {ratio['step']:.2f} in a step and {ratio['run']:.2f} over the run, "
            f"averaged over {len(alone)} organization{'' if len(alone) == 1 else 's'} and "
            f"{values['trained_coordinates']:,} trained parameters (in a step, of one organization alone: "
            f"{min(alone):.2f} to {max(alone):.2f}). It is √d·σ / B: noise of √d·σ·C / B divided by a mean "
            "gradient of at most C; real gradients agree less. Above 1 in a step is usual; if it is far above 1 "
            "over the run, little is learned."
        )
    console.print(text, highlight=False, soft_wrap=True)


def _print_alternatives(values: Mapping[str, Any], console: Console) -> None:
    names = list(values["alternatives"][0]["noise_multiplier"])
    table = Table(
        "instead", *(f"σ {escape(name)}" for name in names), "σ / B relative to the plan", title="other settings"
    )
    for item in values["alternatives"]:
        sigmas = [item["noise_multiplier"][name] for name in names]
        relative = [value for value in item["relative_noise"].values() if value is not None]
        table.add_row(
            f"{_NAMES[item['change']]} {item['value']:g}",
            *("impossible" if sigma is None else f"{sigma:g}" for sigma in sigmas),
            _span(relative),
        )
    console.print(table)


def _span(values: list[float]) -> str:
    if not values:
        return "–"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"× {low}" if low == high else f"× {low} to {high}"
