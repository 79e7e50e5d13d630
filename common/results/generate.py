"""Text generation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

from common.errors import InputError
from common.plan.task import TaskSection
from common.tasks.chat import Chat


@dataclass(frozen=True)
class Sampling:
    """Options of text generation.

    Attributes:
        max_new_tokens: maximum length; the end-of-text token ends a text earlier.
        temperature: 0 selects the most likely token; higher values increase variety.
        top_p: sample from the most likely tokens with this total probability (Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751); 1 for all tokens.
        stop: strings that end a text; they are removed from it.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


def generate(
    model: Any,
    tokenizer: Any,
    prompt: str,
    sampling: Sampling,
    section: TaskSection | None = None,
    show: Callable[[str], None] | None = None,
) -> str:
    """Continue a prompt, answer it as a turn of a dialogue, or generate from it, depending on the task.

    Args:
        model: a model that generates text.
        tokenizer: of the model.
        prompt: encoded as in training, with the base model's start token and without its end token.
        sampling: options.
        section: the task that the model was trained for; by default next tokens.
        show: called with each piece of the text as it is generated.

    Raises:
        InputError: the task generates no text, or the prompt fills all positions of the model.

    Returns:
        The text without the prompt.
    """
    section = section or TaskSection()
    if section.head_outputs is not None:
        raise InputError(f'a model for kind = "{section.kind}" generates no text; use: sotto evaluate')
    ids = torch.tensor([_prompt_ids(tokenizer, prompt, section)]).to(next(model.parameters()).device)
    positions = None if section.is_encoder_decoder else getattr(model.config, "max_position_embeddings", None)
    longest = sampling.max_new_tokens
    if positions is not None:
        longest = min(longest, positions - ids.shape[1])
        if longest < 1:
            raise InputError(f"the prompt has {ids.shape[1]} tokens; the model has {positions} positions")
    options: dict[str, Any] = {"do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:
        options |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.stop:
        options |= {"stop_strings": list(sampling.stop), "tokenizer": tokenizer}
    if show is not None:
        options["streamer"] = _Pieces(tokenizer, show)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=longest,
                pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
                eos_token_id=tokenizer.eos_token_id,
                **options,
            )
    finally:
        model.train(was_training)
    generated = output[0] if section.is_encoder_decoder else output[0, ids.shape[1] :]
    text: str = tokenizer.decode(generated, skip_special_tokens=True)
    return _before(text, sampling.stop).strip()


def read_prompts(path: Path) -> list[str]:
    """Read the non-empty lines of a file.

    Raises:
        InputError: the file cannot be read as text, or contains no prompt.
    """
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as text in UTF-8") from None
    if not prompts:
        raise InputError(f"{path}: contains no prompt; it should have one prompt per line")
    return prompts


def _prompt_ids(tokenizer: Any, prompt: str, section: TaskSection) -> list[int]:
    if section.is_dialogue:
        return Chat(section, tokenizer).prompt([{"role": "user", "content": prompt}])
    if section.is_encoder_decoder:
        return list(tokenizer(prompt)["input_ids"])
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return start + list(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def _before(text: str, stops: tuple[str, ...]) -> str:
    """Return a text up to the first stop string."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))]


class _Pieces(TextStreamer):
    """Forwards text as soon as it is final."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._show(text + "\n" if stream_end else text)
