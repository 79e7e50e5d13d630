"""The vault: the boundary around one organization's records.

It trusts nothing in a request. In this order: read the request, answer from the ledger if the round was settled
before, ask the policy, check that training trains, read the adapter, charge the whole run, encode the records,
train, store the release, answer. Nothing touches a record before the charge, and no refusal depends on one.
"""

from __future__ import annotations

import logging

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.approval import Approvals
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap, run_mechanism
from client.vault.preparation import ModelLoader, Preparation, Prepared
from client.vault.release import received, released
from client.vault.statements import make_statement
from client.vault.training.dp_sgd import Step, train
from client.vault.training.entropy import Entropy
from client.vault.training.optimizer import make_optimizer
from common.adapter.adapter import Adapter
from common.errors import InputError, Refused
from common.plan.plan import Plan
from common.privacy.accounting import epsilon
from common.protocol.protocol import Description, Release, TrainRequest
from common.protocol.statement import Statement
from common.records import Record
from common.system.redaction import failure

_log = logging.getLogger(__name__)


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
        self._ledger = ledger
        self._entropy = entropy
        self._boundary = boundary
        self._preparation = Preparation(organization, records, load_model)

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
        prepared = self._preparation.verified(self._organization.own_plan(plan), request.fingerprint)
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
        return make_statement(self._organization, self._ledger, reservation, self._boundary)

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

    def _train(
        self, plan: Plan, charged: Reservation, prepared: Prepared, adapter: Adapter, request: TrainRequest
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
            prepared.units().of_round(model.module, adapter, head_only=head_only),
            step,
            plan.training.local_steps,
            make_optimizer(plan, parameters, request.round),
            stream,
        )
        return released(model, adapter, plan, stream)
