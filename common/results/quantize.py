"""Quantization of a merged model, and measurement of the loss of quality."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.errors import InputError
from common.model.base import load_base
from common.model.quantization import Quantization
from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.results.adapter_folder import HEAD_FILE, check_free, copy_files, load_folder, merge
from common.results.evaluate import evaluate


@dataclass(frozen=True)
class Saving:
    """The effect of quantizing a merged model.

    Attributes:
        bytes_before, bytes_after: size of the weights' files.
        metric: headline metric of the task; None if it was not measured.
        before, after: values of the metric.
    """

    bytes_before: int
    bytes_after: int
    metric: str | None = None
    before: float = 0.0
    after: float = 0.0


def merge_quantized(folder: Path, out: Path, quantization: Quantization, data: Path | None = None) -> Saving:
    """Merge in float32, then quantize the linear layers, and save a Hugging Face folder.

    Args:
        folder: an adapter folder in PEFT format.
        out: a new folder.
        quantization: "4bit" or "8bit".
        data: public records on which both models are measured; None to measure neither.

    Raises:
        InputError: `folder` contains no adapter, `out` is not empty, `data` cannot be read, or bitsandbytes is not
            installed.
        SottoError: the merged model computes something else than the unmerged one; nothing was written.
    """
    check_free(out)
    if data is not None and not data.exists():
        raise InputError(f"{data}: no such file to measure on; give another with --data")
    with tempfile.TemporaryDirectory(prefix="sotto-merge-") as name:
        merged, quantized = Path(name) / "merged", Path(name) / "quantized"
        merge(folder, merged)
        plan = Plan.read(merged / "plan.toml") if (merged / "plan.toml").is_file() else None
        section = plan.task if plan else TaskSection()
        # Saved before first use: bitsandbytes changes the layout of weights when they are used.
        model, tokenizer = load_base(str(merged), "float32", section, quantization)
        model.save_pretrained(str(quantized))
        tokenizer.save_pretrained(str(quantized))
        copy_files(merged, quantized, "README.md", "plan.toml", HEAD_FILE)
        saving = Saving(_weight_bytes(merged), _weight_bytes(quantized))
        if data is not None:
            before, after = (_headline(folder, section, data) for folder in (merged, quantized))
            saving = Saving(saving.bytes_before, saving.bytes_after, section.headline[0], before, after)
        shutil.copytree(quantized, out, dirs_exist_ok=True)
    return saving


def print_saving(out: Path, saving: Saving, console: Console) -> None:
    """Print size and quality, before and after, in one line."""
    quality = (
        f"{saving.metric} {saving.before:.4g} before, {saving.after:.4g} after"
        if saving.metric
        else "quality not measured: give --data to measure it"
    )
    console.print(
        f"{out}: merged and quantized; {saving.bytes_before / 1e6:.1f} MB before, "
        f"{saving.bytes_after / 1e6:.1f} MB after; {quality}",
        highlight=False,
        soft_wrap=True,
    )


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _headline(folder: Path, section: TaskSection, data: Path) -> float:
    model, tokenizer, _ = load_folder(folder)
    evaluation, _ = evaluate(model, tokenizer, section, data)
    return evaluation.metrics[section.headline[0]]
