"""Text from a model."""

from __future__ import annotations

from typing import Any

import torch

from common.errors import InputError


def generate(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int, temperature: float = 0.0) -> str:
    """Continue a prompt.

    Args:
        model: a causal language model.
        tokenizer: of the model.
        prompt: encoded as in training: begun as the base model expects, not ended.
        max_new_tokens: how far at most; the end-of-text token ends it earlier.
        temperature: 0 takes the likeliest token each time; higher is more varied.

    Raises:
        InputError: the prompt fills all of the model's positions.

    Returns:
        The continuation without the prompt.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = torch.tensor([begin + tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    ids = ids.to(next(model.parameters()).device)
    room = getattr(model.config, "max_position_embeddings", None)
    if room is not None:
        max_new_tokens = min(max_new_tokens, room - ids.shape[1])
        if max_new_tokens < 1:
            raise InputError(f"the prompt has {ids.shape[1]} tokens; the model has {room} positions")
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
                eos_token_id=tokenizer.eos_token_id,
                **sampling,
            )
    finally:
        model.train(was_training)
    text: str = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return text.strip()
