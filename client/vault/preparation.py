"""What the rounds of a plan need: its model, which is verified before any spend, and the encoded records."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from client.vault.policy.organization import Organization
from client.vault.records.anonymize import cover, open_anonymizer
from client.vault.records.units import encode
from client.vault.training.features import FrozenUnits
from client.vault.training.per_example import GuaranteeError
from client.vault.training.verification import verified_precision
from common.errors import InputError, Refused
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.records import Record
from common.tasks import Task, make_task

_log = logging.getLogger(__name__)

ModelLoader = Callable[[str, Plan], LoraModel]


@dataclass
class Prepared:
    """What plans of one model, task and adapter need, kept from round to round and from run to run.

    Attributes:
        model: with the plan's LoRA layers.
        task: of the plan.
        precision: of the model's matrix products.
    """

    model: LoraModel
    task: Task
    precision: torch.dtype
    _encode: Callable[[], FrozenUnits]
    _units: FrozenUnits | None = field(default=None, init=False)

    def units(self) -> FrozenUnits:
        """The encoded records. They are read when this is first called: after a run was charged."""
        if self._units is None:
            self._units = self._encode()
        return self._units


class Preparation:
    """Loads and verifies models, and encodes records for them.

    Args:
        organization: its file.
        records: the private records.
        load_model: gives the base model of a folder with a plan's LoRA layers, at the organization's rank.

    Raises:
        InputError: records should be anonymized, and that cannot be done here.
    """

    def __init__(self, organization: Organization, records: list[Record], load_model: ModelLoader) -> None:
        self._organization = organization
        self._records = records
        self._load_model = load_model
        self._anonymizer = open_anonymizer(organization)
        self._prepared: dict[str, Prepared] = {}

    def verified(self, plan: Plan, fingerprint: str) -> Prepared:
        """The model for a plan. No record is touched.

        Args:
            plan: at the organization's own rank.
            fingerprint: of the coordinator's base model.

        Raises:
            Refused: the model is another one or cannot be used, or its training would not train what it says.
        """
        key = _model_key(plan)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._load(plan, fingerprint)
            # One model at a time: what an earlier plan needed is let go.
            self._prepared = {key: prepared}
        _check_fingerprint(prepared.model, fingerprint)
        return prepared

    def _load(self, plan: Plan, fingerprint: str) -> Prepared:
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

        def encoded() -> FrozenUnits:
            data, vault = self._organization.data, self._organization.vault
            units = encode(self._records, task, data.user_field, cover(self._anonymizer, plan.task)).units
            return FrozenUnits(task, units, vault.max_tokens, precision)

        return Prepared(model, task, precision, encoded)


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
