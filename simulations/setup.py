"""Prepare a simulation: its plan, records, run directory and run id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.plan.plan import Plan
from common.records import Record
from server.run_directory.run_directory import ensure_free, new_run_id
from simulations.demo.prepare import prepare_demo
from simulations.simulate import organizations_of


@dataclass(frozen=True)
class Setup:
    """A simulation that is ready to start.

    Attributes:
        plan: of the run.
        records: organization name → its records.
        folder: the run directory.
        run: the id of a new run.
    """

    plan: Plan
    records: Mapping[str, list[Record]]
    folder: Path
    run: str


def set_up(plan: Plan | None, out: Path | None, resume: bool) -> Setup:
    """Choose the run directory and partition the records.

    Args:
        plan: of the run; None for the embedded demo, whose data is written into the run directory.
        out: the run directory; None for a new one in `runs/`.
        resume: whether `out` holds a run to continue.

    Raises:
        InputError: `out` already contains a run, or is missing with `resume`; or the records cannot be read or
            partitioned.
    """
    if resume and out is None:
        raise InputError("--resume needs --out: the directory of the run to continue")
    run = new_run_id(plan.name if plan else "demo")
    folder = out or Path("runs") / run
    if not resume:
        ensure_free(folder)
    chosen = plan or prepare_demo(folder / "data")
    return Setup(chosen, organizations_of(chosen), folder, run)
