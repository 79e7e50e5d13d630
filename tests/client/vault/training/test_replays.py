"""Neighbour replays: the same step once more with one unit more or one less, and the same keystream.

Hundreds of them, over settings and units drawn at random. A step takes two branches from its keystream, one that
draws the units and one that chooses among their examples, and then the noise from the keystream itself. So with
the same key everybody but the last unit has the same draws, and the noise is the same: what is left of the
difference between two releases is the last unit's clipped gradient, over the public batch size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from client.vault.records.encoded import Unit
from client.vault.training import dp_sgd
from client.vault.training.dp_sgd import Step, add_noise, train
from client.vault.training.entropy import Keystream
from client.vault.training.exact import grid_of
from common.tasks import Example
from tests.client.vault.training.models import ARCHITECTURES, VOCABULARY, TinyTask, lora_model, trained

REPLAYS = 300  # of each kind of unit
# What an example's first token multiplies its loss with; every other token leaves the loss as it is.
FACTORS = {0: math.nan, 1: math.inf, 2: -math.inf, 3: 1e38, 4: 1e5, 5: 1e-5}
LONGEST = 63  # of 64 positions, one is padding: longer records are cut before they get here
# Float32 rounds by half of this, relatively.
EPSILON = 2.0**-23


class Odd(TinyTask):
    """Makes some losses huge, tiny or not finite; remembers which examples it was asked for."""

    def __init__(self, architecture: str) -> None:
        super().__init__(architecture)
        self._factors = torch.ones(VOCABULARY)
        for token, factor in FACTORS.items():
            self._factors[token] = factor
        self.seen: set[int] = set()

    def losses(self, model: Any, batch: Sequence[Example], length: int) -> torch.Tensor:
        self.seen |= {id(example) for example in batch}
        first = torch.tensor([example.input_ids[0] for example in batch])
        return super().losses(model, batch, length) * self._factors[first]


def one_layer() -> Any:
    """A Llama of one very narrow layer: hundreds of replays are to take seconds."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="FEATURE_EXTRACTION")
    model = get_peft_model(LlamaForCausalLM(config), lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name)
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
    return model.train()


# Units and settings, at random


def example(random: np.random.Generator) -> Example:
    """Mostly short and usual; some as long as can be, some with a gradient that is huge, tiny or not finite."""
    length = int(random.choice([random.integers(2, 16), random.integers(16, LONGEST), LONGEST], p=[0.8, 0.1, 0.1]))
    ids = random.integers(len(FACTORS), VOCABULARY, length)
    if random.random() < 0.25:
        ids[0] = random.integers(len(FACTORS))
    return Example(tuple(ids.tolist()), tuple(ids.tolist()))


def record(random: np.random.Generator) -> Unit:
    """A record as a unit; one in eight cannot contribute."""
    return () if random.random() < 0.125 else (example(random),)


def user(random: np.random.Generator) -> Unit:
    """A user: of no record, of a few, of many, or of many that are all alike."""
    kind = random.choice(["none", "few", "many", "alike"], p=[0.15, 0.65, 0.1, 0.1])
    if kind == "alike":
        return (example(random),) * int(random.integers(5, 30))
    count = {"none": 0, "few": random.integers(1, 4), "many": random.integers(10, 30)}[kind]
    return tuple(example(random) for _ in range(count))


@dataclasses.dataclass(frozen=True)
class Setting:
    """Everything that two replays have in common."""

    step: Step
    learning_rate: float
    key: bytes

    @property
    def bound(self) -> float:
        """How far one unit may move the released parameters."""
        return self.learning_rate * self.step.clipping_norm / self.step.batch_size


def setting(random: np.random.Generator, *, of_users: bool) -> Setting:
    step = Step(
        sample_rate=float(random.choice([1.0, 0.9, 0.5, 0.1, 1e-3], p=[0.3, 0.1, 0.3, 0.2, 0.1])),
        batch_size=int(random.integers(1, 100)),
        clipping_norm=float(10 ** random.uniform(-2, 1)),
        # So little noise that its rounding to the grid does not hide what a unit moves.
        noise_multiplier=float(10 ** random.uniform(-3, -1)),
        examples_per_unit=random.choice([None, 1, 2, 5, 10**6]) if of_users else None,
        max_tokens=int(random.choice([1, 100, 256, 1024], p=[0.05, 0.25, 0.5, 0.2])),
    )
    return Setting(step, float(10 ** random.uniform(-2, 2)), random.bytes(32))


# Replays


@dataclasses.dataclass(frozen=True)
class Released:
    """What one step left behind: its optimizer steps, the sum in units of C before its noise, the parameters."""

    steps: int
    total: torch.Tensor
    parameters: dict[str, torch.Tensor]
    seen: set[int]

    @property
    def flat(self) -> torch.Tensor:
        return torch.cat([tensor.double().flatten() for tensor in self.parameters.values()])


