"""The rank at which an organization takes part: its scale, its initial matrices, and the ranks that a plan
allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from common.adapter.adapter import at_rank, initial, truncate_rank
from common.plan.lora import Lora

A, B, HEAD = "model.q_proj.lora_A.weight", "model.q_proj.lora_B.weight", "head.weight"
SHAPES = {A: (6, 5), B: (7, 6), HEAD: (3, 4)}


@given(st.integers(1, 1024), st.integers(1, 1024), st.floats(0.1, 100), st.booleans())
def test_every_rank_of_a_plan_has_the_plans_scale(rank: int, own: int, alpha: float, rslora: bool) -> None:
    plan = Lora(rank=rank, alpha=alpha, rslora=rslora)
    there = plan.at_rank(own)
    assert there.rank == own
    power = 0.5 if rslora else 1.0
    assert there.alpha / own**power == pytest.approx(alpha / rank**power, rel=1e-12)


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_scales_a_layer_of_another_rank_by_the_same_factor(tiny_base: Path, rslora: bool) -> None:
    plan = Lora(rank=8, alpha=12.0, rslora=rslora)
    factors = []
    for lora in (plan, plan.at_rank(3)):
        config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, use_rslora=rslora, target_modules=["q_proj"])
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_base), config)
        factors += [layer.scaling["default"] for layer in model.modules() if isinstance(layer, LoraLayer)]
    assert len(factors) == 4
    assert factors == pytest.approx([12 / 8**0.5 if rslora else 12 / 8] * 4, rel=1e-12)


@given(st.integers(1, 64), st.one_of(st.none(), st.integers(1, 64)), st.one_of(st.none(), st.integers(1, 64)))
def test_which_organizations_take_part_and_at_which_rank(rank: int, least: int | None, most: int | None) -> None:
    if least is not None and least > rank:
        with pytest.raises(ValueError, match=f"min_rank = {least} should be at most rank = {rank}"):
            Lora(rank=rank, min_rank=least)
        return
    plan = Lora(rank=rank, min_rank=least)
    own = plan.own_rank(most)
    assert own <= rank
    assert own in (rank, most)
    allowed = own == rank if least is None else least <= own
    assert (plan.refusal(own) is None) == allowed


def test_a_refusal_states_the_allowed_rank() -> None:
    assert (
        Lora(rank=8).refusal(4) == "rank 4; all should train at lora.rank = 8, since the plan has no lora.min_rank"
    )
    assert Lora(rank=8, min_rank=4).refusal(3) == "rank 3; it should be at least lora.min_rank = 4"


@pytest.mark.parametrize("rank", [1, 4, 6])
def test_the_first_matrices_of_a_small_rank_are_the_first_rows_of_those_of_a_large_one(rank: int) -> None:
    whole = initial(SHAPES, 3)
    own = initial(at_rank(SHAPES, rank), 3)
    assert {name: tensor.shape for name, tensor in own.items()} == {A: (rank, 5), B: (7, rank), HEAD: (3, 4)}
    for name, tensor in truncate_rank(whole, rank).items():
        np.testing.assert_array_equal(tensor, own[name])


def test_truncation_keeps_the_first_directions_and_the_whole_head() -> None:
    random = np.random.default_rng(0)
    adapter = {name: random.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    small = truncate_rank(adapter, 2)
    wanted = sum(np.outer(adapter[B][:, place], adapter[A][place]) for place in range(2))
    np.testing.assert_allclose(small[B] @ small[A], wanted, rtol=1e-5)
    np.testing.assert_array_equal(small[HEAD], adapter[HEAD])
    assert adapter[A].shape == SHAPES[A], "the whole adapter is left as it was"
