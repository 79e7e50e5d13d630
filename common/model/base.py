"""Base models as they are published: loaded without running anything of theirs, told apart by a fingerprint."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from common.errors import InputError
from common.model.quantization import Quantization, quantized
from common.plan.task import TaskSection


def load_base(
    source: str, dtype: str, section: TaskSection, quantization: Quantization | None = None, device: str = "cpu"
) -> tuple[Any, Any]:
    """Load a base model and its tokenizer; safetensors only, no code from the model's folder, no dropout.

    Args:
        source: a folder, or a name of the Hugging Face Hub.
        dtype: "float32" or "bfloat16".
        section: the task, which says what the model is to give: next tokens, or vectors for a head.
        quantization: of the linear layers, all but the output layer.
        device: where a quantized model is made; another one is loaded to the CPU.

    Raises:
        InputError: it is not there or is no model for the task.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        # The noise of DP-SGD regularizes enough; and without dropout two steps on one batch are equal.
        for key, value in vars(config).items():
            if "drop" in key and isinstance(value, float):  # dropout, pdrop, layerdrop
                setattr(config, key, 0.0)
        auto_class, options = _auto_class(config, section)
        if quantization is not None:
            options |= quantized(quantization, config, dtype, device)
        model, loading = auto_class.from_pretrained(
            source,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
        if loading["missing_keys"]:
            raise ValueError(f"its weights lack {min(loading['missing_keys'])}")
        if auto_class is AutoModelForCausalLM and getattr(config, "is_decoder", None) is False:
            raise ValueError("it is an encoder, which sees the tokens to be predicted")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"model.base = {source!r}: not a folder or a cached model that can be loaded for "
            f'task.kind = "{section.kind}": {reason}'
        ) from None
    return model, tokenizer


def _auto_class(config: Any, section: TaskSection) -> tuple[Any, dict[str, Any]]:
    """The class of transformers that loads a model for a task, and what more it is to be told."""
    if section.is_encoder_decoder:
        return AutoModelForSeq2SeqLM, {}
    if section.head_outputs is None:
        return AutoModelForCausalLM, {}
    if config.is_encoder_decoder:
        raise ValueError("it is an encoder-decoder; a head goes on an encoder or on a decoder")
    # A pooling layer would be trained for nothing: the head's vector does not come from it.
    made = AutoModel._model_mapping[type(config)]
    has_pooler = "add_pooling_layer" in inspect.signature(made.__init__).parameters
    return AutoModel, {"add_pooling_layer": False} if has_pooler else {}


def fingerprint(base: torch.nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bytes of all tensors of a base model, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(base.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
