"""Compare training on a device with training on a CPU, and measure the cost of differential privacy there.

    PYTHONPATH=. python benchmarks/gpu.py [--device cuda] [--part gradients rows neighbours noise speed workers]
                                          [--small] [--json FILE]

Needs torch, transformers, PEFT, Opacus, pydantic and cryptography; no Flower, no data set, no network. Models are
randomly initialized, tokens are random.

gradients   per-example gradients against those of a plain loop over single examples: the largest relative
            difference of any tensor.
rows        one example in different rows of a micro-batch, with different other examples, for adapters that a
            server could choose: in how many shapes its gradient is not bit-identical, and how far the clipped
            gradient moves, in C.
neighbours  a batch with one shorter unit more: how far the sum of clipped gradients moves, in C. More than 1 would
            exceed what the accountant assumes.
noise       the noise that is added to a sum: seconds, whether its bits are the CPU's, a Kolmogorov-Smirnov test.
speed       a DP-SGD step against a plain LoRA step, alternating: medians, tokens per second, peak memory.
workers     a sum by one worker and by two on the same device: whether it has the same bits, and the seconds.

"deterministic": whether PyTorch's deterministic algorithms and attention by plain matrix products were enabled.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read when cuBLAS is first used: deterministic algorithms refuse matrix products without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from parts.random_models import llama_config, lora_model, trained_of
from parts.steps import private_and_plain
from parts.subjects import ADAPTERS, Subject, subjects
from parts.workers import workers
from scipy.stats import kstest  # type: ignore[import-untyped]
from torch.nn.attention import SDPBackend, sdpa_kernel

from client.vault.training.dp_sgd import add_noise, clipped_sum
from client.vault.training.entropy import Keystream
from client.vault.training.exact import UNIT_BITS
from client.vault.training.micro_batches import MicroBatch, rows_at
from client.vault.training.per_example import Gradients
from client.vault.training.rows import rows_that_agree
from common.model.precision import computing_in
from common.tasks import padded_length

Row = dict[str, Any]


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use PyTorch's deterministic algorithms and attention by plain matrix products, or the defaults."""
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    every = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    try:
        with sdpa_kernel([SDPBackend.MATH] if wanted else [*every, SDPBackend.MATH]):
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def gradients(subject: Subject, *, small: bool) -> Iterator[Row]:
    """Compare hooked gradients with a plain loop, example by example, without padding."""
    ADAPTERS["ordinary"](subject.parameters)
    tokens = 24 if small else 200
    examples = tuple(subject.examples(4, tokens, seed=3))
    with subject.hooks() as hooks:
        each = hooks.of(subject.task, MicroBatch(examples, padded_length(tokens), 7))
    worst = 0.0
    for place, example in enumerate(examples):
        with computing_in(subject.precision, next(iter(subject.parameters.values())).device):
            loss = subject.task.losses(subject.model, [example], tokens)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in subject.parameters.items():
            assert parameter.grad is not None
            difference = (each[name][place] - parameter.grad).norm() / parameter.grad.norm()
            worst = max(worst, float(difference))
            parameter.grad = None
    yield {"model": subject.name, "largest relative difference": f"{worst:.1e}"}


def _clipped(each: Gradients, place: int) -> torch.Tensor:
    """One example's gradient as one vector, clipped to C = 1; zero if not finite, as in training."""
    flat = torch.cat([tensor[place].flatten().double() for tensor in each.values()])
    norm = flat.norm()
    return flat * (1.0 / norm).clamp(max=1.0) if bool(norm.isfinite()) else torch.zeros_like(flat)


