"""The same training without privacy, to see what privacy costs. It exists in simulations only.

No clipping, no noise, no ledger. It is no vault: nothing that speaks a vault's protocol over a network can be
made to train like this.
"""

from __future__ import annotations

import torch

from client.vault.policy.organization import Organization
from client.vault.records.units import EncodedRecords
from client.vault.release import received, released
from client.vault.training.dp_sgd import choose_examples, poisson_sample
from client.vault.training.entropy import Entropy
from client.vault.training.features import FrozenUnits
from client.vault.training.micro_batches import micro_batches
from client.vault.training.optimizer import make_optimizer
from client.vault.training.verification import verified_precision
from common.errors import Refused
from common.model.model import LoraModel
from common.model.precision import computing_in
from common.plan.plan import Plan
from common.privacy.accounting import sample_rate
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.tasks import make_task
from common.tasks.text import device_of


class OpenTrainer:
    """Answers like a vault, with updates that protect nobody.

    Args:
        organization: name and public size.
        records: encoded.
        model: the base model with the plan's LoRA layers, at the organization's rank.
        plan: of the run.
        entropy: draws the samples.
    """

    def __init__(
        self, organization: Organization, records: EncodedRecords, model: LoraModel, plan: Plan, entropy: Entropy
    ) -> None:
        self._organization = organization
        self._model = model
        self._plan = plan
        self._entropy = entropy
        self._task = make_task(plan.task, model.tokenizer)
        self._precision = verified_precision(model, self._task, plan)
        self._units = FrozenUnits(self._task, records.units, organization.vault.max_tokens, self._precision)

    def describe(self) -> Description:
        """As the vault."""
        return self._organization.description()

    def train(self, request: TrainRequest) -> Release:
        """The vault's steps on the same kind of sample, with the plain mean over a unit's examples."""
        plan, model = self._plan, self._model
        before = received(request, plan, model)
        model.load(before)
        head_only = plan.training.is_head_alone(request.round)
        parameters = model.trained_parameters(head_only=head_only)
        units = self._units.of_round(model.module, before, head_only=head_only)
        optimizer = make_optimizer(plan, parameters, request.round)
        task = self._task
        stream = self._entropy.stream(self._organization.name, request.run, request.round)
        rate = sample_rate(plan.training.batch_size, self._organization.data.public_size)
        for _ in range(plan.training.local_steps):
            drawn = poisson_sample(units, rate, stream.branch())
            choices = stream.branch()
            sample = [choose_examples(unit, plan.privacy.records_per_user, choices) for unit in drawn]
            for batch, owners in micro_batches(sample, self._organization.vault.max_tokens):
                with computing_in(self._precision, device_of(model.module)):
                    losses = task.losses(model.module, batch.examples, batch.length)
                shares = torch.tensor([1 / len(sample[owner]) for owner in owners], device=losses.device)
                loss = (losses * shares).sum() / plan.training.batch_size
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        return Release(released(model, before, plan, stream))

    def statement(self, run: str) -> Statement:
        """There is none: ε is infinite."""
        raise Refused("policy", f"run {run} has no privacy to state")
