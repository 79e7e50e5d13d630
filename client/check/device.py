"""Whether the device is there, and whether a plan fits on it: tried with made-up tokens and the code that trains.

Nothing of a record takes part in the trial; the estimate of a round's time goes by their lengths. On a GPU nothing
is tried beside a running vault, whose memory it could take.
"""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from client.check.findings import Checks, Group
from client.vault.policy.organization import Organization
from client.vault.records.units import Unit
from client.vault.start import listed_folder, open_device
from client.vault.training.dp_sgd import Step, choose_examples, poisson_sample, train
from client.vault.training.entropy import SystemEntropy
from client.vault.training.micro_batches import groups, micro_batches
from client.vault.training.optimizer import make_optimizer
from client.vault.training.per_example import GuaranteeError
from client.vault.training.verification import verified_precision
from common.errors import SottoError
from common.model.model import LoraModel
from common.model.precision import multiplies_bfloat16
from common.plan.plan import Plan
from common.system.lock import is_held
from common.tasks import Example, Task, make_task, padded_length

_GROUP = Group("device")
_GIB = 2**30
_LOOK_SECONDS = 0.01
# Above this share of what is free, other programs or a fragmented memory may leave too little.
_TIGHT = 0.9
_DRAWS = 5


def check_device(organization: Organization, plan: Plan | None, units: Sequence[Unit] | None) -> Checks[None]:
    """Look at the device, and try a plan on it.

    Args:
        organization: its file.
        plan: None to look at the device alone.
        units: as the plan encodes them, for their lengths; None to take every one as long as the plan allows.
    """
    there = yield from _GROUP.look("device", _device(organization, plan))
    if not there or plan is None or plan.model.base not in organization.models:
        return
    device = torch.device(organization.vault.device)
    if would_disturb(organization, device):
        yield _GROUP.warning(
            "plan", "not tried: the vault runs, and a trial could take the memory that it needs; stop it to try"
        )
        return
    yield from _GROUP.look("plan", _plan(organization, plan, device, units))


def _device(organization: Organization, plan: Plan | None) -> Checks[bool]:
    name = open_device(organization.vault.device)
    device = torch.device(name)
    free, total = _memory(device)
    yield _GROUP.ok("device", f"{name} is {_name(device)}; {free / _GIB:.1f} of {total / _GIB:.1f} GiB are free")
    if multiplies_bfloat16(device):
        yield _GROUP.ok("bfloat16", "multiplied in hardware")
    elif plan is not None and plan.model.dtype == "bfloat16":
        yield _GROUP.warning("bfloat16", "not multiplied in hardware, and the plan wants it: it will be slow")
    else:
        yield _GROUP.ok("bfloat16", "not multiplied in hardware; plans that leave it open train in float32")
    return True


