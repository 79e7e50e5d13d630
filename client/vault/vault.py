"""The vault: the boundary around one organization's records.

It trusts nothing in a request. In this order: read the request, answer from the ledger if the round was settled
before, ask the policy, check that training trains, charge the whole run, train, store the release, answer.
No refusal depends on a record.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.approval import Approvals
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap, run_mechanism
from client.vault.records.anonymize import cover, open_anonymizer
from client.vault.records.units import encode
from client.vault.release import received, released
from client.vault.training.dp_sgd import GuaranteeError, Parameters, Step, train
from client.vault.training.entropy import Entropy
from client.vault.training.features import FrozenUnits
from client.vault.training.verification import verified_precision
from common.adapter.adapter import Adapter, is_lora
from common.errors import InputError, Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Lifetime, Statement
from common.records import Record
from common.system.redaction import failure
from common.tasks import Task, make_task

_log = logging.getLogger(__name__)

ModelLoader = Callable[[str, Plan], LoraModel]


@dataclass(frozen=True)
class _Prepared:
    """What plans of one model, task and adapter need, kept from round to round and from run to run."""

    model: LoraModel
    task: Task
    units: FrozenUnits
    precision: torch.dtype


class Vault:
    """Guards the records of one organization; see the module's text.

    Args:
        organization: its file: policy, public numbers.
        records: the private records.
        ledger: its ledger; the vault is the only writer.
        load_model: gives the base model of a folder with a plan's LoRA layers, at the organization's rank.
        entropy: where keystreams come from. Only simulations and tests pass anything but `SystemEntropy`.
        boundary: what separates the records from the network, as the statements say it.

    Raises:
        InputError: records should be anonymized, and that cannot be done here.
    """

    def __init__(
        self,
        organization: Organization,
        records: list[Record],
        ledger: Ledger,
        load_model: ModelLoader,
        entropy: Entropy,
        boundary: str,
    ) -> None:
        self._organization = organization
        self._records = records
        self._ledger = ledger
        self._load_model = load_model
        self._entropy = entropy
        self._boundary = boundary
        self._anonymizer = open_anonymizer(organization)
        self._prepared: dict[str, _Prepared] = {}

    def describe(self) -> Description:
        """Name, unit, public size and largest rank."""
        return self._organization.description()

    def train(self, request: TrainRequest) -> Release:
        """Train one round and release the noised update.

        The same request again gets the stored release, and costs nothing.

        Raises:
            Refused: with a reason code of `common.protocol.protocol.REASONS`; nothing was released.
            sqlite3.Error: the ledger cannot be written, on a full disk for instance; nothing was released.
        """
        plan = self._read_plan(request)
        self._ledger.check_seen(request.seen)
        stored = self._ledger.released(request.run, request.round, request.digest())
        if stored is not None:
            return Release(stored, self._ledger.head)
        self._check_approved(request, plan)
        reservation = self._reservation(request, plan)
        prepared = self._prepare(self._organization.own_plan(plan), request.fingerprint)
        adapter = received(request, plan, prepared.model)
        # A run keeps the mechanism that it was charged for, also if the policy has changed since.
        charged = self._ledger.reserve(reservation, lifetime_cap(self._organization))
        try:
            update = self._train(plan, charged, prepared, adapter, request)
        except Exception as error:
            # Whatever it is, its text goes nowhere, not even into the log: it may hold values of records.
            _log.error("round %d of %s failed: %s", request.round, request.run, failure(error))
            raise Refused("training-failed", f"round {request.round} of {request.run}") from None
        self._ledger.settle(request.run, request.round, request.digest(), plan.training.local_steps, update)
        _log.info("round %d of %s is trained; %d bytes may leave", request.round, request.run, len(update))
        return Release(update, self._ledger.head)

    def statement(self, run: str) -> Statement:
        """What a run costs this organization, from the ledger.

        Raises:
            Refused: the run was never reserved here.
        """
        reservation = self._ledger.find(run)
        if reservation is None:
            raise Refused("malformed-request", f"run {run[:80]} was never reserved here")
        data, cap = self._organization.data, lifetime_cap(self._organization)
        statement = Statement(
            organization=self._organization.name,
            run=run,
            plan=reservation.plan,
            fingerprint=reservation.fingerprint,
            unit=data.unit,
            public_size=data.public_size,
            mechanisms=(reservation.mechanism,),
            epsilon=reservation.epsilon,
            delta=reservation.delta,
            lifetime=Lifetime(cap.spent(self._ledger.spent()), cap.epsilon, cap.delta, cap.accountant),
            boundary=self._boundary,
            versions=_versions(),
            head=self._ledger.head,
            key=self._ledger.public_key,
        )
        return replace(statement, signature=self._ledger.sign(statement.signed_bytes()))

    def _check_approved(self, request: TrainRequest, plan: Plan) -> None:
        """A run that was charged goes on, also when the approval of its plan was taken back."""
        policy = self._organization.policy
        if policy.plans == "any-within-policy" or self._ledger.find(request.run) is not None:
            return
        if plan not in Approvals(self._organization.path(policy.approvals)):
            raise Refused("plan-not-approved", f"plan {plan.name}, digest {plan.digest()[:12]}")

    def _read_plan(self, request: TrainRequest) -> Plan:
        try:
            plan = Plan.from_canonical(request.plan)
        except InputError as error:
            raise Refused("malformed-request", str(error)) from None
        if not 1 <= request.round <= plan.training.rounds:
            raise Refused(
                "malformed-request", f"round = {request.round}; the plan has {plan.training.rounds} rounds"
            )
        if not 1 <= len(request.run) <= 80 or not request.run.isascii() or not request.run.isprintable():
            raise Refused("malformed-request", "the run's id should be at most 80 printable characters")
        return plan

    def _reservation(self, request: TrainRequest, plan: Plan) -> Reservation:
        mechanism = run_mechanism(self._organization, plan)
        return Reservation(
            run=request.run,
            plan=plan.digest(),
            fingerprint=request.fingerprint,
            mechanism=mechanism,
            epsilon=epsilon(mechanism, plan.privacy.delta),
            delta=plan.privacy.delta,
            rounds=plan.training.rounds,
        )

    def _prepare(self, plan: Plan, fingerprint: str) -> _Prepared:
        """Model and records for a plan, at our own rank; checks before any spend that training trains."""
        key = _model_key(plan)
        prepared = self._prepared.get(key)
        if prepared is None:
            folder = self._organization.model_folder(plan)
            try:
                model = self._load_model(folder, plan)
                task = make_task(plan.task, model.tokenizer)
            except InputError as error:
                # Its text may name folders of this machine.
                _log.error("%s", error)
                raise Refused(
                    "policy", f"model.base = {plan.model.base!r} cannot be used here with this plan"
                ) from None
            _check_fingerprint(model, fingerprint)
            try:
                precision = verified_precision(model, task, plan)
            except GuaranteeError as error:
                # It was found on made-up examples, so that its text may leave.
                raise Refused("not-trainable", str(error)) from None
            user_field = self._organization.data.user_field
            encoded = encode(self._records, task, user_field, cover(self._anonymizer, plan.task))
            units = FrozenUnits(task, encoded.units, self._organization.vault.max_tokens, precision)
            prepared = _Prepared(model, task, units, precision)
            # One model at a time: what an earlier plan needed is let go.
            self._prepared = {key: prepared}
        _check_fingerprint(prepared.model, fingerprint)
        return prepared

    def _train(
        self, plan: Plan, charged: Reservation, prepared: _Prepared, adapter: Adapter, request: TrainRequest
    ) -> bytes:
        """The noised update as it is released."""
        model = prepared.model
        model.load(adapter)
        head_only = plan.training.is_head_alone(request.round)
        parameters = model.trained_parameters(head_only=head_only)
        step = Step(
            sample_rate=charged.mechanism.sample_rate,
            batch_size=plan.training.batch_size,
            clipping_norm=plan.privacy.clipping_norm,
            noise_multiplier=charged.mechanism.noise_multiplier,
            examples_per_unit=plan.privacy.records_per_user,
            max_tokens=self._organization.vault.max_tokens,
            precision=prepared.precision,
        )
        stream = self._entropy.stream(self._organization.name, request.run, request.round)
        train(
            model.module,
            parameters,
            prepared.task,
            prepared.units.of_round(model.module, adapter, head_only=head_only),
            step,
            plan.training.local_steps,
            make_optimizer(plan, parameters, request.round),
            stream,
        )
        return released(model, adapter, plan, stream)


def _versions() -> dict[str, str]:
    names = ("sotto", "opacus", "torch", "peft", "transformers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _model_key(plan: Plan) -> str:
    """Equal for plans that can share a loaded model and encoded records."""
    parts = (
        plan.model.model_dump_json(),
        plan.task.model_dump_json(),
        plan.lora.model_dump_json(),
        plan.aggregation.method,
        str(plan.training.gradient_checkpointing),
        plan.training.precision,
    )
    return "\n".join(parts)


def _check_fingerprint(model: LoraModel, expected: str) -> None:
    if model.fingerprint != expected:
        raise Refused(
            "model-differs",
            f"the coordinator's base model begins {expected[:12]!r}, ours {model.fingerprint[:12]!r}",
        )


def make_optimizer(plan: Plan, parameters: Parameters, round_number: int) -> torch.optim.Optimizer:
    """The local optimizer of a round, without any state; a head has its own learning rate."""
    training = plan.training
    groups: list[dict[str, Any]] = [
        {"params": [parameter for name, parameter in parameters.items() if is_lora(name) == lora], "lr": rate}
        for lora, rate in ((True, training.rate(round_number)), (False, training.head_rate(round_number)))
    ]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=training.momentum)
    return torch.optim.AdamW(groups, weight_decay=0.0)
