"""organization.toml: the data, models and policy of one organization. A plan cannot relax any of it."""

from __future__ import annotations

import math
from typing import Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from common.errors import Refused
from common.plan.lora import MOST_RANK
from common.plan.plan import Name, Plan
from common.plan.task import Kind
from common.protocol.protocol import Description
from common.settings import Section, SettingsFile

Entity = Literal["email", "phone", "card", "iban", "national-id", "date", "url", "ip-address", "address"]
Language = Literal["en", "zh"]
# Of a micro-batch, where nothing else is known.
_TOKENS = 512


class Anonymize(Section):
    """If this table is present, personal data is replaced by tokens such as <EMAIL> before records are encoded.

    It is not part of the privacy guarantee and does not detect names: docs/anonymize.md. It needs the extra
    `anonymize`. `sotto client anonymize --preview` shows its effect.
    """

    entities: list[Entity] = Field(default=list(get_args(Entity)), min_length=1)
    """Kinds of personal data to replace."""
    languages: list[Language] = Field(default=list(get_args(Language)), min_length=1)
    """Languages of the recognized dates, street addresses and mobile numbers. All else does not depend on this."""
    phone_regions: list[str] = ["US", "GB", "CN"]
    """Two-letter codes of the countries whose telephone numbers are recognized without a country code."""
    fields: list[str] | None = Field(default=None, min_length=1, examples=[["letter"]])
    """The fields to search, by their names in the records; by default every text field that a plan reads. The
    field with the class, and the user field for grouping, are never changed."""


class Data(Section):
    """The private records. Of these settings, only `unit` and `public_size` ever leave the vault."""

    train: str = Field(examples=["records.jsonl"])
    """JSON Lines (.jsonl) or CSV with a header line (.csv), both in UTF-8 and optionally compressed (.gz);
    .parquet; or a folder of the datasets library."""
    fields: dict[str, str] | None = Field(default=None, examples=[{"text": "letter", "label": "outcome"}])
    """Maps field names that plans use to field names in the records."""
    unit: Literal["example", "user"] = "example"
    """The unit of privacy, fixed for ever: "example" is one record, "user" is one user with all their records.
    Plans with the other unit are refused."""
    user_field: str | None = Field(default=None, min_length=1, examples=["patient"])
    """Required with unit = "user", and only allowed then: the field that identifies the user, a text or integer.
    Values are compared exactly: 1, "1" and " 1" are three users. A record without it is never used."""
    public_size: PositiveInt = Field(examples=[10000])
    """The number of units (records or users) that you are willing to publish; it determines the sample rates. Do
    not use the true count."""
    anonymize: Anonymize | None = None

    @model_validator(mode="after")
    def _only_users_have_a_field(self) -> Data:
        if self.unit == "user" and self.user_field is None:
            raise ValueError(
                'user_field is missing: unit = "user" needs the record field that identifies the user'
            )
        if self.unit != "user" and self.user_field is not None:
            raise ValueError(f'user_field = {self.user_field!r} needs unit = "user"')
        return self


class Policy(Section):
    """Limits on what a plan may ask for."""

    max_epsilon: float = Field(gt=0, examples=[8.0])
    """The lifetime cap: ε over all runs, composed as in `composition`. The ledger keeps it. A lower value here
    applies when the vault starts; with a higher one, the vault does not start before `sotto privacy raise-cap`
    has recorded the raise, which all later statements mention."""
    max_epsilon_per_run: float = Field(gt=0, examples=[4.0])
    """ε of one run."""
    max_delta: float = Field(gt=0, lt=1, examples=[1e-5])
    """The δ of the lifetime cap, kept in the ledger like max_epsilon. basic: the δ's of runs add up to at most
    this. renyi: the δ at which the ε of all runs together is computed. It must be below 1 / public_size."""
    min_noise_multiplier: float = Field(default=0.3, gt=0)
    """σ is never below this, however small an ε would allow it."""
    composition: Literal["basic", "renyi"] = "basic"
    """How the costs of runs are composed, for ever. basic: Σε and Σδ. renyi: the Rényi divergences of runs are
    added up and converted to one ε; more for one run, much less for many."""
    plans: Literal["approved", "any-within-policy"] = "approved"
    """approved: as many runs of a plan as `sotto client approve` recorded. any-within-policy: any plan that this
    section allows."""
    approvals: str = "approved-plans.txt"
    """The file of approved plans."""
    tasks: list[Kind] = list(get_args(Kind))
    """Kinds of task that are allowed."""
    max_rounds: PositiveInt = 1000
    """Maximum number of rounds."""
    max_steps: PositiveInt = 20000
    """Maximum of rounds × local_steps."""
    max_length: PositiveInt = 8192
    """Maximum of task.max_length. Memory grows with it, for some models with its square."""


