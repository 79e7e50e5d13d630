"""Measure what speeds up training on this machine: micro-batches of similar length, and products in bfloat16.

    .venv/bin/python benchmarks/throughput.py --base FOLDER --data FILE [--template "{text}"] [--runs 5]

Per-example gradients of the same examples, by a sentence encoder with LoRA on all linear layers, in four
variants that alternate in one process; the table shows the median and the quartiles of the ratios to the slowest
variant, and the share of padding in the processed tokens. Without sorting, each micro-batch is padded to its
longest example. A second table shows the padding for samples of several sizes from the whole file, without
training: empty rows, which keep a record from changing another's gradient, matter more with fewer examples.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from client.vault.policy.organization import VaultSection
from client.vault.training.micro_batches import MicroBatch, micro_batches
from client.vault.training.per_example import PerExampleGradients
from common.model.model import LoraModel
from common.plan.lora import Lora
from common.plan.plan import Model, Plan, Privacy, Training
from common.plan.task import TaskSection
from common.records import read_records
from common.tasks import Example, make_task, padded_length

TOKENS = VaultSection().micro_batch_tokens()
DRAWS = (256, 1000, 4000)


def as_they_come(examples: list[Example]) -> Iterator[MicroBatch]:
    """Micro-batches with a bounded number of padded tokens, in the order of the records."""
    batch: list[Example] = []
    for example in examples:
        longest = padded_length(max(map(len, [*batch, example])))
        if batch and longest * (len(batch) + 1) > TOKENS:
            yield MicroBatch(tuple(batch), padded_length(max(map(len, batch))), len(batch))
            batch = []
        batch.append(example)
    yield MicroBatch(tuple(batch), padded_length(max(map(len, batch))), len(batch))


def sorted_by_length(examples: list[Example]) -> Iterator[MicroBatch]:
    """Micro-batches as in training."""
    for batch, _ in micro_batches([(example,) for example in examples], TOKENS):
        yield batch


def padding(batches: list[MicroBatch]) -> float:
    """The share of padding in the processed tokens, including empty rows."""
    processed = sum(batch.rows * batch.length for batch in batches)
    return 1 - sum(len(example) for batch in batches for example in batch.examples) / processed


def main() -> None:
    """Alternate the four variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="a folder with an encoder")
    parser.add_argument("--data", required=True, type=Path, help="records")
    parser.add_argument("--template", default="{text}", help="the text of a record")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    plan = Plan(
        name="throughput",
        model=Model(base=options.base),
        task=TaskSection(
            kind="classification",
            template=options.template,
            labels=["a", "b"],
            label_field="label",
            max_length=255,
        ),
        lora=Lora(rank=8),
        training=Training(rounds=1, batch_size=1),
        privacy=Privacy(epsilon=8.0, delta=1e-5),
    )
    model = LoraModel(options.base, plan)
    task = make_task(plan.task, model.tokenizer)
    every = [example for one in read_records(options.data) for example in task.encode({**one, "label": "a"})]
    random.Random(0).shuffle(every)
    examples = every[: options.examples]
    orders: dict[str, Callable[[list[Example]], Iterator[MicroBatch]]] = {
        "as they come": as_they_come,
        "of like length": sorted_by_length,
    }
    times: dict[tuple[str, torch.dtype], list[float]] = {}
    for _ in range(options.runs):
        for order, batches in orders.items():
            for precision in (torch.float32, torch.bfloat16):
                begin = time.perf_counter()
                with PerExampleGradients(model.module, model.trained_parameters(), precision) as gradients:
                    for batch in batches(examples):
                        gradients.of(task, batch)
                times.setdefault((order, precision), []).append(time.perf_counter() - begin)
    slowest = times["as they come", torch.float32]
    print(f"{len(examples)} examples of {statistics.median(map(len, examples)):.0f} tokens (median)\n")
    print("| micro-batches | products | seconds | speed-up (quartiles) | padding |")
    print("|---|---|---|---|---|")
    for (order, precision), taken in times.items():
        low, ratio, high = statistics.quantiles([a / b for a, b in zip(slowest, taken, strict=True)], n=4)
        share = padding(list(orders[order](examples)))
        name = str(precision).removeprefix("torch.")
        seconds = statistics.median(taken)
        print(f"| {order} | {name} | {seconds:.1f} | {ratio:.2f} ({low:.2f} to {high:.2f}) | {share:.0%} |")
    print_padding(every)


def print_padding(every: list[Example]) -> None:
    """Print the padding for samples of several sizes: micro-batches as in training, and in record order."""
    print(f"\nmicro-batches of {TOKENS} padded tokens\n")
    print("| sampled examples | samples | padding, similar length | in order of the records |")
    print("|---|---|---|---|")
    for size in DRAWS:
        draws = [every[start : start + size] for start in range(0, len(every) - size + 1, size)][:8]
        if not draws:
            continue
        shares = [
            statistics.mean(padding(list(batches(draw))) for draw in draws)
            for batches in (sorted_by_length, as_they_come)
        ]
        print(f"| {size:,} | {len(draws)} | {shares[0]:.1%} | {shares[1]:.1%} |")


if __name__ == "__main__":
    main()
