"""DP-SGD: bounded influence of a record, the right noise, unchanged control flow."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.vault.training.dp_sgd import Step, add_noise, poisson_sample, train
from client.vault.training.entropy import Keystream
from client.vault.training.errors import GuaranteeError
from client.vault.training.micro_batches import micro_batches
from client.vault.training.per_example import PerExampleGradients
from common.tasks import Example
from tests.client.vault.training.models import (
    VOCABULARY,
    Poisoned,
    TinyTask,
    examples,
    lora_model,
    norm,
    singles,
    sum_of,
    trained,
)


def keystream(seed: int = 0) -> Keystream:
    return Keystream(seed.to_bytes(32, "little"))


BOUND = 0.05


@pytest.fixture(scope="module")
def llama() -> Any:
    return lora_model("llama")


NEIGHBOURS = {
    "a usual record": lambda: examples(1, seed=9)[0],
    "the shortest record": lambda: Example((1, 2), (1, 2)),
    "the longest record": lambda: examples(1, seed=3, longest=47)[0],
    "a record that cannot contribute": lambda: None,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("others", [0, 1, 40])
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_one_record_moves_the_clipped_sum_by_at_most_the_clipping_norm(
    neighbour: str, others: int, dtype: torch.dtype
) -> None:
    llama, task = lora_model("llama", dtype=dtype), TinyTask("llama")
    without: list[Example | None] = list(examples(others))
    with_it = [*without[: others // 2], NEIGHBOURS[neighbour](), *without[others // 2 :]]
    left, right = sum_of(llama, task, with_it, BOUND), sum_of(llama, task, without, BOUND)
    sensitivity = norm({name: left[name] - right[name] for name in left})
    assert sensitivity <= BOUND * (1 + 1e-6)
    if neighbour == "a record that cannot contribute":
        assert sensitivity == 0
    else:
        assert sensitivity > 0.5 * BOUND, "the record should be clipped, or this test shows nothing"


def test_a_loss_that_couples_examples_would_be_noticed(llama: Any) -> None:
    """With a loss that depends on the batch, one record moves everybody's gradient: the sum goes beyond C."""

    class Coupled(TinyTask):
        def losses(self, model: Any, batch: Any, length: int) -> torch.Tensor:
            return super().losses(model, batch, length) * (-1.0) ** len(set(batch))

    without: list[Example | None] = list(examples(3))
    with_it = [*without, examples(1, seed=9)[0]]
    left, right = (sum_of(llama, Coupled("llama"), sample, BOUND, 4096) for sample in (with_it, without))
    assert norm({name: left[name] - right[name] for name in left}) > 1.5 * BOUND


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_a_record_whose_gradient_is_not_finite_contributes_zero(llama: Any, value: float) -> None:
    good: list[Example | None] = [Example((1, *e.input_ids), (1, *e.labels)) for e in examples(5)]
    bad = Example((0, 5, 6, 7), (0, 5, 6, 7))
    left = sum_of(llama, Poisoned(value), [*good, bad], BOUND)
    right = sum_of(llama, Poisoned(value), good, BOUND)
    difference = norm({name: left[name] - right[name] for name in left})
    assert math.isfinite(difference)
    # 1e38 overflows float32 where squares are summed; in float64 it is a large gradient, to be clipped.
    assert difference <= (BOUND * (1 + 1e-6) if value == 1e38 else 1e-6 * BOUND)


def test_the_empty_draw_is_a_zero_sum(llama: Any) -> None:
    total = sum_of(llama, TinyTask("llama"), [], BOUND)
    assert total.keys() == trained(llama).keys()
    assert all(not tensor.any() for tensor in total.values())


def run_steps(model: Any, units: list[Example | None], step: Step, steps: int, seed: int = 0) -> list[dict]:
    """Train with an optimizer that only records the gradients that it is given."""
    seen: list[dict[str, torch.Tensor]] = []
    names = {id(parameter): name for name, parameter in trained(model).items()}

    class Recorder(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            group = self.param_groups[0]["params"]
            seen.append({names[id(parameter)]: parameter.grad.clone() for parameter in group})

    recorder = Recorder(list(trained(model).values()), lr=0.0)
    train(model, trained(model), TinyTask("llama"), singles(units), step, steps, recorder, keystream(seed))
    return seen


STEP = Step(sample_rate=0.3, batch_size=6, clipping_norm=BOUND, noise_multiplier=1.0, max_tokens=256)


def test_an_empty_draw_is_a_step_like_any_other(llama: Any) -> None:
    never = Step(sample_rate=1e-12, batch_size=6, clipping_norm=BOUND, noise_multiplier=1.0)
    seen = run_steps(llama, list(examples(20)), never, 5)
    assert len(seen) == 5
    spread = torch.cat([tensor.flatten() for tensor in seen[0].values()]).std()
    assert float(spread) == pytest.approx(BOUND / 6, rel=0.1)


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21])
def test_steps_and_divisor_do_not_depend_on_the_number_of_records(llama: Any, count: int) -> None:
    loud = Step(sample_rate=0.3, batch_size=6, clipping_norm=1e-9, noise_multiplier=1e9)
    seen = run_steps(llama, list(examples(count)), loud, 3)
    assert len(seen) == 3
    values = torch.cat([tensor.flatten() for step in seen for tensor in step.values()])
    assert float(values.std()) == pytest.approx(1 / 6, rel=0.05)


