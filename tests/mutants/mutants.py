"""Seeded bugs: each is one small change of the kind that real systems shipped, applied to the program in memory.

`tests/mutants/test_mutants.py` applies each in a process of its own and runs the tests that should notice.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

import client.vault.ledger.ledger
import client.vault.policy.policy
import client.vault.records.units
import client.vault.training.dp_sgd
import client.vault.training.entropy
import client.vault.vault
import common.adapter.adapter
import common.flower.codec
import common.protocol.report
from client.vault.ledger.chain import Chain
from client.vault.ledger.ledger import Ledger
from client.vault.training.entropy import Keystream
from client.vault.training.features import FrozenUnits
from common.errors import Refused
from common.privacy.mechanism import Mechanism
from common.tasks.causal_lm import CausalLM
from common.tasks.chat import Chat
from common.tasks.classification import Classification
from common.tasks.question_answering import QuestionAnswering
from common.tasks.seq2seq import Seq2Seq

_OURS = ("client", "common", "server", "simulations")


@dataclass(frozen=True)
class Mutant:
    """A bug, and the tests that catch it.

    Attributes:
        apply: makes the change; its docstring says what is wrong.
        caught_by: a test, relative to the tests' folder.
    """

    apply: Callable[[], None]
    caught_by: str

    @property
    def name(self) -> str:
        """As in the table of `docs/privacy.md`."""
        return self.apply.__name__.replace("_", "-")

    @property
    def row(self) -> str:
        """Its row of that table."""
        return f"| {self.apply.__doc__} | `{self.name}` | `{self.caught_by}` |"


def replace_everywhere(old: Any, new: Any) -> None:
    """Set a new function wherever a module of ours holds the old one."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in _OURS:
            for key, value in list(vars(module).items()):
                if value is old:
                    setattr(module, key, new)


def shuffled_batches() -> None:
    """A batch of fixed size, as a shuffled loader gives it, accounted as Poisson."""

    def sample(units: Any, rate: float, stream: Keystream) -> list[Any]:
        order = stream.uniforms(len(units)).argsort()
        return [units[index] for index in order[: round(rate * len(units))]]

    replace_everywhere(client.vault.training.dp_sgd.poisson_sample, sample)


def _batch_loss_of(kind: Any) -> None:
    original = kind.losses

    def losses(self: Any, model: Any, examples: Any, length: int) -> torch.Tensor:
        each: torch.Tensor = original(self, model, examples, length)
        return each.mean().expand(len(each))

    kind.losses = losses


def batch_loss() -> None:
    """The model's own loss over the whole batch in place of one loss per example."""
    _batch_loss_of(CausalLM)


def batch_loss_of_chats() -> None:
    """The same for dialogues."""
    _batch_loss_of(Chat)


def batch_loss_of_classes() -> None:
    """The same for classification."""
    _batch_loss_of(Classification)


def batch_loss_of_answers() -> None:
    """The same for question answering."""
    _batch_loss_of(QuestionAnswering)


def batch_loss_of_texts() -> None:
    """The same for texts from texts."""
    _batch_loss_of(Seq2Seq)


def windows_by_themselves() -> None:
    """Each window of a long record is a unit, clipped by itself."""
    original = client.vault.records.units.encode

    def encode(*values: Any) -> Any:
        made = original(*values)
        units = tuple((example,) for unit in made.units for example in unit)
        return type(made)(units, made.unusable)

    replace_everywhere(original, encode)


def vectors_of_another_adapter() -> None:
    """What was kept of the records is used although the layers that made it have changed."""
    original = FrozenUnits.under
    kept: list[Any] = []

    def under(self: Any, *values: Any) -> Any:
        kept.append(original(self, *values))
        return kept[0]

    FrozenUnits.under = under  # type: ignore[method-assign]


def _with_step(change: Callable[[Any, Any], Any]) -> None:
    original = client.vault.training.dp_sgd.train

    def train(model: Any, parameters: Any, task: Any, units: Any, step: Any, *rest: Any) -> None:
        original(model, parameters, task, units, change(step, units), *rest)

    replace_everywhere(original, train)