class VaultSection(Section):
    """The process that opens the records."""

    socket: str = "vault.sock"
    """The socket for the relay; its path has at most 107 bytes. Only the vault's user may connect, unless `group`
    is set."""
    group: str | None = Field(default=None, examples=["sotto"])
    """A system group that may also connect, so that the relay can run as another user."""
    ledger: str = "ledger.db"
    """The record of all costs and releases. Keep it as long as the data."""
    statement_key: str = "keys/statement.key"
    """Signs ledger and statements; created by `sotto client keys`. Keep it as long as the ledger."""
    device: str = "cpu"
    """The device to train on: "cpu", "cuda", "cuda:0"."""
    devices: list[str] | None = Field(default=None, min_length=1, examples=[["cuda:0", "cuda:1"]])
    """Several devices of one kind to train on, in place of `device`."""
    workers: PositiveInt | None = Field(default=None, examples=[2])
    """The processes that compute gradients, each on one thread of the processor, or spread over the devices. By
    default one on each core that the vault may use and memory holds, or one on each GPU. Any number gives the same
    bits."""
    max_rank: int | None = Field(default=None, ge=1, le=MOST_RANK, examples=[4])
    """The largest LoRA rank to train; public. A plan with a larger rank needs a lora.min_rank that permits it."""
    max_tokens: PositiveInt | None = Field(default=None, examples=[512])
    """Padded tokens per micro-batch: raise it on a large device, lower it if memory runs out. By default 512 on a
    GPU, and on the processor from 1,024 for base models of width 96 to 128 for 768 and more. A partial micro-batch
    is padded to full size, so that a lower value wastes less on small samples."""
    reply_seconds: float | None = Field(default=None, gt=0, examples=[600.0])
    """A round is released no earlier than this after its training began, so that its time does not depend on which
    records were drawn. `sotto client check --plan` estimates what is enough; by default nothing waits."""

    @property
    def training_devices(self) -> list[str]:
        """Where gradients are computed."""
        return self.devices or [self.device]

    def micro_batch_tokens(self, width: int | None = None) -> int:
        """Padded tokens per micro-batch: `max_tokens`, or what suits a base model of a width.

        Args:
            width: of its vectors; None if it is not known.

        >>> VaultSection().micro_batch_tokens(384), VaultSection(max_tokens=100).micro_batch_tokens(384)
        (256, 100)
        """
        if self.max_tokens is not None:
            return self.max_tokens
        if width is None or self.training_devices[0] != "cpu":
            return _TOKENS
        # A thread computes as long for a micro-batch of each, and what an operation costs besides matters little.
        return int(min(1024, max(128, 2 ** round(math.log2(98304 / width)))))

    @model_validator(mode="after")
    def _one_way_to_name_devices(self) -> VaultSection:
        if self.devices is not None and "device" in self.model_fields_set:
            raise ValueError(f"devices = {self.devices}, device = {self.device!r}: only one of them should be set")
        return self


class Organization(SettingsFile):
    """One organization, read by its vault only. Paths are relative to this file."""

    name: Name = Field(examples=["st-mary"])
    """The name in reports: at most 40 lower-case letters, digits and hyphens."""
    data: Data
    models: dict[str, str] = Field(examples=[{"HuggingFaceTB/SmolLM2-135M": "/models/smollm2-135m"}])
    """The base models that plans may name, and their local folders."""
    policy: Policy
    vault: VaultSection = VaultSection()

    @model_validator(mode="after")
    def _delta_protects_each_record(self) -> Organization:
        if self.policy.max_delta >= 1 / self.data.public_size:
            raise ValueError(
                f"policy.max_delta = {self.policy.max_delta} should be below 1 / public_size = "
                f"{1 / self.data.public_size:.2g}: above it, publishing whole records would be allowed"
            )
        return self

    def description(self) -> Description:
        """The public description that is sent before any run."""
        return Description(self.name, self.data.unit, self.data.public_size, self.vault.max_rank)

    def local_plan(self, plan: Plan) -> Plan:
        """The plan as it is trained here: at this organization's rank, if the plan allows it."""
        return plan.at_rank(plan.lora.own_rank(self.vault.max_rank))

    def model_folder(self, plan: Plan) -> str:
        """The local folder of the plan's base model.

        Raises:
            Refused: the policy does not list it.
        """
        try:
            return str(self.path(self.models[plan.model.base]))
        except KeyError:
            raise Refused(
                "model-not-allowed", f"model.base = {plan.model.base!r} is not listed in [models]"
            ) from None
