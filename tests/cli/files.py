"""Changes to the files of a command, as a user makes them."""

from __future__ import annotations

import json
from pathlib import Path

from common.plan.plan import Plan


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "plan.toml").read_text()
    assert old in text
    (folder / "plan.toml").write_text(text.replace(old, new))


def write_organization(folder: Path) -> Path:
    path = folder / "organization.toml"
    base = json.dumps(Plan.read(folder / "plan.toml").model.base)
    path.write_text(
        f'name = "st-mary"\n[data]\ntrain = "records.jsonl"\npublic_size = 50\n[models]\n{base} = {base}\n'
        "[policy]\nmax_epsilon = 10.0\nmax_epsilon_per_run = 9.0\nmax_delta = 1e-2\nmin_noise_multiplier = 3.0\n"
    )
    return path