class CountedSGD(torch.optim.SGD):
    steps = 0

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1
        super().step(closure)


def release(model: Any, task: Odd, units: Sequence[Unit], setting: Setting) -> Released:
    """One step of plain SGD; the model is then as it was before."""
    parameters = trained(model)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = CountedSGD(parameters.values(), lr=setting.learning_rate)
    task.seen = set()
    totals: list[torch.Tensor] = []

    def watched(total: torch.Tensor, noise_multiplier: float, stream: Keystream) -> torch.Tensor:
        totals.append(total.double() * 2.0**-40)
        return add_noise(total, noise_multiplier, stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dp_sgd, "add_noise", watched)
        train(model, parameters, task, units, setting.step, 1, optimizer, Keystream(setting.key))
    after = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(before[name])
    return Released(optimizer.steps, totals[0], after, task.seen)


def is_drawn(setting: Setting, place: int) -> bool:
    """Whether the unit at a place is in the sample: its own uniform of the first branch says so."""
    return bool(Keystream(setting.key).branch().uniforms(place + 1)[place] < setting.step.sample_rate)


@dataclasses.dataclass
class Tally:
    """How many replays there were, and of how many kinds: a test of nothing but unmoved releases shows nothing."""

    replays: int = 0
    unmoved: int = 0
    moved: int = 0
    clipped: int = 0
    sharp: int = 0

    def compare(self, setting: Setting, start: torch.Tensor, with_it: Released, without: Released, last: Unit,
                place: int) -> None:  # fmt: skip
        """One replay: a release with the unit at a place, which is the last, and one without it."""
        self.replays += 1
        assert with_it.steps == without.steps == 1
        assert [(n, t.shape, t.dtype) for n, t in with_it.parameters.items()] == [
            (n, t.shape, t.dtype) for n, t in without.parameters.items()
        ]
        drawn = is_drawn(setting, place)
        assert any(id(example) in with_it.seen for example in last) == (drawn and bool(last))
        if not drawn:
            self.unmoved += 1
            for name, tensor in with_it.parameters.items():
                assert torch.equal(tensor, without.parameters[name]), f"{name} of a sample without the unit"
            return
        assert float((with_it.total - without.total).norm()) <= 1.0, "no unit moves the exact sum by more than C"
        moved = float((with_it.flat - without.flat).norm())
        # The gradient, its product with the learning rate and the new parameter are each rounded, in both runs.
        rounding = EPSILON * float(without.flat.norm() + 2 * (without.flat - start).norm())
        # And the noised sum to the grid.
        rounding += setting.bound * math.sqrt(len(start)) * grid_of(setting.step.noise_multiplier)
        assert moved <= setting.bound * (1 + 1e-5) + rounding, (setting, moved / setting.bound)
        self.moved += moved > rounding
        self.clipped += abs(moved / setting.bound - 1) < 1e-2
        self.sharp += rounding < 0.1 * setting.bound


def replay(model: Any, task: Odd, unit: Callable[[np.random.Generator], Unit], random: np.random.Generator,
           tally: Tally, most: int = 20) -> None:  # fmt: skip
    """A step on some units, on these and one more, and on these without the last."""
    made = setting(random, of_users=unit is user)
    units = [unit(random) for _ in range(random.integers(0, most + 1))]
    one = unit(random)
    start = torch.cat([parameter.detach().double().flatten() for parameter in trained(model).values()])
    usual = release(model, task, units, made)
    tally.compare(made, start, release(model, task, [*units, one], made), usual, one, len(units))
    if units:
        fewer = release(model, task, units[:-1], made)
        tally.compare(made, start, usual, fewer, units[-1], len(units) - 1)


@pytest.mark.parametrize("unit", [record, user])
def test_one_unit_more_or_less_moves_a_release_by_at_most_its_clipped_gradient_over_the_public_batch(
    unit: Callable[[np.random.Generator], Unit],
) -> None:
    model, task, tally = one_layer(), Odd("llama"), Tally()
    random = np.random.default_rng([4, unit is user])
    while tally.replays < REPLAYS:
        replay(model, task, unit, random, tally)
    assert tally.unmoved >= 75
    assert tally.moved >= 100
    assert tally.clipped >= 50
    assert tally.sharp >= 0.8 * (tally.replays - tally.unmoved), "rounding should not hide what a unit moves"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_so_it_is_for_every_architecture_and_precision(architecture: str, dtype: torch.dtype) -> None:
    model, task, tally = lora_model(architecture, dtype=dtype), Odd(architecture), Tally()
    random = np.random.default_rng([7, ARCHITECTURES.index(architecture)])
    while tally.replays < 16:
        replay(model, task, random.choice([record, user]), random, tally, most=6)
    assert tally.moved >= 2
