"""Screening of updates before they are averaged, and updates on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from common.adapter.adapter import Adapter
from common.plan.aggregation import Aggregation
from server.aggregation.collector import UpdateCollector
from server.aggregation.mean import norm, weighted_mean
from server.aggregation.norm_screening import NORM_FACTOR, clip, outliers
from server.aggregation.spill import UpdateSpill

A, B = "q_proj.lora_A.weight", "q_proj.lora_B.weight"


def one(*values: float) -> Adapter:
    return {B: np.array([values], np.float32)}


# Norms


def test_a_norm_far_above_the_others_is_refused_by_name_and_ratio() -> None:
    found = outliers({"a": 1.0, "b": 1.2, "c": 0.9, "evil": 6.6})
    assert found == {"evil": "its norm is 6 times the median; at most 5 times is accepted"}
    assert outliers({"a": 1.0, "b": 1.0, "c": NORM_FACTOR}) == {}
    assert outliers({}) == {}


def test_of_two_neither_is_refused_and_where_most_are_zero_none_is() -> None:
    assert outliers({"a": 1.0, "b": 1e6}) == {}
    assert outliers({"a": 0.0, "b": 0.0, "c": 1.0}) == {}


def test_the_norm_is_that_of_all_tensors_together_in_double_precision() -> None:
    assert norm({A: np.array([[3.0]], np.float32), B: np.array([[0.0, 4.0]], np.float32)}) == 5.0
    assert norm(one(3e38, 4e38 / 2)) == pytest.approx(np.hypot(3e38, 2e38))


@settings(deadline=None, max_examples=100)
@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(1e-3, 1e3),
)
def test_clipping_scales_down_to_the_norm_and_leaves_the_rest(tensor: np.ndarray, largest: float) -> None:
    update = {B: tensor}
    after = clip(update, largest)
    assert norm(after) <= largest * (1 + 1e-6)
    if norm(update) <= largest:
        assert (after[B] == tensor).all()
    else:
        wanted = tensor.astype(float) * (largest / norm(update))
        np.testing.assert_allclose(after[B], wanted, rtol=1e-6, atol=1e-38)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clipping_lets_nothing_through_that_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        clip(one(1.0, bad), 1.0)


# On disk


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from([A, B, "head.weight", "ü.lora_B.weight"]),
        arrays(np.float32, array_shapes(min_dims=1, max_dims=3), elements=st.floats(-1e6, 1e6, width=32)),
        min_size=1,
    )
)
def test_an_update_comes_back_from_disk_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, update: Adapter
) -> None:
    folder = tmp_path_factory.mktemp("spill") / "updates"
    with UpdateSpill(folder) as spill:
        spill.put("st-mary", update)
        back = spill["st-mary"]
        assert set(back) == set(update)
        assert len(back) == len(update)
        for name, tensor in update.items():
            assert isinstance(back[name], np.memmap)
            assert (back[name].dtype, back[name].shape) == (np.float32, tensor.shape)
            assert (back[name] == tensor).all()
        spill.drop("st-mary")
        assert "st-mary" not in spill
        assert list(folder.iterdir()) == []
        with pytest.raises(KeyError):
            spill["st-mary"]
    assert not folder.exists()


def test_what_a_round_that_was_cut_off_left_is_not_taken_for_an_update(tmp_path: Path) -> None:
    (tmp_path / "updates").mkdir()
    (tmp_path / "updates" / "a.safetensors").write_bytes(b"old")
    with UpdateSpill(tmp_path / "updates") as spill:
        assert "a" not in spill
        assert list((tmp_path / "updates").iterdir()) == []


# One round


NAMES = ["a", "b", "c", "d", "e"]
RANDOM = np.random.default_rng(0)
LARGE, LARGER, SMALL = (RANDOM.normal(0, scale, (40, 8)).astype(np.float32) for scale in (1e15, 2e15, 1))
# What cancels leaves what was rounded on the way: with another order, other bits.
UPDATES = {"a": {B: LARGE}, "b": {B: LARGER}, "c": {B: SMALL}, "d": {B: -LARGER}, "e": {B: -LARGE}}
WEIGHTS = {"a": 3.0, "b": 1.5, "c": 0.1, "d": 1.5, "e": 3.0}


def taken(folder: Path, order: list[str], refused: str | None = None, *, screen: bool) -> Adapter:
    with UpdateCollector(folder, Aggregation(screen=screen), WEIGHTS) as collector:
        for name in order:
            if name == refused:
                collector.refuse(name, "why", byzantine=True)
            else:
                collector.accept(name, UPDATES[name])
        collector.screen()
        assert collector.accepted == [name for name in NAMES if name in order and name != refused]
        return collector.mean()


@settings(deadline=None, max_examples=60)
@given(st.permutations(NAMES), st.integers(1, 5), st.sampled_from([None, *NAMES]), st.booleans())
def test_the_mean_does_not_depend_on_who_answers_first(
    tmp_path_factory: pytest.TempPathFactory, order: list[str], count: int, refused: str | None, screen: bool
) -> None:
    """To the last bit, with some that never answer and one that is refused, folded at once or at the end."""
    order = order[:count]
    accepted = sorted(set(order) - {refused})
    if not accepted:
        return
    found = taken(tmp_path_factory.mktemp("round") / "updates", order, refused, screen=screen)
    wanted = weighted_mean([UPDATES[name] for name in accepted], [WEIGHTS[name] for name in accepted])
    assert found[B].tobytes() == wanted[B].tobytes()


def test_an_update_is_dropped_as_soon_as_all_before_it_are_in(tmp_path: Path) -> None:
    def waiting() -> list[str]:
        return sorted(file.stem for file in (tmp_path / "updates").iterdir())

    with UpdateCollector(tmp_path / "updates", Aggregation(screen=False), WEIGHTS) as collector:
        collector.accept("c", UPDATES["c"])
        collector.accept("b", UPDATES["b"])
        assert waiting() == ["b", "c"]
        collector.accept("a", UPDATES["a"])
        assert waiting() == []
        collector.accept("e", UPDATES["e"])
        assert waiting() == ["e"]
        collector.refuse("d", "why", byzantine=False)
        assert waiting() == []


def test_where_the_norms_have_to_be_known_first_all_wait_and_who_is_refused_then_is_not_averaged(
    tmp_path: Path,
) -> None:
    with UpdateCollector(tmp_path / "updates", Aggregation(), dict.fromkeys("abcd", 1.0)) as collector:
        for name, value in zip("dcba", (1.0, 1.5, 0.5, 40.0), strict=True):
            collector.accept(name, one(value))
        assert len(list((tmp_path / "updates").iterdir())) == 4
        collector.screen()
        assert collector.accepted == ["b", "c", "d"]
        assert collector.byzantine_detected == 1
        assert set(collector.refused) == {"a"}
        assert collector.mean()[B].tolist() == [[1.0]]


def test_an_update_is_clipped_before_it_is_averaged_and_its_own_norm_is_screened(tmp_path: Path) -> None:
    with UpdateCollector(
        tmp_path / "updates", Aggregation(max_update_norm=2.0), dict.fromkeys("abcd", 1.0)
    ) as collector:
        for name, value in zip("abcd", (1.0, -1.0, 4.0, 100.0), strict=True):
            collector.accept(name, one(value))
        collector.screen()
        assert set(collector.refused) == {"d"}
        assert collector.mean()[B][0, 0] == pytest.approx((1 - 1 + 2) / 3)
