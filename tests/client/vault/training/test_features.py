"""Vectors that are kept while the head alone is trained: they are those of the adapter of the request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.vault.records.units import encode
from client.vault.training.features import FrozenUnits, Vectors
from client.vault.workers.worker import Worker
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.tasks import make_task
from tests.common.tasks.bases import record, save_base
from tests.conftest import MakePlan


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base("encoder", tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def plan(make_plan: MakePlan, encoder: Path) -> Plan:
    task = {"kind": "classification", "max_length": 32, "labels": ["no", "yes", "perhaps"]}
    return make_plan(model={"base": str(encoder)}, task=task)


def vectors(model: LoraModel, task: Any) -> Vectors:
    worker = Worker(model, task, None, 128)  # type: ignore[arg-type] - what checks a plan is not asked for
    worker.settle((torch.float32, {}))
    return worker.vectors


def test_vectors_are_those_of_each_example_alone_and_made_anew_when_the_layers_change(plan: Plan) -> None:
    model = LoraModel(plan.model.base, plan)
    task: Any = make_task(plan.task, model.tokenizer)
    records = [record(number) for number in range(30)]
    records[4] = {"text": "no label"}
    units = encode(records, task).units
    frozen = FrozenUnits(task, units, vectors(model, task))
    draw = np.random.default_rng(0)
    every = []
    for scale in (0.0, 0.3, 0.3):
        adapter = {
            name: (scale * np.random.default_rng(len(name)).normal(size=shape)).astype(np.float32)
            for name, shape in model.trained_shapes.items()
        }
        adapter["head.weight"] = draw.normal(size=adapter["head.weight"].shape).astype(np.float32)
        kept = frozen.under(adapter)
        assert [len(unit) for unit in kept] == [len(unit) for unit in units]
        assert kept[4] == ()
        for unit, own in zip(units, kept, strict=True):
            for example, vector in zip(unit, own, strict=True):
                ids = torch.tensor([example.input_ids])
                with torch.no_grad():
                    alone = model.module.vectors(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
                assert vector.labels == example.labels
                assert np.frombuffer(vector.vector, np.float32) == pytest.approx(alone.numpy(), abs=1e-5)
        every.append(kept)
    assert every[0] != every[1]
    assert every[1] is every[2]


def test_the_vector_of_an_example_does_not_depend_on_its_companions(plan: Plan) -> None:
    model = LoraModel(plan.model.base, plan)
    task: Any = make_task(plan.task, model.tokenizer)
    units = encode([record(number) for number in range(40)], task).units
    model_adapter = model.adapter()
    whole = FrozenUnits(task, units, vectors(model, task)).under(model_adapter)
    fewer = FrozenUnits(task, units[:17] + units[18:], vectors(model, task)).under(model_adapter)
    assert [*whole[:17], *whole[18:]] == list(fewer)
