"""Text from a model."""

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
    """How a text is drawn.

    Attributes:
        max_new_tokens: how far at most; the end-of-text token ends it earlier.
        temperature: 0 takes the likeliest token each time; higher is more varied.
        top_p: the likeliest tokens that have this probability together are drawn from (Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751); 1 for all.
        stop: texts that end it; they are left out.
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
    """Continue a prompt, answer it as a turn of a dialogue, or write from it, as the task wants it.

    Args:
        model: a model that writes.
        tokenizer: of the model.
        prompt: encoded as in training: begun as the base model expects, not ended.
        sampling: how the text is drawn.
        section: the task that the model was trained for; next tokens of a text if it is missing.
        show: gets the text piece by piece, while it is written.

    Raises:
        InputError: the task writes no text, or the prompt fills all of the model's positions.

    Returns:
        The text without the prompt.
    """
    section = section or TaskSection()
    if section.head_outputs is not None:
        raise InputError(f'a model for kind = "{section.kind}" writes no text; try: sotto evaluate')
    ids = torch.tensor([_prompt_ids(tokenizer, prompt, section)]).to(next(model.parameters()).device)
    room = None if section.kind == "seq2seq" else getattr(model.config, "max_position_embeddings", None)
    longest = sampling.max_new_tokens
    if room is not None:
        longest = min(longest, room - ids.shape[1])
        if longest < 1:
            raise InputError(f"the prompt has {ids.shape[1]} tokens; the model has {room} positions")
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
    written = output[0] if section.kind == "seq2seq" else output[0, ids.shape[1] :]
    text: str = tokenizer.decode(written, skip_special_tokens=True)
    return _before(text, sampling.stop).strip()


def read_prompts(path: Path) -> list[str]:
    """The lines of a file, without empty ones.

    Raises:
        InputError: it cannot be read as text, or holds no prompt.
    """
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read as text in UTF-8") from None
    if not prompts:
        raise InputError(f"{path}: holds no prompt; one a line is needed")
    return prompts


def _prompt_ids(tokenizer: Any, prompt: str, section: TaskSection) -> list[int]:
    if section.kind == "chat":
        return Chat(section, tokenizer).prompt([{"role": "user", "content": prompt}])
    if section.kind == "seq2seq":
        return list(tokenizer(prompt)["input_ids"])
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return begin + list(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def _before(text: str, stops: tuple[str, ...]) -> str:
    """A text up to the first of the stop strings."""
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends, default=len(text))]


class _Pieces(TextStreamer):
    """Passes text on as soon as it is sure."""

    def __init__(self, tokenizer: Any, show: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._show = show

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self._show(text + "\n" if stream_end else text)
