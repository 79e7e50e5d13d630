"""The same training without privacy, to measure the cost of privacy. Exists in simulations only.

It has no clipping, no noise and no ledger. It is not a vault: nothing that serves a vault's protocol over a
network can be configured to train like this.
"""

from __future__ import annotations

import torch

from client.vault.policy.organization import Organization
from client.vault.records.units import EncodedRecords
from client.vault.release import decode_adapter, encode_update
from client.vault.training.dp_sgd import choose_examples, poisson_sample
from client.vault.training.entropy import Entropy
from client.vault.training.features import FrozenUnits
from client.vault.training.micro_batches import micro_batches
from client.vault.training.optimizer import make_optimizer
from client.vault.workers.worker import Worker
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
    """Answers like a vault, with updates that have no privacy protection.

    Args:
        organization: name and public size.
        records: its encoded records.
        model: the base model with the plan's LoRA layers, at the organization's rank.
        plan: of the run.
        entropy: the source of randomness for sampling.
    """

    def __init__(
        self, organization: Organization, records: EncodedRecords, model: LoraModel, plan: Plan, entropy: Entropy
    ) -> None:
        self._organization = organization
        self._model = model
        self._plan = plan
        self._entropy = entropy
        self._task = make_task(plan.task, model.tokenizer)
        self._max_tokens = organization.vault.micro_batch_tokens(model.width)
        worker = Worker(model, self._task, plan, self._max_tokens)
        self._precision = worker.verify()
        worker.settle((self._precision, {}))
        self._units = FrozenUnits(self._task, records.units, worker.vectors)

    def describe(self) -> Description:
        """The same description as a vault's."""
        return self._organization.description()

    def train(self, request: TrainRequest) -> Release:
        """Train as the vault does, on the same kind of sample, with the plain mean over a unit's examples."""
        plan, model = self._plan, self._model
        before = decode_adapter(request, plan, model)
        model.load(before)
        head_only = plan.training.is_head_alone(request.round)
        parameters = model.trained_parameters(head_only=head_only)
        units = self._units.of_round(before, head_only=head_only)
        optimizer = make_optimizer(plan, parameters, request.round)
        task = self._task
        stream = self._entropy.stream(self._organization.name, request.run, request.round)
        rate = sample_rate(plan.training.batch_size, self._organization.data.public_size)
        for _ in range(plan.training.local_steps):
            drawn = poisson_sample(units, rate, stream.branch())
            choices = stream.branch()
            sample = [choose_examples(unit, plan.privacy.records_per_user, choices) for unit in drawn]
            for batch, owners in micro_batches(sample, self._max_tokens):
                with computing_in(self._precision, device_of(model.module)):
                    losses = task.losses(model.module, batch.examples, batch.length)
                shares = torch.tensor([1 / len(sample[owner]) for owner in owners], device=losses.device)
                loss = (losses * shares).sum() / plan.training.batch_size
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        return Release(encode_update(model, before, plan, stream))

    def statement(self, run: str) -> Statement:
        """Always refused: there is no finite ε to state."""
        raise Refused("policy", f"run {run} has no privacy to state")
