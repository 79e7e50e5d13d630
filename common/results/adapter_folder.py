"""An adapter as a PEFT folder: written with its model card, loaded again, and merged into its base model."""

from __future__ import annotations

import shutil
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
from common.report.report import PrivacyReport
from common.results.model_card import adapter_card
from common.run.summary import RunSummary
from common.untrusted import printable

_MERGE_TOLERANCE = 1e-3
HEAD_FILE = "head.safetensors"
_READING_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError, SafetensorError)


def write_adapter_folder(
    folder: Path, model: LoraModel, adapter: Adapter, base: str, run: RunSummary, report: PrivacyReport
) -> None:
    """Write an adapter in PEFT format, with its head, its plan and its model card.

    Args:
        folder: to write to.
        model: the base model with the plan's LoRA layers; `adapter` is loaded into it.
        adapter: the trained tensors.
        base: where `folder` should refer to the base model: a folder, or a name on the Hub.
        run: the run that trained the adapter.
        report: its privacy report, for the model card.
    """
    model.load(adapter)
    model.peft.peft_config["default"].base_model_name_or_path = base
    model.peft.save_pretrained(str(folder))
    _save_head(model.module, folder)
    card = adapter_card(run, report, getattr(model.module, "pooling", None))
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "plan.toml").write_text(run.plan.agreement_toml(), encoding="utf-8")


def load_folder(folder: Path, plan: Plan | None = None) -> tuple[Any, Any, Plan | None]:
    """Load a model for evaluation and generation, with its tokenizer and plan.

    Args:
        folder: an adapter folder in PEFT format, or a model folder in Hugging Face format.
        plan: used if the folder contains none.

    Raises:
        InputError: the folder contains neither, or it cannot be loaded.
    """
    if (folder / "plan.toml").is_file():
        plan = Plan.read(folder / "plan.toml")
    dtype, section = (plan.model.dtype, plan.task) if plan else ("float32", TaskSection())
    if is_adapter_folder(folder):
        model, tokenizer = load_adapter(folder, dtype, section)
        return model, tokenizer, plan
    if (folder / "config.json").is_file():
        model, tokenizer = load_base(str(folder), dtype, section)
        return _load_head(model, section, folder).eval(), tokenizer, plan
    raise InputError(f"{folder}: neither a run directory, an adapter folder nor a model folder")


def is_adapter_folder(folder: Path) -> bool:
    """Return whether a folder contains an adapter in PEFT format."""
    return (folder / "adapter_config.json").is_file()


def load_adapter(folder: Path, dtype: str, section: TaskSection) -> tuple[Any, Any]:
    """Load an adapter on the base model that its folder names, and the tokenizer. The folder is untrusted.

    Args:
        folder: in PEFT format.
        dtype: of the base model.
        section: the task.

    Raises:
        InputError: the folder or its base model cannot be loaded.
    """
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        # PEFT would unpickle adapter_model.bin, or download the weights.
        raise InputError(f"{weights}: there is no such file; adapters are read from safetensors only")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if type(config) is not LoraConfig or config.megatron_config is not None:
            raise ValueError("it is not a plain LoRA adapter")
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


def merge(folder: Path, out: Path) -> float:
    """Merge an adapter into its base model, in float32, and save a Hugging Face folder.

    Args:
        folder: an adapter folder in PEFT format.
        out: a new folder.

    Returns:
        The largest difference between a logit of the merged and of the unmerged model, on arbitrary tokens.

    Raises:
        InputError: `folder` contains no adapter, or `out` is not empty.
        SottoError: the merged model computes something else than the unmerged one.
    """
    check_free(out)
    if not is_adapter_folder(folder):
        raise InputError(f"{folder}: contains no adapter; it should be a complete run or a PEFT folder")
    plan = Plan.read(folder / "plan.toml") if (folder / "plan.toml").is_file() else None
    model, tokenizer = load_adapter(folder, "float32", plan.task if plan else TaskSection())
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
    """Copy files to another folder, if they exist."""
    for name in names:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)


def check_free(out: Path) -> None:
    """Check that an output folder is empty or does not exist.

    Raises:
        InputError: it is neither.
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
    """Add the head from a folder to a model, if its task needs one."""
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


def _unusable(folder: Path, error: Exception) -> InputError:
    reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
    return InputError(f"{folder}: not an adapter that can be loaded: {reason}")
