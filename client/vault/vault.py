"""The vault: the boundary around one organization's records.

Nothing in a request is trusted. The steps, in this order: decode the request, answer from the ledger if the round
was settled before, check the policy, verify the model's per-example gradients, decode the adapter, charge the
whole run, encode the records, train, store the release, answer. No record is accessed before the charge, and no
refusal depends on a record.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation, count_runs
from client.vault.policy.approval import Approvals
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap, run_mechanism
from client.vault.preparation import ModelLoader, PlanPreparation, PreparedPlan
from client.vault.release import decode_adapter, encode_update
from client.vault.reply_time import ReplyTime
from client.vault.statements import make_statement
from client.vault.training.dp_sgd import Step, take_steps
from client.vault.training.entropy import Entropy
from client.vault.training.optimizer import make_optimizer
from client.vault.training.rows_cache import RowsCache
from client.vault.workers.compute import Compute
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
    """Holds the records of one organization; see the module docstring.

    Args:
        organization: the organization's settings: policy and public numbers.
        records: the private records.
        ledger: the organization's ledger; the vault is its only writer.
        load_model: loads the base model in a folder and adds a plan's LoRA layers, at the organization's rank.
        entropy: the source of keystreams. Only simulations and tests pass anything but `SystemEntropy`.
        boundary: what separates the records from the network, as recorded in statements.
        compute: who computes gradients; None for this process.

    Raises:
        InputError: anonymization is configured but not available on this machine, the policy's lifetime cap is
            higher than the ledger's, or a line of the approved plans cannot be read.
    """

    def __init__(
        self,
        organization: Organization,
        records: Sequence[Record],
        ledger: Ledger,
        load_model: ModelLoader,
        entropy: Entropy,
        boundary: str,
        compute: Compute | None = None,
    ) -> None:
        self._organization = organization
        self._ledger = ledger
        self._entropy = entropy
        self._boundary = boundary
        ledger.cap.set_or_lower(lifetime_cap(organization))
        self._approvals = Approvals(organization.path(organization.policy.approvals))
        if organization.policy.plans == "approved":
            self._approvals.read()
        self._preparation = PlanPreparation(
            organization, records, load_model, RowsCache(ledger.path.with_name("rows.json")), compute or Compute()
        )

    def describe(self) -> Description:
        """Name, unit, public size and largest rank."""
        return self._organization.description()

    def train(self, request: TrainRequest) -> Release:
        """Train one round and release the noised update.

        A repeated request gets the stored release and costs nothing.

        Raises:
            Refused: with a reason code of `common.protocol.protocol.REASONS`; nothing was released.
            sqlite3.Error: the ledger cannot be written, for example on a full disk; nothing was released.
        """
        plan = self._read_plan(request)
        self._ledger.check_seen(request.seen)
        stored = self._ledger.released(request.run, request.round, request.digest())
        if stored is not None:
            return Release(stored, self._ledger.head)
        self._check_approved(request, plan)
        reservation = self._reservation(request, plan)
        prepared = self._preparation.prepare(self._organization.local_plan(plan), request.fingerprint)
        adapter = decode_adapter(request, plan, prepared.model)
        # A run keeps the mechanism that it was charged for, even if the policy has changed since.
        charged = self._ledger.reserve(reservation)
        reply_time = ReplyTime(self._organization.vault.reply_seconds)
        try:
            update = self._train(plan, charged, prepared, adapter, request)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # no failure may tell of a record; a panic in Rust is no Exception
            reply_time.wait()
            # The text of the error goes nowhere, not even into the log: it may contain values of records.
            _log.error("round %d of %s failed: %s", request.round, request.run, failure(error))
            raise Refused("training-failed", f"round {request.round} of {request.run}") from None
        # Before it is settled: a statement shows the ledger's newest entry, at any time.
        reply_time.wait()
        self._ledger.settle(request.run, request.round, request.digest(), plan.training.local_steps, update)
        _log.info("round %d of %s is trained; releasing %d bytes", request.round, request.run, len(update))
        return Release(update, self._ledger.head)

    def statement(self, run: str) -> Statement:
        """What a run cost this organization, from the ledger.

        Raises:
            Refused: the run was never reserved here.
        """
        reservation = self._ledger.find(run)
        if reservation is None:
            raise Refused("malformed-request", f"run {run[:80]} was never reserved here")
        return make_statement(self._organization, self._ledger, reservation, self._boundary)

    def _check_approved(self, request: TrainRequest, plan: Plan) -> None:
        """Refuse a new run that no approval covers. A charged run continues even if its approval is withdrawn."""
        if self._organization.policy.plans == "approved" and self._ledger.find(request.run) is None:
            self._approvals.check(plan, count_runs(self._ledger.runs(), plan.digest()))

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
            raise Refused("malformed-request", "the run's id should be 1 to 80 printable ASCII characters")
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
        self, plan: Plan, charged: Reservation, prepared: PreparedPlan, adapter: Adapter, request: TrainRequest
    ) -> bytes:
        """Train the round; returns the noised update as it is released."""
        model, trainer, units = prepared.model, prepared.trainer, prepared.units()
        head_only = plan.training.is_head_alone(request.round)
        clipping_norm = plan.privacy.clipping_norm
        step = Step(
            sample_rate=charged.mechanism.sample_rate,
            batch_size=plan.training.batch_size,
            clipping_norm=clipping_norm,
            noise_multiplier=charged.mechanism.noise_multiplier,
            examples_per_unit=plan.privacy.records_per_user,
        )
        stream = self._entropy.stream(self._organization.name, request.run, request.round)
        used = units.of_round(adapter, head_only=head_only)
        with trainer.round(adapter, head_only=head_only, clipping_norm=clipping_norm) as sum_of:
            parameters = model.trained_parameters(head_only=head_only)
            optimizer = make_optimizer(plan, parameters, request.round)
            take_steps(sum_of, parameters, used, step, plan.training.local_steps, optimizer, stream)
        return encode_update(model, adapter, plan, stream)
