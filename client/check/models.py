"""Whether the listed base models can be loaded, and which they are."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from client.check.findings import Checks, Group
from client.vault.policy.organization import Organization
from client.vault.start import listed_folder
from common.errors import InputError
from common.model.base import fingerprint, load_base
from common.plan.plan import Plan
from common.plan.task import TaskSection

_GROUP = Group("model")
_NUMBER_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def check_models(organization: Organization, plan: Plan | None) -> Checks[Any]:
    """Load every listed base model, one after the other.

    Returns:
        The tokenizer of the plan's model; None without a plan, or if the model is not listed or cannot be loaded.
    """
    wanted = plan.model.base if plan else None
    if wanted is not None and wanted not in organization.models:
        yield _GROUP.wrong(
            wanted,
            f"is the plan's base model and is not listed in [models], which has: {', '.join(organization.models)}",
        )
    tokenizer = None
    for name in organization.models:
        read = yield from _GROUP.look(name, _model(organization, name, plan if name == wanted else None))
        if name == wanted:
            tokenizer = read
    return tokenizer


def _model(organization: Organization, name: str, plan: Plan | None) -> Checks[Any]:
    folder = listed_folder(organization, name)
    stored = _stored_number_type(folder)
    # The fingerprint is one of the numbers as they are loaded, and the plan says how that is.
    dtype = plan.model.dtype if plan else stored if stored in ("float32", "bfloat16") else "float32"
    base, tokenizer = load_base(str(folder), dtype, plan.task) if plan else _load_any(str(folder), dtype)
    numbers = sum(parameter.numel() for parameter in base.parameters())
    yield _GROUP.ok(
        name,
        f"{type(base).__name__} with {numbers:,} parameters, stored as {stored}; "
        f"fingerprint as {dtype}: {fingerprint(base)[:12]}",
    )
    return tokenizer


def _load_any(folder: str, dtype: str) -> tuple[Any, Any]:
    """A base model of any kind: one that writes, else one that reads, else one that does both."""
    reads = TaskSection(kind="question-answering")
    both = TaskSection(kind="seq2seq", template="{text}", response="{text}")
    try:
        return load_base(folder, dtype, TaskSection())
    except InputError:
        for section in (reads, both):
            with suppress(InputError):
                return load_base(folder, dtype, section)
        raise


def _stored_number_type(folder: Path) -> str:
    """What most of the numbers are stored as."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
        what = (
            f"its weights are pickled ({pickled[0]}), and to read those can run code" if pickled else "no weights"
        )
        raise InputError(f"{folder}: {what}; it should hold .safetensors files, as save_pretrained writes them")
    counts: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no dictionary
                    part = tensors.get_slice(name)
                    size = 1
                    for length in part.get_shape():
                        size *= length
                    counts[part.get_dtype()] += size
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file}: cannot be read as safetensors: {error}; copy it anew") from None
    kind = max(counts, key=lambda key: counts[key], default="no numbers")
    return _NUMBER_TYPES.get(kind, kind)
