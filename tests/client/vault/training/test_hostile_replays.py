"""Neighbour replays against adapters that a server chose so that rounding decides.

Every task on every base, in the shapes that the check of rows allows: one unit more or less moves the sum by no
more than C, whatever the adapter is and however many threads there are. A unit is put in front of the others,
where it shifts each of them to another row.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from client.vault.records.encoded import Unit
from client.vault.training.dp_sgd import clipped_sum
from client.vault.training.per_example import Parameters, PerExampleGradients
from client.vault.training.rows import checked_rows
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.tasks import Task, make_task
from tests.common.tasks.bases import LABELS, PAIRS, record
from tests.common.tasks.conftest import MakeTaskPlan, bases, task_plan
from tests.conftest import ROOT

__all__ = ["bases", "task_plan"]

UNITS = 16
MakeRecord = Callable[[int], dict[str, Any]]
Fill = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def normal(scale: float) -> Fill:
    return lambda like, draw: scale * torch.randn(like.shape, generator=draw)


def one_row(scale: float, spread: float = 0.0) -> Fill:
    """All outputs alike, up to a unit in the last place, or up to a small spread."""

    def fill(like: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        row = (scale * torch.randn(1, like.shape[1], generator=draw)).expand(like.shape)
        if spread:
            return row * (1 + spread * torch.randn(like.shape, generator=draw))
        up = torch.rand(like.shape, generator=draw) < 0.5
        return torch.where(up, torch.nextafter(row, torch.full_like(row, torch.inf)), row)

    return fill


HOSTILE: dict[str, Fill] = {
    "ordinary": normal(0.05),
    "tiny": normal(1e-20),
    "zeros": lambda like, _: torch.zeros(like.shape),
    "huge": normal(1e6),
    "shared row × 1e4": one_row(1e4),
    "shared row × 1e8": one_row(1e8),
    "near ties": one_row(10.0, 1e-6),
    "one number": lambda like, draw: torch.full(like.shape, float(torch.randn(1, generator=draw)) * 1e3),
}


def fill_with(parameters: Parameters, fill: Fill, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in sorted(parameters):
            parameters[name].copy_(fill(parameters[name], draw))


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def moves(
    model: LoraModel, task: Task, units: list[Unit], max_tokens: int, fewer: dict[int, int], seed: int
) -> Iterator[tuple[str, float, float]]:
    """For each adapter, how far the first unit moves the sum, in units of C, and how large its gradient is."""
    parameters = model.trained_parameters()
    for name, fill in HOSTILE.items():
        fill_with(parameters, fill, seed)
        with PerExampleGradients(model.module, parameters) as gradients:
            sums = [
                clipped_sum(gradients, task, some, 1e-4, max_tokens, fewer).numpy().astype(object)
                for some in (units, units[1:], units[:1])
            ]
        # Python's integers: an exact difference, and an exact sum of its squares.
        moved, own = ((difference**2).sum() ** 0.5 * 2.0**-40 for difference in (sums[0] - sums[1], sums[2]))
        yield name, moved, own


def long_record(number: int) -> dict[str, Any]:
    """A record of up to 100 tokens."""
    usual = record(number)
    return {**usual, "text": " ".join([usual["text"]] * (1 + number % 9))}


def replays(
    plan: Plan, count: int, repetitions: int, max_tokens: int = 256, made: MakeRecord = record, most: int = UNITS
) -> None:
    """Replay with records drawn at random.

    Args:
        plan: says the model and the task.
        count: threads.
        repetitions: of all adapters, each with other units.
        max_tokens: of a micro-batch.
        made: makes a record of a number.
        most: units beside the first.
    """
    model = LoraModel(plan.base_folder(), plan)
    task = make_task(plan.task, model.tokenizer)
    clipped = 0
    with threads(count):
        fewer = checked_rows(model, task, plan, max_tokens)
        for repetition in range(repetitions):
            numbers = np.random.default_rng([count, repetition]).permutation(200)
            units = [task.encode(made(int(number))) for number in numbers[: most + 1]]
            for name, moved, own in moves(model, task, units, max_tokens, fewer, repetition):
                assert moved <= 1 + 1e-6, (name, fewer)
                assert moved == own, f"{name}: the others contribute what they do without it"
                clipped += moved > 0.99
    assert clipped >= repetitions, "an adapter whose gradients are all tiny shows nothing"


@pytest.mark.parametrize(("kind", "base"), PAIRS)
def test_a_hostile_adapter_moves_the_sum_by_no_more_than_one_gradient(
    task_plan: MakeTaskPlan, kind: str, base: str
) -> None:
    replays(task_plan(kind, base), torch.get_num_threads(), 1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 8, 16])
@pytest.mark.parametrize(("kind", "base"), PAIRS)
def test_so_it_is_for_any_number_of_threads(task_plan: MakeTaskPlan, kind: str, base: str, count: int) -> None:
    """7 tasks and bases × 4 numbers of threads × 8 adapters × 3 draws: 672 replays."""
    replays(task_plan(kind, base), count, 3)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8])
def test_so_it_is_for_a_model_as_wide_as_real_ones(
    task_plan: MakeTaskPlan, bases: dict[str, Path], tmp_path: Path, count: int
) -> None:
    """On some processors MKL rounds the last rows of products of 384 inputs otherwise."""
    labels = [f"label {number}" for number in range(77)]
    plan = task_plan("classification", "encoder", task={"labels": [*LABELS, *labels], "max_length": 100})
    tokenizer = AutoTokenizer.from_pretrained(bases["encoder"])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=384,
        num_hidden_layers=1,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    wide = plan.model_copy(update={"model": plan.model.model_copy(update={"base": str(tmp_path)})})
    replays(wide, count, 3, max_tokens=512, made=long_record, most=60)


@pytest.mark.slow
def test_so_it_is_where_mkl_is_free_to_round_otherwise() -> None:
    """Without the `MKL_CBWR` that Sotto sets, only the check of rows is left; it is read when MKL is loaded."""
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-m", "slow", "-k", "as_wide_as", __file__]
    ended = subprocess.run(command, env={**os.environ, "MKL_CBWR": ""}, cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stdout.decode()