def _places(rows: int) -> list[int]:
    """First and last rows, rows near the middle, and rows near multiples of the tile sizes of matrix kernels."""
    wanted = {0, 1, 7, 8, 63, 64, 128, rows // 2, rows - 2, rows - 1}
    return sorted(place for place in wanted if 0 <= place < rows)


def rows(subject: Subject, *, small: bool) -> Iterator[Row]:
    """One example in many rows, each with different other examples."""
    lengths, tokens = ((48,), (512,)) if small else ((48, 80, 96, 128, 512), (512, 16384))
    shapes = [(length, most // length) for length in lengths for most in tokens]
    for adapter in ("ordinary", "times 1e6", "shared row × 1e8"):
        ADAPTERS[adapter](subject.parameters)
        other, moved = [], 0.0
        for length, count in shapes:
            differ, by = _row_differences(subject, length, count)
            other += [f"{count}×{length}"] if differ else []
            moved = max(moved, by)
        yield {
            "model": subject.name,
            "adapter": adapter,
            "shapes": len(shapes),
            "other bits in": len(other),
            "moves by at most, C": f"{moved:.1e}",
            "for instance": " ".join(other[:4]),
        }


def _row_differences(subject: Subject, length: int, count: int) -> tuple[bool, float]:
    wanted = subject.examples(1, length - 5, seed=4)[0]
    first: torch.Tensor | None = None
    differ, moved = False, 0.0
    with subject.hooks() as hooks:
        for seed, place in enumerate(_places(count)):
            examples = subject.examples(count, length - 5, seed=100 + seed)
            examples[place] = wanted
            found = _clipped(hooks.of(subject.task, MicroBatch(tuple(examples), length, count)), place)
            if first is None:
                first = found
            differ |= not torch.equal(found, first)
            moved = max(moved, float((found - first).norm()))
    return differ, moved


def neighbours(subject: Subject, *, small: bool) -> Iterator[Row]:
    """Add one shorter example, which moves all others of its length by a row: as drawn, and in rows that agree."""
    on_gpu = next(iter(subject.parameters.values())).device.type == "cuda"
    lengths, tokens = ((48,), 512) if small else ((16, 48, 80, 96), 2048 if on_gpu else 512)
    fewer = {length: _rows(subject, length, tokens) for length in lengths}
    changed = {length: rows for length, rows in fewer.items() if rows < tokens // length}
    for adapter in ("ordinary", "zeros", "shared row × 1e4", "shared row × 1e8"):
        ADAPTERS[adapter](subject.parameters)
        moved = {"unchecked": 0.0, "checked": 0.0}
        for length in lengths:
            batch = [(example,) for example in subject.examples(8 if small else 60, length - 5, seed=length)]
            more = [(subject.examples(1, length - 6, seed=length + 1)[0],), *batch]
            for how, rows in (("unchecked", {}), ("checked", fewer)):
                with subject.hooks() as hooks:
                    sums = [clipped_sum(hooks, subject.task, each, 1.0, tokens, rows) for each in (batch, more)]
                moved[how] = max(moved[how], float((sums[0] - sums[1]).double().norm()) * 2.0**-UNIT_BITS)
        yield {
            "model": subject.name,
            "adapter": adapter,
            "fewer rows": ", ".join(f"{length}: {rows}" for length, rows in changed.items()) or "none",
            "sum moves by, C": f"{moved['checked']:.9f}",
            "unchecked": f"{moved['unchecked']:.7f}",
        }


def _rows(subject: Subject, length: int, tokens: int) -> int:
    """The rows that a vault would take, by its own check."""
    examples = [*subject.examples(1, length - 1, seed=3), *subject.examples(1, length - 2, seed=4)]
    kinds = [(subject.parameters, None)]
    most = rows_at(length, tokens)
    return rows_that_agree(subject.model, lambda: kinds, subject.task, examples, length, most, subject.precision)


def noise(device: str) -> Iterator[Row]:
    """Measure the noise alone, on sums of zeros."""
    zeros = torch.zeros(600_000, dtype=torch.int64)
    key = os.urandom(32)
    there = add_noise(zeros.to(device), 1.7, Keystream(key)).cpu()
    begin = time.perf_counter()
    here = add_noise(zeros, 1.7, Keystream(key))
    seconds = time.perf_counter() - begin
    values = there / 1.7
    fit = kstest(values.numpy(), "norm")
    yield {
        "numbers": len(values),
        "s per million on the CPU": f"{seconds / len(values) * 1e6:.3f}",
        "as on the CPU, bit for bit": torch.equal(there, here),
        "deviation": f"{values.std():.4f}",
        "KS p": f"{fit.pvalue:.3f}",
    }


def speed(device: str, *, small: bool, runs: int) -> Iterator[Row]:
    """Alternate a DP-SGD step and a plain step, on a Llama of about 1.2 billion parameters in bfloat16."""
    if small:
        config, length, batch = llama_config(64, 2), 32, 4
    else:
        config = llama_config(2048, 16, LLAMA_1B)
        length, batch = 512, 32
    for method in ("ffa", "fedavg"):
        with torch.device(device):
            model = lora_model(config, method, torch.bfloat16)
        for max_tokens in (batch * length // 4, batch * length):
            private, plain = private_and_plain(model, length, batch, max_tokens, torch.bfloat16)
            for fixed in (False, True):
                with deterministic(fixed):
                    yield {
                        "method": method,
                        "trained": sum(map(torch.numel, trained_of(model).values())),
                        "max_tokens": max_tokens,
                        "deterministic": fixed,
                    } | _in_turn(private, plain, runs, batch * length, device)
        del model, private, plain
        gc.collect()


def _in_turn(private: Callable[[], None], plain: Callable[[], None], runs: int, tokens: int, device: str) -> Row:
    """Times and peak memory of two alternating steps, after one warm-up of each."""
    seconds: list[list[float]] = [[], []]
    peaks = [0, 0]
    for run in range(runs + 1):
        for which, step in enumerate((private, plain)):
            _settle(device)
            begin = time.perf_counter()
            step()
            peaks[which] = max(peaks[which], _settle(device))
            if run:
                seconds[which].append(time.perf_counter() - begin)
    ratios = [left / right for left, right in zip(*seconds, strict=True)]
    row: Row = {
        "private s": f"{statistics.median(seconds[0]):.3f}",
        "plain s": f"{statistics.median(seconds[1]):.3f}",
        "time ratio": f"{statistics.median(ratios):.2f}",
        "private tokens/s": round(tokens / statistics.median(seconds[0])),
    }
    if peaks[1]:
        row |= {"private GiB": f"{peaks[0] / 2**30:.1f}", "memory ratio": f"{peaks[0] / peaks[1]:.2f}"}
    return row


def _settle(device: str) -> int:
    """Wait for the device; return its peak memory in bytes since the last call, 0 on a CPU."""
    if torch.device(device).type != "cuda":
        return 0
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


# The values of Llama-3.2-1B that differ from those of a Llama of its width.
LLAMA_1B = {"intermediate_size": 8192, "num_key_value_heads": 8, "vocab_size": 128256}
PARTS = ("gradients", "rows", "neighbours", "noise", "speed", "workers")


def measure(part: str, device: str, *, small: bool, runs: int) -> Iterator[Row]:
    """The rows of one part's table."""
    if part == "noise":
        yield from noise(device)
    elif part == "speed":
        yield from speed(device, small=small, runs=runs)
    elif part == "workers":
        yield from workers(device, small=small, runs=runs)
    else:
        made = {"gradients": gradients, "rows": rows, "neighbours": neighbours}[part]
        for subject in subjects(device, small=small):
            for fixed in (False, True):
                with deterministic(fixed):
                    yield from ({"deterministic": fixed, **row} for row in made(subject, small=small))


def main() -> None:
    """Print a table for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--small", action="store_true", help="tiny models, to test the script")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the tables to a file")
    options = parser.parse_args()
    on_gpu = torch.device(options.device).type == "cuda"
    results: dict[str, Any] = {
        "device": torch.cuda.get_device_name(options.device) if on_gpu else options.device,
        "torch": torch.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in results.items()))
    for part in options.part:
        begin = time.monotonic()
        results[part] = list(measure(part, options.device, small=options.small, runs=options.runs))
        print(f"\n{part} ({time.monotonic() - begin:.0f} s)")
        head = list(results[part][0])
        print("| " + " | ".join(head) + " |", "|---" * len(head) + "|", sep="\n")
        for row in results[part]:
            print("| " + " | ".join(str(row.get(key, "")) for key in head) + " |", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
