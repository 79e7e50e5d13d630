"""Measure the time cost of differential privacy: a DP-SGD step against a plain LoRA step on the same batch.

    .venv/bin/python benchmarks/step_time.py [--runs 9]

The steps alternate in one process, so that a slowdown of the machine affects both; the table shows the median
and the quartiles of the ratios. Models are randomly initialized: time does not depend on
the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from parts.random_models import llama_config, lora_model
from parts.steps import private_and_plain

LENGTH, BATCH = 64, 32


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
            model = lora_model(llama_config(hidden, layers), method)
            private, plain = private_and_plain(model, LENGTH, BATCH, BATCH * LENGTH)
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
