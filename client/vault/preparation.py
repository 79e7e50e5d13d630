"""What the rounds of a plan need: its model, verified before any budget is spent, and the encoded records."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from client.vault.policy.organization import Organization
from client.vault.records.anonymize import open_anonymizer, record_transform
from client.vault.records.units import encode
from client.vault.training.dp_sgd import noise_bytes
from client.vault.training.entropy import STREAM_LIMIT
from client.vault.training.errors import GuaranteeError
from client.vault.training.features import FrozenUnits
from client.vault.training.rows_cache import RowsCache, rows_key
from client.vault.workers.compute import Compute
from client.vault.workers.worker import Rounding, Trainer
from common.errors import InputError, Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.records import Record
from common.tasks import Task, make_task

_log = logging.getLogger(__name__)

ModelLoader = Callable[[str, Plan], LoraModel]


@dataclass
class PreparedPlan:
    """Model, task and encoded records, shared by all rounds and runs whose plans agree on model, task and adapter.

    Attributes:
        model: the base model with the plan's LoRA layers.
        task: the plan's task.
        trainer: computes its gradients.
    """

    model: LoraModel
    task: Task
    trainer: Trainer
    _encode: Callable[[], FrozenUnits]
    _units: FrozenUnits | None = field(default=None, init=False)

    def units(self) -> FrozenUnits:
        """The encoded records, encoded at the first call. Call it only after the run has been charged."""
        if self._units is None:
            self._units = self._encode()
        return self._units


class PlanPreparation:
    """Loads and verifies models, and encodes records for them.

    Args:
        organization: the organization's settings.
        records: the private records.
        load_model: loads the base model in a folder and adds a plan's LoRA layers, at the organization's rank.
        rows: results of the check of rows.
        compute: makes the trainers.

    Raises:
        InputError: anonymization is configured but not available on this machine.
    """

    def __init__(
        self,
        organization: Organization,
        records: Sequence[Record],
        load_model: ModelLoader,
        rows: RowsCache,
        compute: Compute,
    ) -> None:
        self._organization = organization
        self._records = records
        self._load_model = load_model
        self._rows = rows
        self._compute = compute
        self._anonymizer = open_anonymizer(organization)
        self._cache: dict[str, PreparedPlan] = {}

    def prepare(self, plan: Plan, fingerprint: str) -> PreparedPlan:
        """Load and verify the model for a plan, or return it from the cache. No record is read.

        Args:
            plan: the plan, at the organization's rank.
            fingerprint: fingerprint of the coordinator's base model.

        Raises:
            Refused: the model differs from the coordinator's, cannot be used with this plan, its per-example
                gradients are not exact, or a round needs more noise than one keystream has.
        """
        key = _model_key(plan)
        prepared = self._cache.get(key)
        if prepared is None:
            prepared = self._load(plan, fingerprint)
            # One model at a time: release the memory of an earlier plan.
            self._cache = {key: prepared}
        _check_fingerprint(prepared.model, fingerprint)
        _check_keystream(plan, prepared.model)
        return prepared

    def _load(self, plan: Plan, fingerprint: str) -> PreparedPlan:
        folder = self._organization.model_folder(plan)
        try:
            model = self._load_model(folder, plan)
            task = make_task(plan.task, model.tokenizer)
        except InputError as error:
            # Its text may contain paths of this machine.
            _log.error("%s", error)
            raise Refused(
                "policy", f"model.base = {plan.model.base!r} cannot be used here with this plan"
            ) from None
        _check_fingerprint(model, fingerprint)
        max_tokens = self._organization.vault.micro_batch_tokens(model.width)
        trainer = self._compute.trainer(folder, model, task, plan, max_tokens, _model_key(plan))
        try:
            settle(trainer, model, plan, max_tokens, self._rows)
        except GuaranteeError as error:
            # The verification used synthetic examples only, so the text may leave the vault.
            raise Refused("not-trainable", str(error)) from None

        def encode_records() -> FrozenUnits:
            field = self._organization.data.user_field
            transform = record_transform(self._anonymizer, plan.task)
            return FrozenUnits(task, encode(self._records, task, field, transform).units, trainer.vectors)

        return PreparedPlan(model, task, trainer, encode_records)


def rows_cache(organization: Organization, *, read_only: bool = False) -> RowsCache:
    """What is known of the rows on this machine, beside the organization's ledger."""
    path = organization.path(organization.vault.ledger).with_name("rows.json")
    return RowsCache(path, read_only=read_only)


def settle(trainer: Trainer, model: LoraModel, plan: Plan, max_tokens: int, cache: RowsCache) -> Rounding:
    """Verify a trainer's gradients, and fix what their rounding depends on.

    Args:
        trainer: of the model.
        model: with the layers of `plan`.
        plan: the plan, at the organization's rank.
        max_tokens: padded tokens of a micro-batch.
        cache: of the check of rows, which is slow.

    Returns:
        Precision of the matrix products, and padded length → rows, for the shapes that need fewer than
        `max_tokens` allows.

    Raises:
        GuaranteeError: see `verified_precision` and `checked_rows`.
    """
    if trainer.settled is not None:  # by another vault of the same simulation
        return trainer.settled
    precision = trainer.verify()
    key = rows_key(model.fingerprint, _model_key(plan), trainer.device, max_tokens, precision)
    fewer_rows = cache.get(key, lambda: trainer.check_rows(precision))
    trainer.settle((precision, fewer_rows))
    return precision, fewer_rows


def _model_key(plan: Plan) -> str:
    """A cache key: equal for plans that can share a loaded model and encoded records."""
    parts = (
        plan.model.model_dump_json(),
        plan.task.model_dump_json(),
        plan.lora.model_dump_json(),
        plan.aggregation.method,
        str(plan.training.gradient_checkpointing),
        plan.training.precision,
        # Which rounds there are: of the head alone, and of the adapter.
        str((plan.training.head_rounds > 0, plan.training.head_rounds < plan.training.rounds)),
    )
    return "\n".join(parts)


def _check_fingerprint(model: LoraModel, expected: str) -> None:
    if model.fingerprint != expected:
        raise Refused(
            "model-differs",
            f"the coordinator's base model has fingerprint {expected[:12]!r}…, the organization's "
            f"{model.fingerprint[:12]!r}…",
        )


def _check_keystream(plan: Plan, model: LoraModel) -> None:
    """Refuse a round whose noise one keystream cannot give: it would fail after the charge."""
    size = sum(math.prod(shape) for shape in model.trained_shapes.values())
    most = STREAM_LIMIT // noise_bytes(size)
    if plan.training.local_steps > most:
        raise Refused(
            "policy",
            f"training.local_steps = {plan.training.local_steps}: at most {most} steps a round are possible with "
            f"{size} trained numbers",
        )
