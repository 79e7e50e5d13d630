"""A merged model that takes less room, and what that costs in quality."""

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
from server.results.adapter_folder import HEAD_FILE, check_free, copy_files, load_result, merge
from server.results.evaluate import evaluate
from server.run_directory.run_directory import RunDirectory


@dataclass(frozen=True)
class Saving:
    """What quantizing a merged model saved, and what it cost.

    Attributes:
        bytes_before, bytes_after: of the weights' files.
        metric: the headline metric of the task; None if there was no data to measure it on.
        before, after: that metric.
    """

    bytes_before: int
    bytes_after: int
    metric: str | None = None
    before: float = 0.0
    after: float = 0.0


def merge_quantized(path: Path, out: Path, quantization: Quantization, data: Path | None = None) -> Saving:
    """Merge in float32, then quantize the linear layers, and save a Hugging Face folder.

    Args:
        path: a run directory, or an adapter folder in PEFT format.
        out: a new folder.
        quantization: "4bit" or "8bit".
        data: public records to measure both models on; those of the run's plan if it is None.

    Raises:
        InputError: `path` holds no adapter, `out` is not free, the data cannot be read, or bitsandbytes
            is not installed.
        SottoError: the merged model is not the same model; nothing was written.
    """
    check_free(out)
    if data is None and (path / "run.json").is_file():
        run = RunDirectory.open(path).plan
        data = run.path(run.evaluation.data) if run.evaluation.data else None
    if data is not None and not data.exists():
        raise InputError(f"{data}: there is no such file to measure on; name another by --data")
    with tempfile.TemporaryDirectory(prefix="sotto-merge-") as name:
        whole, small = Path(name) / "whole", Path(name) / "small"
        merge(path, whole)
        plan = Plan.read(whole / "plan.toml") if (whole / "plan.toml").is_file() else None
        section = plan.task if plan else TaskSection()
        # Saved before it computes anything: bitsandbytes changes the layout of weights that have been used.
        model, tokenizer = load_base(str(whole), "float32", section, quantization)
        model.save_pretrained(str(small))
        tokenizer.save_pretrained(str(small))
        copy_files(whole, small, "README.md", "plan.toml", HEAD_FILE)
        saving = Saving(_weight_bytes(whole), _weight_bytes(small))
        if data is not None:
            before, after = (_headline(folder, section, data) for folder in (whole, small))
            saving = Saving(saving.bytes_before, saving.bytes_after, section.headline[0], before, after)
        shutil.copytree(small, out, dirs_exist_ok=True)
    return saving


def print_saving(out: Path, saving: Saving, console: Console) -> None:
    """One line: bytes and quality, before and after."""
    quality = (
        f"{saving.metric} {saving.before:.4g} before, {saving.after:.4g} after"
        if saving.metric
        else "quality not measured: --data names records to measure it on"
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
    model, tokenizer, _ = load_result(folder)
    evaluation, _ = evaluate(model, tokenizer, section, data)
    return evaluation.metrics[section.headline[0]]