def test_a_neighbour_replay_differs_by_one_clipped_gradient_over_the_public_divisor(llama: Any) -> None:
    """With the same keystream, a last record that is always drawn is all that differs between two runs."""
    # With little noise: a released number is rounded to a thousandth of its deviation.
    always = Step(sample_rate=1.0, batch_size=6, clipping_norm=BOUND, noise_multiplier=2.0**-9, max_tokens=256)
    units: list[Example | None] = list(examples(12))
    with_it = run_steps(llama, [*units, examples(1, seed=9)[0]], always, 3)
    for left, right in zip(with_it, run_steps(llama, units, always, 3), strict=True):
        difference = norm({name: left[name] - right[name] for name in left})
        assert 0.5 * BOUND / 6 < difference <= BOUND / 6 * (1 + 1e-3)


@pytest.mark.parametrize("others", [0, 1, 30])
def test_the_noise_of_a_step_is_the_same_however_many_records_there_are(llama: Any, others: int) -> None:
    """Otherwise the place where a keystream runs out, which is a refusal, would tell the number of records."""
    never = Step(sample_rate=1e-12, batch_size=6, clipping_norm=BOUND, noise_multiplier=1.0)
    left, right = (run_steps(llama, list(examples(count)), never, 2) for count in (others, 20))
    assert all(torch.equal(left[step][name], right[step][name]) for step in (0, 1) for name in left[step])


def test_noise_has_the_standard_deviation_that_the_accountant_is_told(llama: Any) -> None:
    sigma, bound = 0.73, 0.4
    noised = add_noise(torch.zeros(300_000, dtype=torch.int64), sigma, keystream(4)) * bound
    values = noised.numpy()
    estimate = math.sqrt(np.mean(values**2))
    assert estimate == pytest.approx(sigma * bound, rel=0.01)
    statistic = np.sum((values / (sigma * bound)) ** 2)
    assert 1e-6 < stats.chi2.cdf(statistic, len(values)) < 1 - 1e-6
    correlations = np.corrcoef(values.reshape(3, -1))
    assert np.abs(correlations - np.eye(3)).max() < 0.02


def test_the_released_noise_is_that_of_the_mechanism_divided_by_the_public_batch(llama: Any) -> None:
    step = Step(sample_rate=1e-12, batch_size=5, clipping_norm=0.2, noise_multiplier=1.7)
    seen = run_steps(llama, list(examples(4)), step, 40)
    values = torch.cat([tensor.flatten() for each in seen for tensor in each.values()]).double()
    assert len(values) > 50_000
    assert float(values.square().mean().sqrt()) == pytest.approx(1.7 * 0.2 / 5, rel=0.01)


def test_poisson_sampling_draws_each_unit_independently_at_the_rate() -> None:
    units = singles([*examples(1), None])
    stream, rate, draws = keystream(7), 0.03, 20_000
    many = singles([Example((i % VOCABULARY, i), (0, 0)) for i in range(50)])
    sizes = np.array([len(poisson_sample(many, rate, stream)) for _ in range(draws)])
    # A binomial count: fixed-size batches would have variance zero.
    assert sizes.mean() == pytest.approx(50 * rate, rel=0.02)
    assert sizes.var() == pytest.approx(50 * rate * (1 - rate), rel=0.05)
    assert poisson_sample(units, 1.0, stream) == units


@given(
    lengths=st.lists(st.one_of(st.none(), st.integers(2, 40)), max_size=60),
    max_tokens=st.integers(1, 200),
)
@settings(max_examples=100, deadline=None)
def test_micro_batches_hold_each_example_once_in_a_shape_of_its_own(
    lengths: list[int | None], max_tokens: int
) -> None:
    sample = [None if length is None else Example(tuple(range(length)), (0,) * length) for length in lengths]
    units = singles(sample)
    batches = list(micro_batches(units, max_tokens))
    held = sorted(len(example) for batch, _ in batches for example in batch.examples)
    assert held == sorted(length for length in lengths if length is not None)
    for batch, owners in batches:
        assert [units[owner] for owner in owners] == [(example,) for example in batch.examples]
        assert 1 <= len(batch.examples) <= batch.rows == max(1, max_tokens // batch.length)
        for example in batch.examples:
            assert len(example) < batch.length <= len(example) + 16
            # The shape is the one that the example would have by itself.
            ((alone, _),) = micro_batches([(example,)], max_tokens)
            assert (alone.length, alone.rows) == (batch.length, batch.rows)


def test_the_sum_does_not_depend_on_the_micro_batches(llama: Any) -> None:
    sample: list[Example | None] = list(examples(30))
    small, large = (sum_of(llama, TinyTask("llama"), sample, BOUND, tokens) for tokens in (30, 100_000))
    assert norm({name: small[name] - large[name] for name in small}) <= 1e-5 * norm(large)


def test_hooks_are_gone_after_use_and_after_a_failure(llama: Any) -> None:
    class Broken(TinyTask):
        def losses(self, model: Any, batch: Any, length: int) -> torch.Tensor:
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        sum_of(llama, Broken("llama"), list(examples(2)), BOUND)
    assert not hasattr(llama, "autograd_grad_sample_hooks")
    sum_of(llama, TinyTask("llama"), list(examples(2)), BOUND)
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_a_trainable_tensor_that_is_not_clipped_is_refused() -> None:
    model = lora_model("llama")
    parameters = trained(model)
    model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(GuaranteeError, match="not the same tensors"), PerExampleGradients(model, parameters):
        pass


def test_a_model_in_evaluation_mode_is_not_trained_in_silence() -> None:
    model = lora_model("llama").eval()
    with pytest.raises((GuaranteeError, ValueError)):
        sum_of(model, TinyTask("llama"), list(examples(2)), BOUND)
