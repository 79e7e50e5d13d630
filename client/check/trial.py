"""A plan tried on the device, with synthetic tokens and the real training code. No text of a record is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from client.check.findings import Findings, Group
from client.check.memory import GIB, free_memory, peak_memory
from client.check.records import EncodedForPlan
from client.check.timing import Speed, check_times
from client.vault.policy.organization import Organization
from client.vault.preparation import rows_cache, settle
from client.vault.records.encoded import Unit
from client.vault.start import base_model_folder
from client.vault.training.dp_sgd import Step, train
from client.vault.training.entropy import SystemEntropy
from client.vault.training.errors import GuaranteeError, OutOfMemoryError, is_out_of_memory
from client.vault.training.micro_batches import groups, rows_at
from client.vault.training.optimizer import make_optimizer
from client.vault.workers.compute import worker_devices
from client.vault.workers.worker import Worker
from common.errors import SottoError
from common.model.model import LoraModel
from common.model.precision import one_thread
from common.plan.plan import Plan
from common.tasks import Example, Task, make_task, padded_length

_GROUP = Group("device")
# Above this share of the free memory, other programs or fragmentation may leave too little.
_TIGHT_SHARE = 0.9


@dataclass(frozen=True)
class _Trial:
    """The measurements of one micro-batch of the longest examples.

    Attributes:
        example: one of its examples.
        parameters: the number of trained parameters.
        rows, length: its shape.
        memory: peak memory in bytes, including the model.
        seconds: the time it takes.
        overhead: seconds per step beside the micro-batches, for noise and optimizer.
    """

    example: Example
    parameters: int
    rows: int
    length: int
    memory: int
    seconds: float
    overhead: float


def try_plan(
    organization: Organization, plan: Plan, device: torch.device, encoded: EncodedForPlan | None
) -> Findings[None]:
    """Verify and time the training of a plan, as a vault would before it spends anything.

    Args:
        organization: the organization's settings.
        plan: the plan to try.
        device: to try it on.
        encoded: the units as the plan encodes them, for their lengths; None to assume the plan's maximum length.
    """
    plan = organization.local_plan(plan)
    free, _ = free_memory(device)
    try:
        with peak_memory(device) as peak:
            folder = str(base_model_folder(organization, plan.model.base))
            model = LoraModel(folder, plan, str(device))
            loaded = peak()
            task = make_task(plan.task, model.tokenizer)
            max_tokens = organization.vault.micro_batch_tokens(model.width)
            section = organization.vault.model_copy(update={"max_tokens": max_tokens})
            organization = organization.model_copy(update={"vault": section})
            worker = Worker(model, task, plan, max_tokens)
            precision, fewer = settle(worker, model, plan, max_tokens, rows_cache(organization, read_only=True))
            name = str(precision).removeprefix("torch.")
            yield _GROUP.ok(
                "training", f"per-example gradients are those of a plain loop; matrix products in {name}"
            )
            yield _GROUP.ok("rows", _rows_text(fewer))
            trial = _try(organization, plan, model, task, precision, fewer, peak)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or is_out_of_memory(error):
            advice = _memory_advice(organization, plan)
            raise SottoError(f"out of memory, with {free / GIB:.1f} GiB free; {advice}") from None
        if not isinstance(error, GuaranteeError):
            raise
        yield _GROUP.wrong("training", f"would not match the privacy accounting: {error}")
        return
    section = organization.vault
    workers = len(worker_devices(section.workers, section.training_devices))
    each = trial.memory - loaded
    if section.workers is None and device.type == "cpu":
        workers = max(1, min(workers, (free - loaded) // max(1, each)))
    memory = loaded + workers * each
    text = (
        f"a micro-batch of {trial.rows} × {trial.length} tokens takes {trial.seconds:.2g} s, and the model with "
        f"{workers} worker{'s' if workers > 1 else ''} {memory / GIB:.2f} of {free / GIB:.1f} GiB free memory"
    )
    if memory > _TIGHT_SHARE * free:
        yield _GROUP.warning("memory", f"{text}, which is tight; {_memory_advice(organization, plan)}")
    else:
        yield _GROUP.ok("memory", text)
    if encoded is None:
        unit = (trial.example,) * (plan.privacy.records_per_user or 1)
        encoded = EncodedForPlan([unit] * organization.data.public_size, 0.0)
    token = trial.seconds / (trial.rows * trial.length) / workers
    speed = Speed(token, trial.overhead, encoded.seconds, trial.parameters)
    yield from check_times(organization, plan, speed, encoded.units)


def _rows_text(fewer: Mapping[int, int]) -> str:
    text = "a gradient is the same in every row of a micro-batch"
    if not fewer:
        return text
    lengths = ", ".join(f"{rows} of {length} tokens" for length, rows in sorted(fewer.items()))
    return f"{text}, with fewer rows for some lengths: {lengths}"


def _try(
    organization: Organization,
    plan: Plan,
    model: LoraModel,
    task: Task,
    precision: torch.dtype,
    fewer: Mapping[int, int],
    peak: Callable[[], int],
) -> _Trial:
    max_tokens = organization.vault.micro_batch_tokens()
    (example,) = task.synthetic(1, plan.task.max_length)
    length = padded_length(len(example))
    rows = rows_at(length, max_tokens, fewer)
    parameters = model.trained_parameters()

    def seconds(units: list[Unit]) -> float:
        """The duration of one complete step on these units."""
        batch, norm = plan.training.batch_size, plan.privacy.clipping_norm
        step = Step(1.0, batch, norm, 1.0, None, max_tokens, precision, fewer)
        started = time.perf_counter()
        optimizer = make_optimizer(plan, parameters, 1)
        stream = SystemEntropy().stream(organization.name, "check", 1)
        with one_thread():  # as in a worker
            train(model.module, parameters, task, units, step, 1, optimizer, stream)
        for parameter in parameters.values():
            parameter.sum().item()  # GPU kernels run asynchronously: wait for them
        return time.perf_counter() - started

    seconds([(example,)] * rows)  # warm-up: the first step includes one-time setup
    full, empty = seconds([(example,)] * rows), seconds([])
    # Units of several examples keep the means of a group of them in memory.
    size = sum(parameter.numel() for parameter in parameters.values())
    group = next(groups([(example, example)] * plan.training.batch_size, size, max_tokens, fewer))
    has_several = plan.task.has_windows or plan.privacy.records_per_user not in (None, 1)
    memory = peak() + (8 * size * len(group) if has_several else 0)
    return _Trial(example, size, rows, length, memory, max(full - empty, 0.0), empty)


def _memory_advice(organization: Organization, plan: Plan) -> str:
    """How to need less memory."""
    length = padded_length(plan.task.max_length)
    tokens = organization.vault.micro_batch_tokens()
    if tokens >= 2 * length:
        return f"set vault.max_tokens = {tokens} lower, but at least {length}"
    return "ask for a plan with gradient_checkpointing or a smaller max_length, or take a larger device"
