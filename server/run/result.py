"""The result of a run directory: written at the end of the run, and loaded or merged later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.adapter.adapter import Adapter
from common.errors import InputError
from common.model.model import LoraModel
from common.model.quantization import Quantization
from common.plan.plan import Plan
from common.report.page import render_page
from common.report.report import PrivacyReport, build_report, to_json
from common.results.adapter_folder import (
    check_free,
    is_adapter_folder,
    load_adapter,
    load_folder,
    merge,
    write_adapter_folder,
)
from common.results.quantize import Saving, merge_quantized
from common.run.round_line import organizations_that_answered
from server.registry.registry import Registry
from server.run_directory.run_directory import RunDirectory
from server.run_directory.summary import run_summary


def write_result(directory: RunDirectory, model: LoraModel, adapter: Adapter) -> PrivacyReport:
    """Write the privacy report, and the adapter folder with its model card.

    Args:
        directory: of the run.
        model: the base model with the plan's LoRA layers.
        adapter: the trained tensors that are the result.

    Returns:
        The privacy report.
    """
    info, run = directory.info, run_summary(directory)
    statements = directory.statements.read() if info.private else []
    keys = Registry(info.registry_folder).keys()
    for name, public in keys.items():
        directory.statements.write_key(name, public)
    answered = organizations_that_answered(run.rounds)
    report = build_report(info.run, statements, keys, plan=directory.plan, answered=answered)
    directory.write_text("privacy/report.json", to_json(report))
    directory.write_text("privacy/report.html", render_page(report, run))
    write_adapter_folder(directory.adapter_folder, model, adapter, info.base, run, report)
    return report


def load_result(path: Path, plan_file: Path | None = None) -> tuple[Any, Any, Plan | None]:
    """Load a model for evaluation and generation, with its tokenizer and plan.

    Args:
        path: a run directory, an adapter folder in PEFT format, or a model folder in Hugging Face format.
        plan_file: the plan, used if `path` contains none.

    Raises:
        InputError: `path` is none of these, or its run is not complete.
    """
    plan = Plan.read(plan_file) if plan_file else None
    directory = _run_directory(path)
    if directory is None:
        return load_folder(path, plan)
    plan = directory.plan
    model, tokenizer = load_adapter(directory.adapter_folder, plan.model.dtype, plan.task)
    return model, tokenizer, plan


def merge_result(path: Path, out: Path) -> float:
    """Merge an adapter into its base model, in float32, and save a Hugging Face folder.

    Args:
        path: a run directory, or an adapter folder in PEFT format.
        out: a new folder.

    Returns:
        The largest difference between a logit of the merged and of the unmerged model, on arbitrary tokens.

    Raises:
        InputError: `path` contains no adapter, or `out` is not empty.
        SottoError: the merged model computes something else than the unmerged one.
    """
    check_free(out)
    directory = _run_directory(path)
    return merge(path if directory is None else directory.adapter_folder, out)


def merge_result_quantized(path: Path, out: Path, quantization: Quantization, data: Path | None = None) -> Saving:
    """Merge in float32, then quantize the linear layers, and save a Hugging Face folder.

    Args:
        path: a run directory, or an adapter folder in PEFT format.
        out: a new folder.
        quantization: "4bit" or "8bit".
        data: public records on which both models are measured; by default those of the run's plan.

    Raises:
        InputError: `path` contains no adapter, `out` is not empty, `data` cannot be read, or bitsandbytes is not
            installed.
        SottoError: the merged model computes something else than the unmerged one; nothing was written.
    """
    check_free(out)
    directory = _run_directory(path)
    if directory is None:
        return merge_quantized(path, out, quantization, data)
    plan = directory.plan
    if data is None and plan.evaluation.data is not None:
        data = plan.path(plan.evaluation.data)
    return merge_quantized(directory.adapter_folder, out, quantization, data)


def _run_directory(path: Path) -> RunDirectory | None:
    """Open a complete run; None if `path` is not a run directory."""
    if not (path / "run.json").is_file():
        return None
    directory = RunDirectory.open(path)
    if not is_adapter_folder(directory.adapter_folder):
        raise InputError(f"{path}: the run is not complete; continue it with --resume")
    return directory
