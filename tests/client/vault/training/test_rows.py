"""The check of rows: shapes in which an example's gradient depends on its row are found, and get fewer rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from client.vault.training.errors import GuaranteeError
from client.vault.training.micro_batches import micro_batches, rows_at
from client.vault.training.rows import checked_rows
from client.vault.training.rows_cache import RowsCache, rows_key
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.tasks import Example, Task, make_task


class Uneven:
    """A task whose kernels round otherwise in the last row of some shapes: by so much, for so many rows."""

    def __init__(
        self, task: Task, length: int, is_uneven: Callable[[int], bool], factor: float = 1 + 2**-20
    ) -> None:
        self._task, self._length, self._is_uneven, self._factor = task, length, is_uneven, factor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
        each = self._task.losses(model, examples, length)
        if length != self._length or not self._is_uneven(len(examples)):
            return each
        factors = torch.ones(len(each))
        factors[-1] = self._factor
        return each * factors


@pytest.fixture(scope="module")
def plan_of(tiny_base: Path) -> Callable[..., Plan]:
    from common.settings import validate

    def make(**task: Any) -> Plan:
        values = {
            "name": "rows",
            "model": {"base": str(tiny_base)},
            "task": {"max_length": 40, **task},
            "lora": {"rank": 2, "alpha": 4.0},
            "training": {"rounds": 1, "local_steps": 1, "batch_size": 4, "learning_rate": 0.1},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
        }
        return validate(values, Plan, "test")

    return make


@pytest.fixture(scope="module")
def model(plan_of: Callable[..., Plan]) -> LoraModel:
    plan = plan_of()
    return LoraModel(plan.base_folder(), plan)


def test_a_model_that_rounds_every_row_alike_needs_no_fewer_and_is_left_as_it_was(
    model: LoraModel, plan_of: Callable[..., Plan]
) -> None:
    plan = plan_of()
    before = {name: tensor.detach().clone() for name, tensor in model.trained_parameters().items()}
    assert checked_rows(model, make_task(plan.task, model.tokenizer), plan, 96) == {}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.trained_parameters().items())


@pytest.mark.parametrize(
    ("is_uneven", "fewer"),
    [
        (lambda rows: rows == 3, {32: 2}),
        (lambda rows: rows > 1, {32: 1}),
        (lambda rows: rows in (3, 2), {32: 1}),
        (lambda rows: rows == 2, {}),
    ],
)
def test_a_shape_that_fails_gets_fewer_rows_and_the_others_keep_theirs(
    model: LoraModel, plan_of: Callable[..., Plan], is_uneven: Callable[[int], bool], fewer: dict[int, int]
) -> None:
    plan = plan_of()
    task: Any = Uneven(make_task(plan.task, model.tokenizer), 32, is_uneven)
    assert checked_rows(model, task, plan, 96) == fewer


def test_a_last_bit_is_enough(model: LoraModel, plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    bit = 1 + torch.finfo(torch.float32).eps
    task: Any = Uneven(make_task(plan.task, model.tokenizer), 48, lambda rows: rows == 2, bit)
    assert checked_rows(model, task, plan, 96) == {48: 1}


def test_what_differs_from_time_to_time_is_refused(model: LoraModel, plan_of: Callable[..., Plan]) -> None:
    plan, times = plan_of(), [0]

    def is_uneven(_: int) -> bool:
        times[0] += 1
        return times[0] % 2 == 0

    task: Any = Uneven(make_task(plan.task, model.tokenizer), 16, is_uneven)
    with pytest.raises(GuaranteeError, match="16 tokens is not the same each time"):
        checked_rows(model, task, plan, 16)


def test_texts_longer_than_the_positions_are_refused(model: LoraModel, plan_of: Callable[..., Plan]) -> None:
    """An embedding of positions that ends early fails when a long record is drawn, unless it is found before."""
    plan = plan_of()
    task = make_task(plan.task, model.tokenizer)

    class Short(Uneven):
        def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
            torch.nn.functional.embedding(torch.arange(max(map(len, examples))), torch.zeros(39, 2))
            return self._task.losses(model, examples, length)

    short: Any = Short(task, 0, bool)
    with pytest.raises(GuaranteeError, match=r"40 tokens.*task.max_length should be smaller"):
        checked_rows(model, short, plan, 96)


def test_the_longest_texts_are_tried_first(model: LoraModel, plan_of: Callable[..., Plan]) -> None:
    """A length that does not fit must not cost hours of shorter ones."""
    plan = plan_of()
    task = make_task(plan.task, model.tokenizer)
    tried = []

    class Full(Uneven):
        def losses(self, model: torch.nn.Module, examples: Sequence[Example], length: int) -> torch.Tensor:
            tried.append(length)
            raise MemoryError

    full: Any = Full(task, 0, bool)
    with pytest.raises(GuaranteeError, match=r"40 tokens, padded to 48, do not fit the memory"):
        checked_rows(model, full, plan, 96)
    assert tried == [48]


def test_fewer_rows_are_what_micro_batches_have() -> None:
    units = [(Example((1,) * 20, (1,) * 20),)] * 7
    assert [batch.rows for batch, _ in micro_batches(units, 96)] == [3, 3, 3]
    assert [batch.rows for batch, _ in micro_batches(units, 96, {32: 2, 48: 1})] == [2, 2, 2, 2]
    assert rows_at(48, 96, {32: 2}) == 2


# What is remembered


def test_a_result_is_remembered_on_disk_and_a_damaged_file_is_checked_again(tmp_path: Path) -> None:
    asked = []

    def check() -> dict[int, int]:
        asked.append(1)
        return {32: 2}

    path = tmp_path / "rows.json"
    for _ in range(2):
        assert RowsCache(path).get(f"{tmp_path} a", check) == {32: 2}
    assert len(asked) == 1
    RowsCache._known.clear()
    assert RowsCache(path).get(f"{tmp_path} a", check) == {32: 2}
    assert len(asked) == 1, "from the file"
    for damaged in ("", "[1]", "NaN", {"32": 0}, {"32": -1}, {"x": "y"}, {"32": None}, 1):
        RowsCache._known.clear()
        path.write_text(damaged if isinstance(damaged, str) else json.dumps({f"{tmp_path} a": damaged}))
        assert RowsCache(path).get(f"{tmp_path} a", check) == {32: 2}
    assert len(asked) == 9


def test_whatever_rounding_can_depend_on_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    keys = {
        rows_key("base", "plan", cpu, 512, torch.float32),
        rows_key("other", "plan", cpu, 512, torch.float32),
        rows_key("base", "other", cpu, 512, torch.float32),
        rows_key("base", "plan", cpu, 256, torch.float32),
        rows_key("base", "plan", cpu, 512, torch.bfloat16),
    }
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    keys.add(rows_key("base", "plan", cpu, 512, torch.float32))
    monkeypatch.setattr(torch, "__version__", "0.1")
    keys.add(rows_key("base", "plan", cpu, 512, torch.float32))
    assert len(keys) == 7
