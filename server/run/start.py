"""How a run begins or is continued: the same for a simulation and for a federation of processes."""

from __future__ import annotations

from pathlib import Path

from common.adapter.adapter import initial
from common.errors import InputError
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.tasks import make_task
from server.run_directory.run_directory import RunDirectory, RunInfo, new_run_id


def start_run(
    plan: Plan,
    out: Path,
    private: bool,
    model: LoraModel,
    run: str | None = None,
    registry: Path | None = None,
    *,
    authenticated: bool = False,
) -> RunDirectory:
    """A new run directory with the adapter of round 0.

    Args:
        plan: of the run.
        out: the run directory; it holds no run yet.
        private: False only for a simulation without privacy.
        model: the base model with the plan's LoRA layers.
        run: the run's id; one is made if it is missing.
        registry: folder of the registered organizations; None in a simulation.
        authenticated: whether only registered nodes take part.

    Raises:
        InputError: the base model's tokenizer cannot serve the plan's task, or `out` does not fit.
    """
    make_task(plan.task, model.tokenizer)  # whether the tokenizer can serve it is told before anything is made
    info = RunInfo(
        run=run or new_run_id(plan.name),
        digest=plan.digest(),
        base=plan.base_folder(),
        fingerprint=model.fingerprint,
        shapes=dict(model.shapes),
        private=private,
        registry=str(registry) if registry else None,
        authenticated=authenticated,
    )
    start = {
        name: tensor
        for name, tensor in initial(model.shapes, plan.lora.seed).items()
        if name in model.trained_shapes
    }
    return RunDirectory.create(out, info, plan, start)


def resume_run(
    plan: Plan, out: Path, private: bool, model: LoraModel, *, authenticated: bool = False
) -> RunDirectory:
    """The run that a directory holds, if it is the plan's.

    Raises:
        InputError: it holds no run, or one of another plan or base model, one with or without privacy, or with or
            without node keys.
    """
    directory = RunDirectory.open(out)
    if directory.info.digest != plan.digest():
        raise InputError(f"{out}: its run has another plan; --resume continues a run with the plan it began with")
    if directory.info.private != private:
        mode = "with" if directory.info.private else "without"
        raise InputError(f"{out}: its run was begun {mode} privacy and can only be continued so")
    if directory.info.authenticated != authenticated:
        mode = "with" if directory.info.authenticated else "without"
        raise InputError(f"{out}: its run was begun {mode} TLS and node keys and can only be continued so")
    if directory.info.fingerprint != model.fingerprint:
        raise InputError(
            f"{out}: its run was begun with another base model: fingerprint {directory.info.fingerprint[:12]}, "
            f"now {model.fingerprint[:12]}"
        )
    return directory
