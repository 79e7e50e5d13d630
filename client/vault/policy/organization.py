"""organization.toml: what one organization holds and what it allows. The plan cannot loosen any of it."""

from __future__ import annotations

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


class Anonymize(Section):
    """With this table, what names a person gives way to tokens such as <EMAIL> before records are encoded.

    It is no part of the guarantee and finds no names: docs/anonymize.md. It needs the extra `anonymize`. `sotto
    client anonymize --preview` shows what it does.
    """

    entities: list[Entity] = Field(default=list(get_args(Entity)), min_length=1)
    """What is replaced."""
    languages: list[Language] = Field(default=list(get_args(Language)), min_length=1)
    """Whose dates, street addresses and mobile numbers are known. All else is looked for in every language."""
    phone_regions: list[str] = ["US", "GB", "CN"]
    """Countries whose telephone numbers are known without a country code, by their two letters."""
    fields: list[str] | None = Field(default=None, min_length=1, examples=[["letter"]])
    """The records' own names of the fields that are looked at. If it is missing: whatever a plan reads. The field
    with the class, and the user for grouping, are always taken as they are."""


class Data(Section):
    """The private records. Nothing here but `unit` and `public_size` ever leaves."""

    train: str = Field(examples=["records.jsonl"])
    """JSON Lines (.jsonl) or CSV with a line of names (.csv), both in UTF-8 and perhaps with .gz; .parquet; or a
    folder of the datasets library."""
    fields: dict[str, str] | None = Field(default=None, examples=[{"text": "letter", "label": "outcome"}])
    """Names that plans use, and what these fields are called in the records."""
    unit: Literal["example", "user"] = "example"
    """What is protected, for ever: "example" is one record, "user" is one user with all their records. Plans with
    the other unit are refused."""
    user_field: str | None = Field(default=None, min_length=1, examples=["patient"])
    """With unit = "user", and only then: the record field that names the user, a text or an integer, compared as
    it is: 1, "1" and " 1" are three users. A record without it is never used."""
    public_size: PositiveInt = Field(examples=[10000])
    """Units (records, or users) that you are willing to publish; sample rates come from it. Do not copy the true
    count."""
    anonymize: Anonymize | None = None

    @model_validator(mode="after")
    def _only_users_have_a_field(self) -> Data:
        if self.unit == "user" and self.user_field is None:
            raise ValueError('user_field is missing: unit = "user" needs the record field that names the user')
        if self.unit != "user" and self.user_field is not None:
            raise ValueError(f'user_field = {self.user_field!r} needs unit = "user"')
        return self


class Policy(Section):
    """What a plan may ask for at most."""

    max_epsilon: float = Field(gt=0, examples=[8.0])
    """ε over all runs, for ever. The ε's of runs are added up."""
    max_epsilon_per_run: float = Field(gt=0, examples=[4.0])
    """ε of one run."""
    max_delta: float = Field(gt=0, lt=1, examples=[1e-5])
    """δ over all runs, for ever; the δ's of runs are added up. It must be below 1 / public_size."""
    min_noise_multiplier: float = Field(default=0.3, gt=0)
    """σ is never below this, however small an ε would allow it."""
    composition: Literal["basic", "renyi"] = "basic"
    """How runs are added up, for ever. basic: Σε. renyi: dearer for one run, much cheaper for many."""
    plans: Literal["approved", "any-within-policy"] = "approved"
    """approved: those that `sotto client approve` recorded. any-within-policy: any that this section allows."""
    approvals: str = "approved-plans.txt"
    """Where approved plans are recorded."""
    tasks: list[Kind] = list(get_args(Kind))
    """Kinds of task that a plan may have."""
    max_rounds: PositiveInt = 1000
    """Rounds of a plan at most."""
    max_steps: PositiveInt = 20000
    """rounds × local_steps of a plan at most."""


class VaultSection(Section):
    """The process that opens the records."""

    socket: str = "vault.sock"
    """Where the relay reaches it. Its path may have 107 bytes; only this user may connect."""
    group: str | None = Field(default=None, examples=["sotto"])
    """A group of the system that may connect too, so that the relay can run as another user."""
    ledger: str = "ledger.db"
    """The record of everything that was spent. Keep it as long as the data."""
    statement_key: str = "keys/statement.key"
    """Signs ledger and statements; `sotto client keys` makes it. Keep it as long as the ledger."""
    device: str = "cpu"
    """Where to train: "cpu", "cuda", "cuda:0"."""
    max_rank: int | None = Field(default=None, ge=1, le=MOST_RANK, examples=[4])
    """The largest LoRA rank to train; public. A plan of a larger rank needs a lora.min_rank that allows it."""
    max_tokens: PositiveInt = 512
    """Padded tokens in a micro-batch: more for a large device, fewer if it runs out of memory. Rows are filled up,
    so that small draws waste less with fewer."""


class Organization(SettingsFile):
    """One organization of Sotto, read by its vault alone. Paths are relative to this file."""

    name: Name = Field(examples=["st-mary"])
    """As in the reports: lower-case letters, digits and hyphens, at most 40."""
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
        """What it says of itself before any run."""
        return Description(self.name, self.data.unit, self.data.public_size, self.vault.max_rank)

    def own_plan(self, plan: Plan) -> Plan:
        """A plan as it is trained here, at a rank of our own if the plan allows one."""
        return plan.at_rank(plan.lora.own_rank(self.vault.max_rank))

    def model_folder(self, plan: Plan) -> str:
        """The local folder of the plan's base model.

        Raises:
            Refused: the policy does not list it.
        """
        try:
            return str(self.path(self.models[plan.model.base]))
        except KeyError:
            raise Refused("model-not-allowed", f"model.base = {plan.model.base!r} is not listed") from None
