"""How the units of a step are dealt to workers."""

from __future__ import annotations

import random

from client.vault.training.micro_batches import micro_batches, portions
from common.tasks import Example


def test_parts_hold_each_unit_once_and_fill_no_more_micro_batches() -> None:
    draw = random.Random(0)
    sample = [
        tuple(
            Example((draw.randrange(9),) * draw.randrange(1, 60), (unit,))
            for _ in range(draw.choice([0, 1, 1, 3]))
        )
        for unit in range(200)
    ]
    parts = portions(sample, 1000, 256, {48: 2}, 3)
    assert sorted(map(repr, (unit for part in parts for unit in part))) == sorted(
        repr(unit) for unit in sample if unit
    )
    single = [part for part in parts if len(part[0]) == 1]
    assert all(len(list(micro_batches(part, 256, {48: 2}))) == 1 for part in single)
    whole = [unit for unit in sample if len(unit) == 1]
    assert len(single) == len(list(micro_batches(whole, 256, {48: 2})))
