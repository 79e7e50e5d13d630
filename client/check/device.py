"""Whether the device is available, and whether a plan may be tried on it.

On a GPU a plan is not tried while a vault is running, because it could take the vault's memory.
"""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from client.check.findings import Findings, Group
from client.check.memory import GIB, free_memory
from client.check.records import EncodedForPlan
from client.check.trial import try_plan
from client.vault.policy.organization import Organization
from client.vault.start import open_devices
from client.vault.workers.compute import worker_devices
from common.model.precision import device_kind, multiplies_bfloat16
from common.plan.plan import Plan
from common.system.lock import is_held
from common.system.resources import usable_cores

_GROUP = Group("device")


def check_device(organization: Organization, plan: Plan | None, encoded: EncodedForPlan | None) -> Findings[None]:
    """Check the device, and try a plan on it.

    Args:
        organization: the organization's settings.
        plan: the plan to try; None to check the device alone.
        encoded: the units as the plan encodes them, for their lengths; None to assume the plan's maximum length.
    """
    available = yield from _GROUP.run("device", _device(organization, plan))
    if not available or plan is None or plan.model.base not in organization.models:
        return
    device = torch.device(organization.vault.training_devices[0])
    if would_disturb(organization, device):
        yield _GROUP.warning(
            "plan", "not tried: a vault is running and may need the memory; stop it to try the plan"
        )
        return
    yield from _GROUP.run("plan", try_plan(organization, plan, device, encoded))


def _device(organization: Organization, plan: Plan | None) -> Findings[bool]:
    section = organization.vault
    device = torch.device(open_devices(section)[0])
    free, total = free_memory(device)
    workers = len(worker_devices(section.workers, section.training_devices))
    names = ", ".join(section.training_devices)
    yield _GROUP.ok(
        "device",
        f"{names} is {_device_name(device)}; {free / GIB:.1f} of {total / GIB:.1f} GiB are free; "
        f"{workers} worker{'s' if workers > 1 else ''}",
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
        return device_kind(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # another operating system or kind of processor
        model = platform.machine()
    return f"{model}, {usable_cores()} cores"
