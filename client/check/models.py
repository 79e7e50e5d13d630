"""Whether the listed base models can be loaded, and their fingerprints."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from client.check.findings import Findings, Group
from client.vault.policy.organization import Organization
from client.vault.start import base_model_folder
from common.errors import InputError
from common.model.base import fingerprint, load_base
from common.plan.plan import Plan
from common.plan.task import TaskSection

_GROUP = Group("model")
_NUMBER_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


def check_models(organization: Organization, plan: Plan | None) -> Findings[Any]:
    """Load every listed base model, one after another.

    Returns:
        The tokenizer of the plan's model; None without a plan, or if the model is not listed or cannot be loaded.
    """
    wanted = plan.model.base if plan else None
    if wanted is not None and wanted not in organization.models:
        yield _GROUP.wrong(
            wanted,
            f"the plan's base model is not listed in [models], which has: {', '.join(organization.models)}",
        )
    tokenizer = None
    for name in organization.models:
        loaded = yield from _GROUP.run(name, _model(organization, name, plan if name == wanted else None))
        if name == wanted:
            tokenizer = loaded
    return tokenizer


def _model(organization: Organization, name: str, plan: Plan | None) -> Findings[Any]:
    folder = base_model_folder(organization, name)
    stored = _stored_number_type(folder)
    # The fingerprint covers the weights as loaded, in the number type that the plan asks for.
    dtype = plan.model.dtype if plan else stored if stored in ("float32", "bfloat16") else "float32"
    base, tokenizer = load_base(str(folder), dtype, plan.task) if plan else _load_any(str(folder), dtype)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    yield _GROUP.ok(
        name,
        f"{type(base).__name__} with {parameters:,} parameters, stored as {stored}; "
        f"fingerprint as {dtype}: {fingerprint(base)[:12]}",
    )
    return tokenizer


def _load_any(folder: str, dtype: str) -> tuple[Any, Any]:
    """Load a base model of any kind: decoder-only, else encoder-only, else encoder-decoder."""
    encoder = TaskSection(kind="question-answering")
    encoder_decoder = TaskSection(kind="seq2seq", template="{text}", response="{text}")
    try:
        return load_base(folder, dtype, TaskSection())
    except InputError:
        for section in (encoder, encoder_decoder):
            with suppress(InputError):
                return load_base(folder, dtype, section)
        raise


def _stored_number_type(folder: Path) -> str:
    """The number type of most of the stored weights."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
        what = f"its weights are pickled ({pickled[0]}), and unpickling can run code" if pickled else "no weights"
        raise InputError(f"{folder}: {what}; it should contain .safetensors files, as save_pretrained writes them")
    counts: Counter[str] = Counter()
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                    part = tensors.get_slice(name)
                    size = 1
                    for length in part.get_shape():
                        size *= length
                    counts[part.get_dtype()] += size
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file}: cannot be read as safetensors: {error}; download or copy it again"
            ) from None
    kind = max(counts, key=lambda key: counts[key], default="no weights")
    return _NUMBER_TYPES.get(kind, kind)