def realised_divisor() -> None:
    """The noised sum divided by the number of records that were drawn."""
    summed, noised = client.vault.training.dp_sgd.clipped_sum, client.vault.training.dp_sgd.add_noise
    drawn: list[float] = [1.0]

    def clipped_sum(gradients: Any, task: Any, sample: Any, *rest: Any) -> Any:
        drawn[0] = max(1, len(sample))
        return summed(gradients, task, sample, *rest)

    def add_noise(total: Any, *rest: Any) -> Any:
        return {name: tensor * (8.0 / drawn[0]) for name, tensor in noised(total, *rest).items()}

    replace_everywhere(summed, clipped_sum)
    replace_everywhere(noised, add_noise)


def no_division() -> None:
    """The sum of the gradients in place of their mean; AdamW hides it."""
    _with_step(lambda step, _: replace(step, batch_size=1))


def true_rate() -> None:
    """The sample rate from the true number of records."""
    _with_step(lambda step, units: replace(step, sample_rate=min(1.0, step.batch_size / max(1, len(units)))))


def fresh_accountant() -> None:
    """Each round accounted for by itself, as if the run had one."""
    original = client.vault.policy.policy.run_mechanism

    def run_mechanism(organization: Any, plan: Any) -> Mechanism:
        training = plan.training.model_copy(update={"rounds": 1})
        return original(organization, plan.model_copy(update={"training": training}))

    replace_everywhere(original, run_mechanism)


def skipped_empty_batch() -> None:
    """No step, and so no noise, when nobody was drawn."""
    summed, noised = client.vault.training.dp_sgd.clipped_sum, client.vault.training.dp_sgd.add_noise
    drawn: list[int] = [1]

    def clipped_sum(gradients: Any, task: Any, sample: Any, *rest: Any) -> Any:
        drawn[0] = len(sample)
        return summed(gradients, task, sample, *rest)

    def add_noise(total: Any, *rest: Any) -> Any:
        return noised(total, *rest) if drawn[0] else total

    replace_everywhere(summed, clipped_sum)
    replace_everywhere(noised, add_noise)


def _system_stream(make: Callable[[str, str, int], bytes]) -> None:
    def stream(self: Any, organization: str, run: str, round_number: int) -> Keystream:
        return Keystream(make(organization, run, round_number))

    client.vault.training.entropy.SystemEntropy.stream = stream  # type: ignore[method-assign]


def constant_seed() -> None:
    """One key for all noise."""
    _system_stream(lambda *_: bytes(32))


def short_seed() -> None:
    """A key of 64 random bits: a CPU generator keeps 32 of its seed."""
    _system_stream(lambda *_: hashlib.sha256(os.urandom(8)).digest())


def same_noise_in_two_rounds() -> None:
    """A key for each run, not for each round."""
    keys: dict[str, bytes] = {}
    _system_stream(lambda _organization, run, _round: keys.setdefault(run, os.urandom(32)))


def forgotten_noise() -> None:
    """Clipped, but not noised."""
    replace_everywhere(client.vault.training.dp_sgd.add_noise, lambda total, deviation, stream: total)


def clip_per_layer() -> None:
    """Each tensor clipped to C by itself: together they reach C times the root of their number."""
    private = client.vault.training.dp_sgd

    def clipped_sum(gradients: Any, task: Any, sample: Any, clipping_norm: float, max_tokens: int) -> Any:
        shapes = {name: parameter.shape for name, parameter in gradients.parameters.items()}
        total = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        units = [unit for unit in sample if unit]
        if units:
            for name, mean in private.mean_gradients(gradients, task, units, max_tokens).items():
                scale = (clipping_norm / private._norms({name: mean})).clamp(max=1.0)
                total[name] += (scale @ mean.flatten(1)).view(shapes[name])
        return total

    replace_everywhere(private.clipped_sum, clipped_sum)


def clip_per_window() -> None:
    """Each record of a user, or each window of a record, clipped by itself, and then the sum of them."""
    original = client.vault.training.dp_sgd.clipped_sum

    def clipped_sum(gradients: Any, task: Any, sample: Any, *rest: Any) -> Any:
        return original(gradients, task, [(example,) for unit in sample for example in unit], *rest)

    replace_everywhere(original, clipped_sum)


def users_records_as_examples() -> None:
    """A plan for users trained as if each record were a unit of its own."""
    original = client.vault.records.units.encode

    def encode(records: Any, task: Any, user_field: Any = None, *others: Any) -> Any:
        return original(records, task, None, *others)

    replace_everywhere(original, encode)


