"""Base models whose linear layers take 4 or 8 bits a weight, by bitsandbytes, so that they train under DP."""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from common.system.extras import how_to_install

Quantization = Literal["4bit", "8bit"]


def quantized(quantization: Quantization, config: Any, dtype: str, device: str) -> dict[str, Any]:
    """What `from_pretrained` is to be told.

    Args:
        quantization: 4bit is NF4, with its scales quantized once more (Dettmers et al. 2023,
            https://arxiv.org/abs/2305.14314); 8bit keeps a scale for each row of weights and each token
            (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339).
        config: of the model as it is published.
        dtype: of what is not quantized, and of the products in 4 bits.
        device: where it is made.

    Raises:
        ValueError: bitsandbytes is not installed, or the model is quantized already.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f'quantization = "{quantization}" needs bitsandbytes, which is not installed; '
            f"{how_to_install('quantization')}"
        )
    if is_quantized(config):
        raise ValueError("it is quantized already; name the model that it was made from")
    if quantization == "4bit":
        how = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    else:
        # Above a threshold, bitsandbytes would take out every column that is large for *any* example of a batch:
        # one record would change how the gradients of the others are rounded, beyond what the accountant is told.
        how = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return {"quantization_config": how, "device_map": {"": device}}


def is_quantized(config: Any) -> bool:
    """Whether a model's configuration says that its weights are quantized."""
    return getattr(config, "quantization_config", None) is not None
