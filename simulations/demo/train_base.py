"""Train the small base model of the offline demonstration from scratch.

Run ``python -m simulations.demo.train_base --out DIR``.  The script learns a tokenizer
and a small Llama-shaped language model from ``corpus.general_text`` alone, text that
this project generates itself, and writes both to DIR in the layout that
``AutoTokenizer`` and ``AutoModelForCausalLM`` read.

The tokenizer is a byte-pair encoding with byte fallback, so any text can be encoded and
``decode`` returns it unchanged (only the character U+2581 comes back as a space).
Digits and line ends are tokens of their own.  Encoding adds nothing by itself: whoever
trains on a text puts ``<s>`` before and ``</s>`` after it, as is done here.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from simulations.demo.corpus import general_text

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>"]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
CONTEXT_LENGTH = 256
IGNORED_LABEL = -100
# Generated text is predictable; smoothing keeps the model from ruling out everything else.
LABEL_SMOOTHING = 0.05


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Return the rule that cuts text before byte pairs are merged."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn a byte-pair tokenizer with byte fallback.

    Args:
        texts: public text to learn the merges from.
        vocabulary: number of tokens, the special and the byte tokens included.

    Returns:
        A tokenizer that adds nothing to what it encodes.
    """
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))  # noqa: S106
    learner.pre_tokenizer = _pre_tokenizer()
    reserved = SPECIAL_TOKENS + BYTE_TOKENS
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=reserved, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    # The trainer registers its reserved tokens as special ones, which decoding would
    # skip.  Only the true special tokens may be, so the model moves to a fresh
    # tokenizer.
    tokenizer = Tokenizer(learner.model)
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the untrained model, small enough to train on a processor."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Return the tokens of one training text, begun and ended as the tuning and the answers do it."""
    tokens: list[int] = tokenizer.encode(text)
    return [int(tokenizer.bos_token_id), *tokens, int(tokenizer.eos_token_id)][:CONTEXT_LENGTH]


def batches(
    texts: Iterator[str], tokenizer: PreTrainedTokenizerFast, size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield padded inputs and labels; texts of like length share a batch."""
    rng = random.Random(seed)
    while pool := list(itertools.islice(texts, 64 * size)):
        rows = sorted((encode(tokenizer, text) for text in pool), key=len)
        groups = [rows[start : start + size] for start in range(0, len(rows), size)]
        rng.shuffle(groups)
        for group in groups:
            width = max(map(len, group))
            pad = int(tokenizer.pad_token_id)
            yield (
                torch.tensor([row + [pad] * (width - len(row)) for row in group]),
                torch.tensor([row + [IGNORED_LABEL] * (width - len(row)) for row in group]),
            )


def token_loss(
    model: LlamaForCausalLM, inputs: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean loss over the tokens that have a label.

    Padding stands after the text, where causal attention cannot see it, so no
    attention mask is needed.
    """
    logits = model(input_ids=inputs).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED_LABEL, label_smoothing=smoothing
    )


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, count: int) -> float:
    """Return the mean loss a token on general text from a seed not trained on."""
    model.eval()
    total, tokens = 0.0, 0
    for inputs, labels in batches(general_text(seed, count), tokenizer, 64, seed):
        here = int((labels[:, 1:] != IGNORED_LABEL).sum())
        total += token_loss(model, inputs, labels).item() * here
        tokens += here
    model.train()
    return total / tokens


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return the rate for a step: a short warm-up, then half a cosine down to a tenth."""
    warm_up = min(100, steps // 10 + 1)
    if step < warm_up:
        return peak * (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, options: argparse.Namespace) -> None:
    """Train the model in place and print its progress."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.95), weight_decay=0.05)
    stream = batches(general_text(options.seed), tokenizer, options.batch, options.seed)
    started = time.monotonic()
    running = 0.0
    for step, (inputs, labels) in enumerate(itertools.islice(stream, options.steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.rate)
        loss = token_loss(model, inputs, labels, LABEL_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running += loss.item()
        if (step + 1) % 200 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}: loss {running / 200:.3f}, {seconds:.0f} s", flush=True)
            running = 0.0


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train the demonstration's base model.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32, help="texts in a step")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--vocabulary", type=int, default=2048, help="tokens")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="threads; more than the idle cores makes a model this small far slower",
    )
    return parser.parse_args()


def main() -> None:
    """Train tokenizer and model, save them, and check what was saved."""
    options = parse_arguments()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    tokenizer = train_tokenizer(general_text(options.seed, 20_000), options.vocabulary)
    model = build_model(tokenizer)
    print(f"parameters: {sum(weights.numel() for weights in model.parameters()):,}")
    train(model, tokenizer, options)
    unseen = options.seed + 1_000_000
    print(f"held-out loss: {held_out_loss(model, tokenizer, unseen, 1000):.4f}")

    tokenizer.save_pretrained(options.out)
    # Half precision halves the file; it is read back in single precision.
    model.half().save_pretrained(options.out)
    stored = AutoModelForCausalLM.from_pretrained(
        options.out, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    print(f"held-out loss as stored: {held_out_loss(stored, tokenizer, unseen, 1000):.4f}")


if __name__ == "__main__":
    main()
