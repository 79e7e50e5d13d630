"""The base model with one LoRA adapter whose tensors can be swapped; the fingerprint of the base."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from common.adapter import Adapter, Shapes, initial, trained
from common.errors import InputError
from common.plan import Lora, Plan
from common.tasks import padded_length


class LoraModel:
    """A base model, its tokenizer, and LoRA layers on it, ready to train or to evaluate.

    Args:
        source: a folder in Hugging Face format, or a name in the local cache of the Hub.
        plan: says the precision, the LoRA layers, and which of their tensors are trained.
        device: where it lives, for instance "cpu" or "cuda:0".

    Attributes:
        module: the PEFT model, in training mode; LoRA tensors in float32.
        tokenizer: of the base model.
        shapes: every LoRA tensor.
        trained_shapes: the LoRA tensors that the plan trains and sends.
        fingerprint: of the base model, see `fingerprint`.

    Raises:
        InputError: the base cannot be loaded, or the plan's LoRA does not fit it.
    """

    def __init__(self, source: str, plan: Plan, device: str = "cpu") -> None:
        base, self.tokenizer = load_base(source, plan.model.dtype)
        self.fingerprint = fingerprint(base)
        _check_fits(base, self.tokenizer, plan)
        self.module: Any = _attach(base, plan.lora).to(device)
        if plan.training.gradient_checkpointing:
            # Only the reentrant kind runs the hooks of per-example gradients; it needs an input with a gradient.
            self.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
            self.module.enable_input_require_grads()
        # PEFT leaves the modes of layers mixed; the hooks of per-example gradients work in training mode only.
        # With every dropout at zero the two modes compute the same.
        self.module.train()
        self._parameters: dict[str, torch.nn.Parameter] = {
            name.replace(".default.", "."): parameter
            for name, parameter in self.module.named_parameters()
            if ".lora_" in name
        }
        self.shapes: Shapes = {name: tuple(self._parameters[name].shape) for name in sorted(self._parameters)}
        self.trained_shapes = trained(self.shapes, plan.aggregation.method)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in self.trained_shapes)
        self._initial = initial(self.shapes, plan.lora.seed)
        self.load({})

    def load(self, adapter: Adapter) -> None:
        """Set the LoRA tensors; those that `adapter` does not name get their initial values."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(torch.from_numpy(adapter.get(name, self._initial[name])))

    def adapter(self, *, complete: bool = False) -> Adapter:
        """A copy of the trained tensors, or of all LoRA tensors."""
        names = self.shapes if complete else self.trained_shapes
        return {name: self._parameters[name].detach().cpu().numpy().copy() for name in names}

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The live parameters that training changes, by adapter name, in the order of the names."""
        return {name: self._parameters[name] for name in self.trained_shapes}


def trained_coordinates(plan: Plan) -> int | None:
    """How many numbers a plan trains; None if its base model is no folder here.

    Raises:
        InputError: the folder cannot be loaded, or the plan's LoRA does not fit it.
    """
    source = plan.base_folder()
    if not Path(source).is_dir():
        return None
    return sum(math.prod(shape) for shape in LoraModel(source, plan).trained_shapes.values())


def load_base(source: str, dtype: str) -> tuple[Any, Any]:
    """Load a base model and its tokenizer; safetensors only, no code from the model's folder, no dropout.

    Args:
        source: a folder, or a name of the Hugging Face Hub.
        dtype: "float32" or "bfloat16".

    Raises:
        InputError: it is not there or is not a causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        # The noise of DP-SGD regularizes enough; and without dropout two steps on one batch are equal.
        for key, value in vars(config).items():
            if "drop" in key and isinstance(value, float):  # dropout, pdrop, layerdrop
                setattr(config, key, 0.0)
        model, loading = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if loading["missing_keys"]:
            raise ValueError(f"its weights lack {min(loading['missing_keys'])}")
        if getattr(config, "is_decoder", None) is False:
            raise ValueError("it is an encoder, which sees the tokens to be predicted")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model.base = {source!r}: not a folder or a cached model that can be loaded: {reason}"
        ) from None
    return model, tokenizer


def fingerprint(base: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors of a base model, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_fits(base: Any, tokenizer: Any, plan: Plan) -> None:
    """Refuse what would fail on some records only: then the failure would tell which records there are."""
    rows = base.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise InputError(
            f"model.base = {plan.model.base!r}: its tokenizer has {len(tokenizer)} tokens, the model {rows}"
        )
    positions = getattr(base.config, "max_position_embeddings", None)
    if positions is not None and padded_length(plan.task.max_length) > positions:
        raise InputError(
            f"task.max_length = {plan.task.max_length}: it should be at most {positions // 16 * 16 - 1}, "
            f"since the base model has {positions} positions"
        )


def _attach(base: Any, lora: Lora) -> Any:
    modules = lora.target_modules
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=modules if isinstance(modules, str) else list(modules),
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # What PEFT warns of, adapters on tied layers, is refused below.
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            model = get_peft_model(base, config)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"lora.target_modules = {modules!r}: {reason}") from None
    unknown = (
        []
        if isinstance(modules, str)
        else [
            wanted
            for wanted in modules
            if not any(name == wanted or name.endswith(f".{wanted}") for name in model.targeted_module_names)
        ]
    )
    if unknown:
        raise InputError(f"lora.target_modules = {modules!r}: the base has no module {unknown[0]!r}")
    adapted = [module for module in model.modules() if hasattr(module, "base_layer")]
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    for module in adapted:
        # Per-example gradients of LoRA on embeddings are not exact; on tied layers the merge is wrong.
        if isinstance(module.base_layer, torch.nn.Embedding) or any(end is module for end in ends):
            raise InputError(
                f"lora.target_modules = {modules!r}: embeddings and the output layer cannot be adapted"
            )
    return model
