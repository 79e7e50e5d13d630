"""Rounds of organizations with ranks of their own: what each is asked and gives, and who cannot take part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.adapter.adapter import Adapter, Shapes, at_rank, from_bytes, initial, to_wire, trainable_shapes
from common.adapter.compression import NumberFormat
from common.adapter.rounding import PublicUniforms
from common.errors import InputError, Refused
from common.plan.plan import Plan
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.settings import validate
from server.rounds.rounds import run_rounds
from server.run_directory.run_directory import RunDirectory, RunInfo
from server.tracking.observer import Observer
from simulations.local_grid import LocalGrid

A, B, HEAD = "q_proj.lora_A.weight", "q_proj.lora_B.weight", "head.weight"
SHAPES: Shapes = {A: (4, 12), B: (10, 4), HEAD: (3, 5)}
Change = Callable[[Adapter, np.random.Generator], Adapter]


def noise(start: Adapter, random: np.random.Generator) -> Adapter:
    return {name: random.normal(0, 0.1, tensor.shape).astype(np.float32) for name, tensor in start.items()}


class Organization:
    """Reads what it is sent as an adapter of its own rank, and answers with a change to it."""

    def __init__(
        self, name: str, rank: int | None, change: Change = noise, form: NumberFormat = "float32"
    ) -> None:
        self.name, self.rank, self.change, self.form = name, rank, change, form
        self.starts: list[Adapter] = []
        self.updates: list[Adapter] = []

    def describe(self) -> Description:
        return Description(self.name, "example", 100, self.rank)

    def train(self, request: TrainRequest) -> Release:
        plan = Plan.from_canonical(request.plan)
        shapes = at_rank(SHAPES, plan.lora.own_rank(self.rank))
        if plan.training.is_head_alone(request.round):
            shapes = {HEAD: shapes[HEAD]}
        self.starts.append(from_bytes(request.adapter, shapes, plan.wire.adapter))
        random = np.random.default_rng([len(self.name), request.round, ord(self.name[-1])])
        self.updates.append(self.change(self.starts[-1], random))
        return Release(to_wire(self.updates[-1], self.form, PublicUniforms(self.name, request.round)))

    def statement(self, run: str) -> Statement:
        raise Refused("malformed-request", run)


def directory_of(path: Path, method: str = "stack", **sections: Any) -> RunDirectory:
    values: dict[str, Any] = {
        "name": "test",
        "model": {"base": "base"},
        "lora": {"rank": 4, "min_rank": 1},
        "aggregation": {"method": method, "screen": False},
        "training": {"rounds": 2, "batch_size": 8},
        "federation": {"min_organizations": 2, "round_timeout": 5.0},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    plan = validate(values, Plan, "the test's plan")
    info = RunInfo("test-2026-11-22-1a2b3c4d", plan.digest(), "base", "cd" * 32, dict(SHAPES), private=True)
    return RunDirectory.create(path, info, plan, initial(trainable_shapes(SHAPES, method), plan.lora.seed))


def run(directory: RunDirectory, *organizations: Organization) -> Adapter:
    return run_rounds(LocalGrid(dict(enumerate(organizations, start=1))), directory, None, Observer())


def product(adapter: Adapter) -> np.ndarray:
    return adapter[B].astype(float) @ adapter[A].astype(float)


def best(dense: np.ndarray, rank: int) -> np.ndarray:
    u, weights, v = np.linalg.svd(dense)
    return (u[:, :rank] * weights[:rank]) @ v[:rank]


@pytest.mark.parametrize("form", ["float32", "int4"])
@pytest.mark.parametrize("method", ["svd", "stack"])
def test_each_is_sent_the_best_adapter_of_its_rank_and_their_products_are_joined(
    method: str, form: NumberFormat, tmp_path: Path
) -> None:
    everybody = [
        Organization("one", 1),
        Organization("two", 2),
        Organization("four", 4),
        Organization("any", None),
    ]
    after = run(directory_of(tmp_path / "run", method, wire={"adapter": form}), *everybody)
    kept = initial(SHAPES, 0)
    for number in (0, 1):
        before = product(kept)
        dense = before.copy() if method == "stack" else np.zeros_like(before)
        for each, rank in zip(everybody, (1, 2, 4, 4), strict=True):
            start, update = each.starts[number], each.updates[number]
            assert start[A].shape == (rank, 12)
            if form == "float32":
                np.testing.assert_allclose(product(start), best(before, rank), atol=1e-5)
            trained = product({name: start[name] + update[name] for name in start})
            dense += (trained - product(start) if method == "stack" else trained) / 4
        kept = RunDirectory.open(tmp_path / "run").checkpoint(number + 1)
        np.testing.assert_allclose(product(kept), best(dense, 4), atol=1e-5)
    assert {name: tensor.shape for name, tensor in after.items()} == SHAPES


@pytest.mark.parametrize("form", ["bfloat16", "int8", "int4"])
def test_what_was_rounded_on_the_way_is_taken_off_again(form: NumberFormat, tmp_path: Path) -> None:
    """Nobody changes anything for six rounds: the adapter stays, whatever rank and format it was sent in."""

    def nothing(start: Adapter, random: np.random.Generator) -> Adapter:
        return {name: np.zeros_like(tensor) for name, tensor in start.items()}

    def once(start: Adapter, random: np.random.Generator) -> Adapter:
        return noise(start, random) if not start[B].any() else nothing(start, random)

    directory = directory_of(tmp_path / "run", wire={"adapter": form}, training={"rounds": 7})
    run(directory, Organization("small", 1, once), Organization("large", 4, once))
    early, late = (directory.checkpoint(number) for number in (1, 7))
    np.testing.assert_allclose(product(late), product(early), atol=1e-6)


def test_rounds_of_the_head_alone_leave_layers_of_every_rank_as_they_were(tmp_path: Path) -> None:
    directory = directory_of(
        tmp_path / "run",
        task={"kind": "classification", "labels": ["a", "b", "c"]},
        training={"rounds": 2, "head_rounds": 1},
    )
    small, large = Organization("small", 2), Organization("large", 4)
    run(directory, small, large)
    first, fresh = directory.checkpoint(1), initial(SHAPES, 0)
    np.testing.assert_array_equal(first[A], fresh[A])
    assert not first[B].any()
    head = (small.updates[0][HEAD] + large.updates[0][HEAD]) / 2
    np.testing.assert_allclose(first[HEAD], head, rtol=1e-5)
    assert small.starts[0].keys() == {HEAD}
    assert small.starts[1][A].shape == (2, 12)


def test_an_update_of_another_rank_than_was_said_is_refused_by_name(tmp_path: Path) -> None:
    def larger(start: Adapter, random: np.random.Generator) -> Adapter:
        return {name: np.ones(SHAPES[name], np.float32) for name in start}

    directory = directory_of(tmp_path / "run")
    run(directory, Organization("one", 1), Organization("two", 2), Organization("three", 3, larger))
    for line in directory.rounds()[1:]:
        assert set(line.organizations["refused"]) == {"three"}
        assert "bytes of tensors were expected" in line.organizations["refused"]["three"]


def test_the_screen_compares_the_sizes_of_numbers_and_not_how_many_there_are(tmp_path: Path) -> None:
    """The norm of a rank 64 times as large is 8 times as large, and honest."""
    shapes = {A: (64, 12), B: (10, 64)}

    def unit(start: Adapter, random: np.random.Generator) -> Adapter:
        return {name: np.ones_like(tensor) for name, tensor in start.items()}

    def outlier(start: Adapter, random: np.random.Generator) -> Adapter:
        return {name: np.full_like(tensor, 6) for name, tensor in start.items()}

    directory = directory_of(tmp_path / "run", lora={"rank": 64}, aggregation={"screen": True})
    info = RunInfo("run-2026-11-22-1a2b3c4d", directory.plan.digest(), "base", "cd" * 32, shapes, private=True)
    directory = RunDirectory.create(tmp_path / "wide", info, directory.plan, initial(shapes, 0))

    class Wide(Organization):
        def train(self, request: TrainRequest) -> Release:
            own = from_bytes(request.adapter, at_rank(shapes, self.rank or 64))
            return Release(to_wire(self.change(own, np.random.default_rng()), "float32", PublicUniforms("", 1)))

    honest = [Wide(f"small-{number}", 1, unit) for number in range(4)]
    run(directory, *honest, Wide("large", None, unit), Wide("loud", 1, outlier))
    for line in directory.rounds()[1:]:
        assert set(line.organizations["refused"]) == {"loud"}
        assert "large" in line.organizations["answered"]


@pytest.mark.parametrize(
    ("method", "lora", "said"),
    [
        ("svd", {"rank": 4, "min_rank": 2}, r"small trains at rank 1; it should be at least lora\.min_rank = 2"),
        ("ffa", {"rank": 4, "min_rank": 4}, r"small trains at rank 1; it should be .* 4 .*method = 'ffa'"),
        ("fedavg", {"rank": 4, "min_rank": None}, r"all should train at lora\.rank = 4, .*method = 'fedavg'"),
    ],
)
def test_a_run_whose_ranks_cannot_be_joined_ends_before_anybody_is_asked(
    method: str, lora: dict[str, Any], said: str, tmp_path: Path
) -> None:
    directory = directory_of(tmp_path / "run", method, lora=lora)
    small, large = Organization("small", 1), Organization("large", None)
    with pytest.raises(InputError, match=said):
        run(directory, small, large)
    assert small.starts == large.starts == []
    assert directory.latest_checkpoint()[0] == 0
