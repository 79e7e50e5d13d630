"""One sum of clipped gradients by one worker, and by two on the same device: bits and seconds."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from client.vault.preparation import settle
from client.vault.training.rows_cache import RowsCache
from client.vault.workers.compute import Compute
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.records import read_records
from common.tasks import make_task

PLAN = Path(__file__).parent.parent / "yardstick" / "plan.toml"


def workers(device: str, *, small: bool, runs: int) -> Iterator[dict[str, Any]]:
    """A row for one worker and one for two, on the first records of the frozen demo."""
    plan = Plan.read(PLAN)
    assert plan.simulation.data is not None
    records = list(itertools.islice(read_records(plan.path(plan.simulation.data)), 32 if small else 256))
    first: torch.Tensor | None = None
    for count in (1, 2):
        with Compute(count, [device]) as compute:
            model = LoraModel(plan.base_folder(), plan, compute.main_device)
            task = make_task(plan.task, model.tokenizer)
            trainer = compute.trainer(plan.base_folder(), model, task, plan, 512, "benchmark")
            precision, _ = settle(trainer, model, plan, 512, RowsCache(None))
            sample = [task.encode(record) for record in records]
            seconds = []
            with trainer.round(model.adapter(), head_only=False, clipping_norm=1.0) as sum_of:
                for _ in range(runs):
                    begin = time.perf_counter()
                    total = sum_of(sample).cpu()
                    seconds.append(time.perf_counter() - begin)
        first = total if first is None else first
        yield {
            "workers": count,
            "precision": str(precision).removeprefix("torch."),
            "same bits": bool(torch.equal(total, first)),
            "seconds": f"{statistics.median(seconds):.3f}",
        }
