"""What differential privacy costs in time: a DP-SGD step beside a plain LoRA step on the same batch.

    .venv/bin/python benchmarks/step_time.py [--runs 9]

Both steps are taken in turn in one process, so that a machine that slows down slows down both; the table
shows the median of the ratios, and the quartiles. Models are randomly initialized: time does not depend on
the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from client.entropy import SystemEntropy
from client.private import PerExampleGradients, add_noise, clipped_sum, micro_batches
from common.tasks import Example
from common.tasks.causal_lm import CausalLM
from common.tasks.section import TaskSection

LENGTH, BATCH, VOCABULARY = 64, 32, 8192


class Tokens:
    """As much of a tokenizer as the task's loss needs."""

    pad_token_id = 0
    eos_token_id = 2
    bos_token_id = 1


def lora_model(hidden: int, layers: int, method: str) -> torch.nn.Module:
    """A Llama with LoRA of rank 8 on all linear layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model: torch.nn.Module = get_peft_model(LlamaForCausalLM(config), lora).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_B." in name or (method == "fedavg" and ".lora_A." in name))
    return model


def steps(model: torch.nn.Module) -> tuple[Callable[[], None], Callable[[], None]]:
    """A DP-SGD step and a plain step on one batch."""
    task = CausalLM(TaskSection(max_length=LENGTH), Tokens())
    ids = torch.randint(3, VOCABULARY, (BATCH, LENGTH - 1)).tolist()
    batch = [(Example(tuple(row), tuple(row)),) for row in ids]
    parameters = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4)
    stream = SystemEntropy().stream("benchmark", "benchmark", 1)

    def private() -> None:
        with PerExampleGradients(model, parameters) as gradients:
            noised = add_noise(clipped_sum(gradients, task, batch, 1.0, BATCH * LENGTH), 1.0, stream)
            for name, parameter in parameters.items():
                parameter.grad = (noised[name] / BATCH).to(parameter)
            optimizer.step()
            optimizer.zero_grad()

    def plain() -> None:
        for micro, _ in micro_batches(batch, BATCH * LENGTH):
            losses = task.losses(model, micro.examples, micro.length)
            losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return private, plain


def seconds(step: Callable[[], None]) -> float:
    """Wall time of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--runs", type=int, default=9)
    runs = arguments.parse_args().runs
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; batch {BATCH} × {LENGTH} tokens, rank 8")
    print("hidden  layers  method  trained     plain s   ratio (quartiles)")
    for hidden, layers in ((384, 6), (768, 4)):
        for method in ("ffa", "fedavg"):
            model = lora_model(hidden, layers, method)
            private, plain = steps(model)
            seconds(private), seconds(plain)
            pairs = [(seconds(private), seconds(plain)) for _ in range(runs)]
            ratios = [left / right for left, right in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            count = sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)
            usual = statistics.median(right for _, right in pairs)
            ratio = f"{middle:.2f} ({low:.2f}–{high:.2f})"
            print(f"{hidden:6}  {layers:6}  {method:6}  {count:9,}  {usual:8.3f}   {ratio}")


if __name__ == "__main__":
    main()
