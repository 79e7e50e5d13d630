"""Whether the device is available and a plan fits on it, tested with synthetic tokens and the real training code.

The trial uses no content of any record; the time estimate uses the lengths of the records. On a GPU the trial is
skipped while a vault is running, because it could take the vault's memory.
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

from client.check.findings import Findings, Group
from client.vault.policy.organization import Organization
from client.vault.records.units import Unit
from client.vault.start import base_model_folder, open_device
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
_MEMORY_POLL_SECONDS = 0.01
# Above this share of the free memory, other programs or fragmentation may leave too little.
_TIGHT_SHARE = 0.9
# Poisson samples drawn to estimate the tokens of a step.
_SAMPLES = 5


def check_device(organization: Organization, plan: Plan | None, units: Sequence[Unit] | None) -> Findings[None]:
    """Check the device, and try a plan on it.

    Args:
        organization: the organization's settings.
        plan: the plan to try; None to check the device alone.
        units: the units as the plan encodes them, for their lengths; None to assume the plan's maximum length.
    """
    available = yield from _GROUP.run("device", _device(organization, plan))
    if not available or plan is None or plan.model.base not in organization.models:
        return
    device = torch.device(organization.vault.device)
    if would_disturb(organization, device):
        yield _GROUP.warning(
            "plan", "not tried: a vault is running and may need the memory; stop it to try the plan"
        )
        return
    yield from _GROUP.run("plan", _trial_findings(organization, plan, device, units))


def _device(organization: Organization, plan: Plan | None) -> Findings[bool]:
    name = open_device(organization.vault.device)
    device = torch.device(name)
    free, total = _memory(device)
    yield _GROUP.ok(
        "device", f"{name} is {_device_name(device)}; {free / _GIB:.1f} of {total / _GIB:.1f} GiB are free"
    )
    if multiplies_bfloat16(device):
        yield _GROUP.ok("bfloat16", "supported in hardware")
    elif plan is not None and plan.model.dtype == "bfloat16":
        yield _GROUP.warning(
            "bfloat16", "not supported in hardware, but required by the plan: training will be slow"
        )
    else:
        yield _GROUP.ok("bfloat16", "not supported in hardware; plans that do not require it train in float32")
    return True


def would_disturb(organization: Organization, device: torch.device) -> bool:
    """Whether a trial on a device could take memory that a running vault needs, and make its round fail."""
    return device.type != "cpu" and is_held(organization.path(organization.vault.ledger))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another operating system or kind of processor
        model = platform.machine()
    return f"{model}, {torch.get_num_threads()} threads"


def _memory(device: torch.device) -> tuple[int, int]:
    """Free and total bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total


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


def _trial_findings(
    organization: Organization, plan: Plan, device: torch.device, units: Sequence[Unit] | None
) -> Findings[None]:
    free, _ = _memory(device)
    try:
        with _peak_memory(device) as peak:
            folder = str(base_model_folder(organization, plan.model.base))
            model = LoraModel(folder, organization.local_plan(plan), organization.vault.device)
            task = make_task(plan.task, model.tokenizer)
            precision = verified_precision(model, task, plan)
            name = str(precision).removeprefix("torch.")
            yield _GROUP.ok(
                "training", f"per-example gradients are those of a plain loop; matrix products in {name}"
            )
            trial = _try(organization, plan, model, task, precision, peak)
    except GuaranteeError as error:
        yield _GROUP.wrong("training", f"would not match the privacy accounting: {error}")
        return
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise SottoError(
            f"out of memory, with {free / _GIB:.1f} GiB free; {_memory_advice(organization, plan)}"
        ) from None
    text = (
        f"a micro-batch of {trial.rows} × {trial.length} tokens takes {trial.seconds:.2g} s, and with the model "
        f"{trial.memory / _GIB:.2f} of {free / _GIB:.1f} GiB free memory"
    )
    if trial.memory > _TIGHT_SHARE * free:
        yield _GROUP.warning("memory", f"{text}, which is tight; {_memory_advice(organization, plan)}")
    else:
        yield _GROUP.ok("memory", text)
    yield from _round_time(organization, plan, trial, units)


