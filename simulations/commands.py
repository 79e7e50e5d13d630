"""Commands that need the coordinator's and the organizations' side at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.system import logs
from common.system.console import AsJson, PlanFile, errors, print_json, print_stopped, screen

commands, privacy = typer.Typer(), typer.Typer()
GROUPS = {"privacy": privacy}


@commands.command()
def simulate(
    plan: Annotated[Path | None, typer.Argument(help="A plan; without one, the embedded demo.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run directory; by default a new one in runs/.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    no_privacy: Annotated[bool, typer.Option("--no-privacy", help="Train without clipping and noise.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that compute gradients; by default one on each core, or on each GPU."),
    ] = None,
) -> None:
    """Run a plan with many organizations on this machine."""
    from common.plan.plan import Plan
    from server.tracking.progress import run_progress
    from server.tracking.summary import print_summary
    from simulations.setup import set_up
    from simulations.simulate import simulate

    if logs.is_json():
        logs.configure("simulate", private=True)
    with screen.status("loading"):
        setup = set_up(Plan.read(plan) if plan else None, out, resume)
    try:
        with run_progress(setup.plan, not no_privacy, screen) as bar:
            result = simulate(
                setup.plan,
                setup.records,
                setup.folder,
                run=setup.run,
                resume=resume,
                private=not no_privacy,
                observer=bar,
                workers=workers,
            )
    except KeyboardInterrupt:
        words = ["sotto simulate", str(plan or ""), f"--out {setup.folder} --resume"]
        print_stopped(" ".join(filter(None, [*words, "--no-privacy" if no_privacy else ""])))
        raise typer.Exit(130) from None
    print_summary(result.directory, result.report, screen, result.answers)


@privacy.command("calibrate")
def calibrate_plan(
    plan: PlanFile,
    public_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Public size of an organization; may be given more than once.")
    ] = None,
    organization: Annotated[
        list[Path] | None, typer.Option(help="An organization.toml; may be given more than once.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a plan's noise and cost, and the noise that other settings would need. Nothing is spent."""
    from common.model.model import trained_coordinates
    from common.plan.plan import Plan
    from common.privacy.calibration import calibrate
    from common.privacy.calibration_table import print_calibration
    from simulations.public_numbers import public_numbers

    chosen = Plan.read(plan)
    with errors.status("loading") as status:
        numbers = public_numbers(chosen, public_size or [], organization or [])
        values = calibrate(
            chosen, numbers, trained_coordinates(chosen), lambda text: status.update(f"computing: {text}")
        )
    if as_json:
        print_json(values)
        return
    print_calibration(values, screen)
