"""The result of a run: written as a PEFT folder, and loaded again for what it is for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file as read_safetensors
from safetensors.torch import save_file as write_safetensors

from common.adapter.adapter import Adapter
from common.errors import InputError, SottoError
from common.model.base import load_base
from common.model.heads import HeadedModel
from common.model.model import LoraModel, with_head
from common.plan.plan import Plan
from common.plan.task import TaskSection
from common.protocol.report import build_report
from common.protocol.statement import Statement
from common.untrusted import printable
from server.registry.registry import Registry
from server.report.page import write_page
from server.results.model_card import adapter_card
from server.run_directory.run_directory import RunDirectory

_MERGE_TOLERANCE = 1e-3
HEAD_FILE = "head.safetensors"
_READING_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError, SafetensorError)


def write_result(directory: RunDirectory, model: LoraModel, adapter: Adapter) -> dict[str, Any]:
    """Write the adapter folder with its model card, and the privacy report.

    Args:
        directory: of the run.
        model: the base model with the plan's LoRA layers.
        adapter: the trained tensors after the last round.

    Returns:
        The privacy report.
    """
    statements: Sequence[Statement] = directory.statements.read() if directory.info.private else []
    keys = Registry(directory.info.registry_folder).keys()
    for name, public in keys.items():
        directory.statements.write_key(name, public)
    answered = {name for line in directory.rounds() for name in line.organizations.get("answered", [])}
    report = build_report(directory.info.run, statements, keys, plan=directory.plan, answered=answered)
    directory.write_json("privacy/report.json", report)
    write_page(directory, report)
    model.load(adapter)
    model.peft.peft_config["default"].base_model_name_or_path = directory.info.base
    model.peft.save_pretrained(str(directory.adapter_folder))
    _save_head(model.module, directory.adapter_folder)
    pooling = getattr(model.module, "pooling", None)
    card = adapter_card(directory.plan, directory.info, directory.rounds(), report, pooling)
    (directory.adapter_folder / "README.md").write_text(card, encoding="utf-8")
    (directory.adapter_folder / "plan.toml").write_text(directory.plan.agreement_toml(), encoding="utf-8")
    return report


def load_result(path: Path, plan_file: Path | None = None) -> tuple[Any, Any, Plan | None]:
    """A model that can be evaluated or asked, its tokenizer, and the plan it came from.

    Args:
        path: a run directory, an adapter folder in PEFT format, or a model folder in Hugging Face format.
        plan_file: names the plan where the folder holds none.

    Raises:
        InputError: it is none of these, or its run is not complete.
    """
    plan = Plan.read(plan_file) if plan_file else None
    if (path / "run.json").is_file():
        directory = RunDirectory.open(path)
        plan = directory.plan
        path = directory.adapter_folder
        if not (path / "adapter_config.json").is_file():
            raise InputError(f"{directory.path}: the run is not complete; continue it with --resume")
    elif (path / "plan.toml").is_file():
        plan = Plan.read(path / "plan.toml")
    dtype, section = (plan.model.dtype, plan.task) if plan else ("float32", TaskSection())
    if (path / "adapter_config.json").is_file():
        model, tokenizer = _load_adapted(path, dtype, section)
        return model, tokenizer, plan
    if (path / "config.json").is_file():
        model, tokenizer = load_base(str(path), dtype, section)
        return _load_head(model, section, path).eval(), tokenizer, plan
    raise InputError(f"{path}: neither a run directory, an adapter folder nor a model folder")


def merge(path: Path, out: Path) -> float:
    """Add the adapter into the base model's weights, in float32, and save a Hugging Face folder.

    Args:
        path: a run directory, or an adapter folder in PEFT format.
        out: a new folder.

    Returns:
        The largest difference between a logit of the merged and of the unmerged model, on made-up tokens.

    Raises:
        InputError: `path` holds no adapter, or `out` is not free.
        SottoError: the merged model is not the same model.
    """
    check_free(out)
    folder = RunDirectory.open(path).adapter_folder if (path / "run.json").is_file() else path
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{path}: holds no adapter; it should be a complete run or a PEFT folder")
    plan = Plan.read(folder / "plan.toml") if (folder / "plan.toml").is_file() else None
    model, tokenizer = _load_adapted(folder, "float32", plan.task if plan else TaskSection())
    tokens = torch.arange(64).remainder(len(tokenizer)).view(2, 32)
    with torch.inference_mode():
        before = _outputs(model, tokens)
        merged = _merged(model)
        difference = float((_outputs(merged, tokens) - before).abs().max())
    if not difference <= _MERGE_TOLERANCE:
        raise SottoError(f"a logit of the merged model differs by {difference:.2g}; nothing was written")
    base = merged.backbone if isinstance(merged, HeadedModel) else merged
    base.save_pretrained(str(out))
    _save_head(merged, out)
    tokenizer.save_pretrained(str(out))
    copy_files(folder, out, "README.md", "plan.toml")
    return difference


def copy_files(folder: Path, out: Path, *names: str) -> None:
    """Copy those of some files that a folder has into another one."""
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def check_free(out: Path) -> None:
    """Refuse to write over anything.

    Raises:
        InputError: it is a file, or a folder that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is not empty; --out should be a new directory")


def _merged(model: Any) -> Any:
    if isinstance(model, HeadedModel):
        model.backbone = model.backbone.merge_and_unload(safe_merge=True)
        return model
    return model.merge_and_unload(safe_merge=True)


def _outputs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    outputs = model(**inputs)
    return outputs if isinstance(outputs, torch.Tensor) else outputs.logits


def _save_head(model: Any, folder: Path) -> None:
    if isinstance(model, HeadedModel):
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.head.state_dict().items()}
        write_safetensors(state, folder / HEAD_FILE)


def _load_head(model: Any, section: TaskSection, folder: Path) -> Any:
    """A model with the head that its folder holds, if its task needs one."""
    headed = with_head(model, section)
    if headed is model:
        return model
    try:
        state = read_safetensors(folder / HEAD_FILE)
        if not all(tensor.isfinite().all() for tensor in state.values()):
            raise ValueError("its tensors are not finite")
        headed.head.load_state_dict(state)
    except _READING_ERRORS as error:
        raise _unusable(folder / HEAD_FILE, error) from None
    return headed


def _load_adapted(folder: Path, dtype: str, section: TaskSection) -> tuple[Any, Any]:
    """The base model that an adapter folder names, with the adapter on it. The folder may be anybody's."""
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        # Peft would unpickle adapter_model.bin, or ask a server for the weights.
        raise InputError(f"{weights}: there is no such file; adapters are read from safetensors only")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if type(config) is not LoraConfig or config.megatron_config is not None:
            raise ValueError("it is no plain LoRA adapter")
        if not all(tensor.isfinite().all() for tensor in read_safetensors(weights).values()):
            raise ValueError("its tensors are not finite")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError) as error:
        raise _unusable(folder, error) from None
    base, tokenizer = load_base(str(config.base_model_name_or_path), dtype, section)
    try:
        adapted = PeftModel.from_pretrained(base, str(folder), config=config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        raise _unusable(folder, error) from None
    return _load_head(adapted, section, folder).eval(), tokenizer


def _unusable(folder: Path, error: Exception) -> InputError:
    reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
    return InputError(f"{folder}: not an adapter that can be loaded: {reason}")