def would_disturb(organization: Organization, device: torch.device) -> bool:
    """Whether a trial on a device could take the memory that a running vault needs, and fail its round."""
    return device.type != "cpu" and is_held(organization.path(organization.vault.ledger))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another system, or another kind of processor
        model = platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def _memory(device: torch.device) -> tuple[int, int]:
    """Bytes that are free, and in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total


@dataclass(frozen=True)
class _Trial:
    """One micro-batch of the longest examples.

    Attributes:
        example: one of them.
        numbers: that are trained.
        rows, length: its shape.
        memory: bytes at the most, the model's among them.
        seconds: that it takes.
        every_step: seconds that a step takes beside its micro-batches, for noise and optimizer.
    """

    example: Example
    numbers: int
    rows: int
    length: int
    memory: int
    seconds: float
    every_step: float


def _plan(
    organization: Organization, plan: Plan, device: torch.device, units: Sequence[Unit] | None
) -> Checks[None]:
    free, _ = _memory(device)
    try:
        with _peak_memory(device) as peak:
            folder = str(listed_folder(organization, plan.model.base))
            model = LoraModel(folder, organization.own_plan(plan), organization.vault.device)
            task = make_task(plan.task, model.tokenizer)
            precision = verified_precision(model, task, plan)
            name = str(precision).removeprefix("torch.")
            yield _GROUP.ok(
                "training", f"trains what it says, in {name}: per-example gradients are those of a plain loop"
            )
            trial = _try(organization, plan, model, task, precision, peak)
    except GuaranteeError as error:
        yield _GROUP.wrong("training", f"would not be what the accountant is told: {error}")
        return
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise SottoError(
            f"out of memory, where {free / _GIB:.1f} GiB were free; {_smaller(organization, plan)}"
        ) from None
    text = (
        f"a micro-batch of {trial.rows} × {trial.length} tokens takes {trial.seconds:.2g} s, and with the model "
        f"{trial.memory / _GIB:.2f} of {free / _GIB:.1f} GiB that are free"
    )
    if trial.memory > _TIGHT * free:
        yield _GROUP.warning("memory", f"{text}, which is tight; {_smaller(organization, plan)}")
    else:
        yield _GROUP.ok("memory", text)
    yield from _time_of_a_round(organization, plan, trial, units)


def _try(
    organization: Organization,
    plan: Plan,
    model: LoraModel,
    task: Task,
    precision: torch.dtype,
    peak: Callable[[], int],
) -> _Trial:
    most = organization.vault.max_tokens
    (example,) = task.synthetic(1, plan.task.max_length)
    length = padded_length(len(example))
    rows = max(1, most // length)
    parameters = model.trained_parameters()

    def seconds(units: list[Unit]) -> float:
        """One whole step on these units."""
        step = Step(1.0, plan.training.batch_size, plan.privacy.clipping_norm, 1.0, None, most, precision)
        began = time.perf_counter()
        optimizer = make_optimizer(plan, parameters, 1)
        stream = SystemEntropy().stream(organization.name, "check", 1)
        train(model.module, parameters, task, units, step, 1, optimizer, stream)
        for parameter in parameters.values():
            parameter.sum().item()  # a GPU computes on after it was asked: wait for it
        return time.perf_counter() - began

    seconds([(example,)] * rows)  # the first time also pays for what is set up once
    whole, empty = seconds([(example,)] * rows), seconds([])
    # Of more units than a micro-batch holds, the gradients are kept together.
    size = sum(parameter.numel() for parameter in parameters.values())
    held = next(groups([(example,)] * plan.training.batch_size, size, most))
    memory = peak() + 8 * size * max(0, len(held) - rows)
    return _Trial(example, size, rows, length, memory, max(whole - empty, 0.0), empty)


def _time_of_a_round(
    organization: Organization, plan: Plan, trial: _Trial, units: Sequence[Unit] | None
) -> Checks[None]:
    if units is None:
        units = [(trial.example,) * (plan.privacy.records_per_user or 1)] * organization.data.public_size
    tokens = tokens_of_a_step(organization, plan, units, trial.numbers)
    step = trial.every_step + trial.seconds * tokens / (trial.rows * trial.length)
    seconds = step * plan.training.local_steps
    text = f"about {seconds:.2g} s for a round of {plan.training.local_steps} steps"
    if seconds > plan.federation.round_timeout:
        yield _GROUP.warning(
            "time",
            f"{text}; the plan waits for {plan.federation.round_timeout:g} s: ask for a longer round_timeout",
        )
    else:
        yield _GROUP.ok("time", text)


def tokens_of_a_step(organization: Organization, plan: Plan, units: Sequence[Unit], numbers: int) -> float:
    """Padded tokens that go through the model in a step: the mean of a few draws, each made as training makes it.

    Args:
        organization: its public size gives the sample rate.
        plan: a batch size above the public size, which is refused, counts as all units.
        units: for their lengths. A micro-batch that is not full costs as much as a full one.
        numbers: that are trained.
    """
    most = organization.vault.max_tokens
    rate = min(1.0, plan.training.batch_size / organization.data.public_size)
    total = 0
    for _ in range(_DRAWS):
        stream = SystemEntropy().stream(organization.name, "check", 1)
        drawn = poisson_sample(units, rate, stream)
        sample = [choose_examples(unit, plan.privacy.records_per_user, stream) for unit in drawn]
        for group in groups(sample, numbers, most):
            total += sum(batch.rows * batch.length for batch, _ in micro_batches(group, most))
    return total / _DRAWS


def _smaller(organization: Organization, plan: Plan) -> str:
    """What would need less memory."""
    length = padded_length(plan.task.max_length)
    if organization.vault.max_tokens >= 2 * length:
        return f"set vault.max_tokens = {organization.vault.max_tokens} lower, {length} at least"
    return "ask for a plan with gradient_checkpointing or a smaller max_length, or take a larger device"


def _is_out_of_memory(error: BaseException) -> bool:
    # On a CPU torch has no type of its own for it.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Watch the memory; gives what tells how many bytes more than at the beginning were in use at the most."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    # The system's own record of the peak is one of the whole process, in which larger models may have been loaded.
    process, ended = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not ended.wait(_LOOK_SECONDS):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield lambda: most - before
    finally:
        ended.set()
        thread.join()