def _try(
    organization: Organization,
    plan: Plan,
    model: LoraModel,
    task: Task,
    precision: torch.dtype,
    peak: Callable[[], int],
) -> _Trial:
    max_tokens = organization.vault.max_tokens
    (example,) = task.synthetic(1, plan.task.max_length)
    length = padded_length(len(example))
    rows = max(1, max_tokens // length)
    parameters = model.trained_parameters()

    def seconds(units: list[Unit]) -> float:
        """The duration of one complete step on these units."""
        step = Step(1.0, plan.training.batch_size, plan.privacy.clipping_norm, 1.0, None, max_tokens, precision)
        started = time.perf_counter()
        optimizer = make_optimizer(plan, parameters, 1)
        stream = SystemEntropy().stream(organization.name, "check", 1)
        train(model.module, parameters, task, units, step, 1, optimizer, stream)
        for parameter in parameters.values():
            parameter.sum().item()  # GPU kernels run asynchronously: wait for them
        return time.perf_counter() - started

    seconds([(example,)] * rows)  # warm-up: the first step includes one-time setup
    full, empty = seconds([(example,)] * rows), seconds([])
    # A group of more units than a micro-batch holds keeps the gradients of all of them in memory.
    size = sum(parameter.numel() for parameter in parameters.values())
    group = next(groups([(example,)] * plan.training.batch_size, size, max_tokens))
    memory = peak() + 8 * size * max(0, len(group) - rows)
    return _Trial(example, size, rows, length, memory, max(full - empty, 0.0), empty)


def _round_time(
    organization: Organization, plan: Plan, trial: _Trial, units: Sequence[Unit] | None
) -> Findings[None]:
    if units is None:
        units = [(trial.example,) * (plan.privacy.records_per_user or 1)] * organization.data.public_size
    tokens = tokens_per_step(organization, plan, units, trial.parameters)
    step = trial.overhead + trial.seconds * tokens / (trial.rows * trial.length)
    seconds = step * plan.training.local_steps
    text = f"about {seconds:.2g} s for a round of {plan.training.local_steps} steps"
    if seconds > plan.federation.round_timeout:
        yield _GROUP.warning(
            "time",
            f"{text}; the plan's round_timeout is {plan.federation.round_timeout:g} s: ask for a longer one",
        )
    else:
        yield _GROUP.ok("time", text)


def tokens_per_step(organization: Organization, plan: Plan, units: Sequence[Unit], parameters: int) -> float:
    """Padded tokens that a step processes: the mean over a few samples, each drawn as in training.

    Args:
        organization: the organization's settings; its public size gives the sample rate.
        plan: the plan; a batch size above the public size, which the policy refuses, counts as all units.
        units: the units, for their lengths. A partial micro-batch costs as much as a full one.
        parameters: the number of trained parameters.
    """
    max_tokens = organization.vault.max_tokens
    rate = min(1.0, plan.training.batch_size / organization.data.public_size)
    total = 0
    for _ in range(_SAMPLES):
        stream = SystemEntropy().stream(organization.name, "check", 1)
        drawn = poisson_sample(units, rate, stream)
        sample = [choose_examples(unit, plan.privacy.records_per_user, stream) for unit in drawn]
        for group in groups(sample, parameters, max_tokens):
            total += sum(batch.rows * batch.length for batch, _ in micro_batches(group, max_tokens))
    return total / _SAMPLES


def _memory_advice(organization: Organization, plan: Plan) -> str:
    """How to need less memory."""
    length = padded_length(plan.task.max_length)
    if organization.vault.max_tokens >= 2 * length:
        return f"set vault.max_tokens = {organization.vault.max_tokens} lower, but at least {length}"
    return "ask for a plan with gradient_checkpointing or a smaller max_length, or take a larger device"


def _is_out_of_memory(error: BaseException) -> bool:
    # On a CPU, torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


@contextmanager
def _peak_memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """Monitor the memory; yields a function that returns the peak increase in bytes since the start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield lambda: torch.cuda.max_memory_allocated(device) - before
        return
    # The operating system's peak covers the whole life of the process, which may have loaded larger models before.
    process, stopped = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stopped.wait(_MEMORY_POLL_SECONDS):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield lambda: peak - before
    finally:
        stopped.set()
        thread.join()
