"""Measure real tokens a second of DP-SGD on LoRA: a vault's workers, and Opacus as it is usually set up.

    SOTTO_SHARED=... .venv/bin/python benchmarks/beside_opacus.py [--runs 3] [--batch 128] [--workers 2]

Both train the same model (a folder in Hugging Face format, classification, LoRA of rank 8 on all linear layers) on
the same records of `data/dolly`, in float32, with the same expected batch, and on the same cores: one thread for
each worker, and a thread on each core for Opacus. Opacus runs with PrivacyEngine, Poisson sampling and
BatchMemoryManager, at the best physical batch of 8, 16, 32 and 64, padded to the longest record of each. They
alternate in one process; padding is no token. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from opacus.privacy_engine import PrivacyEngine
from opacus.utils.batch_memory_manager import BatchMemoryManager
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

from client.vault.policy.organization import VaultSection
from client.vault.preparation import settle
from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import Step, take_steps
from client.vault.training.entropy import SystemEntropy
from client.vault.training.rows_cache import RowsCache
from client.vault.workers.compute import Compute
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.records import read_records
from common.settings import validate
from common.system.resources import usable_cores
from common.tasks import make_task

PHYSICAL = (8, 16, 32, 64)
NOISE, LENGTH = 0.5, 256


def plan_of(base: str, batch: int) -> Plan:
    """Classification with a LoRA of rank 8 in float32."""
    values: dict[str, Any] = {
        "name": "opacus",
        "model": {"base": base},
        "task": {
            "kind": "classification",
            "template": "{prompt} {response}",
            "labels": ["a", "b"],
            "label_field": "label",
            "max_length": LENGTH,
        },
        "lora": {"rank": 8},
        "aggregation": {"method": "fedavg"},  # which trains A and B
        "training": {"rounds": 1, "batch_size": batch, "precision": "float32"},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }
    return validate(values, Plan, "the benchmark's plan")


class Sotto:
    """A vault's training, without its ledger."""

    def __init__(self, plan: Plan, records: list[dict[str, Any]], compute: Compute) -> None:
        self.model = LoraModel(plan.base_folder(), plan)
        task = make_task(plan.task, self.model.tokenizer)
        self.units: list[Unit] = [task.encode(record) for record in records]
        self._plan = plan
        tokens = VaultSection().micro_batch_tokens(self.model.width)
        self._trainer = compute.trainer(plan.base_folder(), self.model, task, plan, tokens, "benchmark")
        settle(self._trainer, self.model, plan, tokens, RowsCache(None))

    def step(self) -> int:
        """Take one step; returns the tokens of its sample."""
        batch, tokens = self._plan.training.batch_size, 0
        adapter = self.model.adapter()
        with self._trainer.round(adapter, head_only=False, clipping_norm=1.0) as sum_of:
            parameters = self.model.trained_parameters()

            def counted(sample: Any) -> torch.Tensor:
                nonlocal tokens
                tokens += sum(len(example) for unit in sample for example in unit)
                return sum_of(sample)

            step = Step(batch / len(self.units), batch, 1.0, NOISE)
            optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4)
            stream = SystemEntropy().stream("benchmark", "benchmark", 1)
            take_steps(counted, parameters, self.units, step, 1, optimizer, stream)
        return tokens


class Stock:
    """PrivacyEngine on a model of transformers with the same LoRA."""

    def __init__(self, plan: Plan, units: list[Unit], tokenizer: Any) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(
            plan.base_folder(), num_labels=2, trust_remote_code=False, use_safetensors=True
        )
        config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="SEQ_CLS")
        model = get_peft_model(model, config).train()
        rows = [{"input_ids": list(unit[0].input_ids), "labels": unit[0].labels[0]} for unit in units]
        collate = DataCollatorWithPadding(tokenizer)
        loader: Any = DataLoader(rows, batch_size=plan.training.batch_size, collate_fn=collate)  # type: ignore[arg-type]
        optimizer: Any = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        self.numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._model, self._optimizer, self._loader = PrivacyEngine().make_private(
            module=model, optimizer=optimizer, data_loader=loader, noise_multiplier=NOISE, max_grad_norm=1.0
        )
        self.physical = PHYSICAL[0]

    def step(self) -> int:
        """Take one step; returns the tokens of its sample."""
        tokens = 0
        with BatchMemoryManager(
            data_loader=self._loader, max_physical_batch_size=self.physical, optimizer=self._optimizer
        ) as batches:
            for batch in batches:
                tokens += int(batch["attention_mask"].sum())
                self._model(**batch).loss.backward()
                self._optimizer.step()
                self._optimizer.zero_grad()
                if not self._optimizer._is_last_step_skipped:
                    break
        return tokens


def rate(step: Callable[[], int]) -> float:
    """Tokens a second of one step."""
    begin = time.perf_counter()
    tokens = step()
    return tokens / (time.perf_counter() - begin)


def shuffled(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """So many records with classes that say nothing."""
    draw = random.Random(0)
    records = list(read_records(path))
    for record in draw.sample(records, count):
        yield {**record, "label": draw.choice("ab")}


def main() -> None:
    """Print the rates of each run and the ratio."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--base", default=None, help="by default models/minilm-l6 of SOTTO_SHARED")
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--batch", type=int, default=128)
    arguments.add_argument("--records", type=int, default=1024)
    arguments.add_argument("--workers", type=int, default=None)
    options = arguments.parse_args()
    warnings.filterwarnings("ignore")
    shared = Path(os.environ["SOTTO_SHARED"])
    plan = plan_of(options.base or str(shared / "models" / "minilm-l6"), options.batch)
    records = list(shuffled(shared / "data" / "dolly" / "train.jsonl.gz", options.records))
    torch.set_num_threads(usable_cores())
    with Compute(options.workers) as compute:
        own = Sotto(plan, records, compute)
        stock = Stock(plan, own.units, own.model.tokenizer)
        lengths = [len(unit[0]) for unit in own.units]
        numbers = sum(tensor.numel() for tensor in own.model.trained_parameters().values())
        print(f"torch {torch.__version__}, {usable_cores()} cores")
        print(f"{numbers} trained numbers here, {stock.numbers} with Opacus")
        print(
            f"{len(lengths)} records of {statistics.median(lengths)} tokens, mean {statistics.mean(lengths):.0f}"
        )
        tried = {}
        for stock.physical in PHYSICAL:
            tried[stock.physical] = rate(stock.step)
        stock.physical = max(tried, key=lambda size: tried[size])
        print(
            "Opacus by physical batch:", {size: round(found) for size, found in tried.items()}, "tokens a second"
        )
        own.step()
        pairs = []
        for number in range(options.runs):
            pairs.append((rate(own.step), rate(stock.step)))
            print(f"run {number + 1}: {pairs[-1][0]:.0f} here, {pairs[-1][1]:.0f} with Opacus", flush=True)
    print(f"median ratio {statistics.median(left / right for left, right in pairs):.2f}")


if __name__ == "__main__":
    main()