def nan_passes() -> None:
    """A gradient that is not finite is clipped like any other."""

    def isfinite(tensor: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(tensor, dtype=torch.bool)

    torch.Tensor.isfinite = isfinite  # type: ignore[method-assign, assignment]


def settle_without_reserve() -> None:
    """Training and releasing before the run is charged; the charge comes after."""
    reserve, settle = Ledger.reserve, Ledger.settle

    def late(self: Any, reservation: Any, cap: Any) -> Any:
        self._late = reservation, cap
        return reservation

    def settle_first(self: Any, *arguments: Any) -> None:
        reserve(self, *self._late)
        settle(self, *arguments)

    Ledger.reserve = late  # type: ignore[method-assign]
    Ledger.settle = settle_first  # type: ignore[method-assign]


def answer_before_commit() -> None:
    """The release is answered and never stored."""
    Ledger.settle = lambda self, *arguments: None  # type: ignore[method-assign]


def loss_in_the_reply() -> None:
    """The training loss travels with the release."""
    original = common.flower.codec.pack_release

    def pack_release(release: Any) -> Any:
        content = original(release)
        content["sotto"]["loss"] = 2.345
        return content

    replace_everywhere(original, pack_release)


def refusal_depends_on_a_record() -> None:
    """A record that cannot be used stops the training."""
    original = client.vault.vault.encode

    def encode(*arguments: Any) -> Any:
        encoded = original(*arguments)
        if encoded.unusable:
            raise Refused("training-failed", f"{encoded.unusable} records cannot be used")
        return encoded

    replace_everywhere(original, encode)


def embedded_key() -> None:
    """A statement checked with the key that stands inside it."""
    original = common.protocol.report.signature_state

    def signature_state(statement: Any, run: str, keys: Any) -> str:
        return original(statement, run, {statement.organization: statement.key})

    replace_everywhere(original, signature_state)


def old_ledger_accepted() -> None:
    """A ledger that is behind its own signature goes on."""
    Ledger.check_seen = lambda self, seen: None  # type: ignore[method-assign]


def chain_not_checked() -> None:
    """The ledger is opened without a look at its chain."""

    def walk(self: Chain) -> list[dict[str, Any]]:
        return [json.loads(entry) for (entry,) in self._query("SELECT entry FROM chain ORDER BY number")]

    Chain.walk = walk  # type: ignore[method-assign]


def approval_ignored() -> None:
    """Any plan is trained."""
    client.vault.vault.Vault._check_approved = lambda self, request, plan: None  # type: ignore[method-assign]


def runs_not_added_up() -> None:
    """Each run is held against the cap by itself."""
    original = client.vault.policy.policy.lifetime_cap

    def lifetime_cap(organization: Any) -> Any:
        cap = original(organization)
        kind = type(cap)
        forgetful = type("Forgetful", (kind,), {"covers": lambda self, runs: kind.covers(self, runs[-1:])})
        return forgetful(cap.epsilon, cap.delta, cap.composition)

    replace_everywhere(original, lifetime_cap)


def rounded_before_noise() -> None:
    """The scale of the rounding is that of the sum before it was noised."""
    largest: dict[str, float] = {}
    noise, wire = client.vault.training.dp_sgd.add_noise, common.adapter.adapter.to_wire

    def add_noise(total: Any, deviation: float, stream: Keystream) -> Any:
        largest.update({name: float(tensor.abs().max()) for name, tensor in total.items()})
        return noise(total, deviation, stream)

    def to_wire(adapter: Any, number_format: Any, rounding: Any) -> bytes:
        # What is beyond the last step of a scale becomes that step.
        if number_format != "float32" and largest:
            adapter = {name: tensor.clip(-largest[name], largest[name]) for name, tensor in adapter.items()}
        return wire(adapter, number_format, rounding)

    replace_everywhere(noise, add_noise)
    replace_everywhere(wire, to_wire)


_GRADIENTS = "common/tasks/test_every_task.py::test_gradients_of_examples_are_those_of_a_loop"

# In the order of the conditions that they break.
MUTANTS = (
    Mutant(
        shuffled_batches,
        "client/vault/training/test_dp_sgd.py::test_poisson_sampling_draws_each_unit_independently_at_the_rate",
    ),
    Mutant(
        batch_loss,
        "common/tasks/test_causal_lm.py::test_the_companions_of_an_example_do_not_change_its_loss",
    ),
    Mutant(batch_loss_of_chats, f"{_GRADIENTS}[ffa-chat-decoder]"),
    Mutant(batch_loss_of_classes, f"{_GRADIENTS}[ffa-classification-encoder]"),
    Mutant(batch_loss_of_answers, f"{_GRADIENTS}[ffa-question-answering-encoder]"),
    Mutant(batch_loss_of_texts, f"{_GRADIENTS}[ffa-seq2seq-both]"),
    Mutant(
        windows_by_themselves,
        "common/tasks/test_every_task.py::test_one_record_moves_a_release_by_at_most_the_clipping_norm_over_the_batch"
        "[0-float32-question-answering-encoder]",
    ),
    Mutant(
        vectors_of_another_adapter,
        "client/vault/training/test_features.py::test_vectors_are_those_of_each_example_alone_and_made_anew_when_the_layers_change",
    ),
    Mutant(
        realised_divisor,
        "client/vault/training/test_dp_sgd.py::test_a_neighbour_replay_differs_by_one_clipped_gradient_over_the_public_divisor",
    ),
    Mutant(
        no_division,
        "client/vault/training/test_dp_sgd.py::test_the_released_noise_is_that_of_the_mechanism_divided_by_the_public_batch",
    ),
    Mutant(
        true_rate,
        "client/vault/test_vault.py::test_records_are_drawn_at_the_public_rate_not_the_true_one",
    ),
    Mutant(
        fresh_accountant,
        "client/vault/test_vault.py::test_the_run_is_charged_whole_before_the_first_round_ends",
    ),
    Mutant(
        skipped_empty_batch,
        "client/vault/training/test_dp_sgd.py::test_an_empty_draw_is_a_step_like_any_other",
    ),
    Mutant(
        constant_seed,
        "client/vault/training/test_entropy.py::test_the_system_never_gives_the_same_stream_twice",
    ),
    Mutant(
        short_seed,
        "client/vault/training/test_entropy.py::test_each_stream_has_a_key_of_256_bits_from_the_system_and_every_bit_matters",
    ),
    Mutant(
        same_noise_in_two_rounds,
        "client/vault/test_vault.py::test_every_round_and_every_run_has_other_noise",
    ),
    Mutant(
        forgotten_noise,
        "client/vault/training/test_dp_sgd.py::test_the_released_noise_is_that_of_the_mechanism_divided_by_the_public_batch",
    ),
    Mutant(
        rounded_before_noise,
        "client/vault/test_release.py::test_the_release_follows_from_the_noised_update_and_the_rounding_alone",
    ),
    Mutant(
        clip_per_layer,
        "client/vault/training/test_dp_sgd.py::test_one_record_moves_the_clipped_sum_by_at_most_the_clipping_norm",
    ),
    Mutant(
        clip_per_window,
        "client/vault/training/test_users.py::test_the_sum_is_that_of_a_plain_loop_that_clips_each_user_once",
    ),
    Mutant(
        users_records_as_examples,
        "client/vault/test_vault_users.py::test_a_user_more_moves_the_release_by_at_most_one_clipped_gradient",
    ),
    Mutant(
        nan_passes,
        "client/vault/training/test_dp_sgd.py::test_a_record_whose_gradient_is_not_finite_contributes_zero",
    ),
    Mutant(
        settle_without_reserve,
        "client/vault/test_vault.py::test_the_ledger_is_charged_before_any_gradient",
    ),
    Mutant(
        answer_before_commit,
        "client/vault/test_vault.py::test_the_same_request_again_gets_the_stored_release",
    ),
    Mutant(
        loss_in_the_reply,
        "common/flower/test_codec.py::test_a_release_holds_its_tensors_and_its_ledgers_head_and_nothing_else",
    ),
    Mutant(
        refusal_depends_on_a_record,
        "client/vault/test_vault.py::test_what_leaves_has_the_same_shape_whatever_the_records_are",
    ),
    Mutant(
        embedded_key,
        "common/protocol/test_report.py::test_the_key_inside_a_statement_does_not_make_its_signature_valid",
    ),
    Mutant(
        old_ledger_accepted,
        "client/vault/ledger/test_chain.py::test_an_older_copy_that_is_put_back_is_behind_its_own_signature",
    ),
    Mutant(
        chain_not_checked,
        "client/vault/ledger/test_chain.py::test_whatever_is_changed_or_removed_is_found_when_the_ledger_is_opened",
    ),
    Mutant(
        approval_ignored,
        "client/vault/policy/test_approval.py::test_a_plan_that_is_not_approved_is_refused_and_costs_nothing",
    ),
    Mutant(
        runs_not_added_up,
        "client/vault/test_vault.py::test_a_third_run_beyond_the_lifetime_is_refused",
    ),
)
