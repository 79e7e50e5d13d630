"""The plan: what all participants agree on before a run.

`agreement` is the part that every organization is bound by; its canonical bytes and their SHA-256 are in
every request. `[evaluation]` and `[simulation]` concern the coordinator alone and are not part of it, so
nothing in them can change what an organization does with its records.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, model_validator

from common.errors import InputError
from common.plan.aggregation import Aggregation
from common.plan.coordinator import Evaluation, Simulation
from common.plan.lora import Lora
from common.plan.task import TaskSection
from common.plan.wire import Wire
from common.settings import LARGEST_COUNT, Count, Section, SettingsFile, validate

# Accounting takes longer with more steps; a request must not keep a vault busy for hours.
MOST_STEPS = 20_000

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Model(Section):
    """The base model. All participants must have the same weights: a fingerprint is compared."""

    base: str = Field(min_length=1, examples=["HuggingFaceTB/SmolLM2-135M"])
    """A name that each organization maps to a local folder, or a folder relative to this file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The precision of the frozen base weights; the adapter is always float32."""
    quantization: Literal["4bit", "8bit"] | None = Field(default=None, examples=["4bit"])
    """Quantize the frozen linear layers with bitsandbytes: 4bit is NF4 (Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314), 8bit has one scale per row. The adapter is merged into the original
    weights."""


class Training(Section):
    """What each organization does in a round."""

    rounds: Count = Field(examples=[20])
    """Number of rounds of the run."""
    local_steps: Count = 4
    """DP-SGD steps of each organization in a round."""
    batch_size: Count = Field(examples=[256])
    """Expected number of units (examples or users) in a step of one organization; public. The sample rate is this
    divided by public_size."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the organization's optimizer, before the schedule."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """linear: the learning rate falls by the same amount each round and would reach zero after the last. cosine:
    it falls slowly at the start and at the end."""
    warmup_rounds: int = Field(default=0, ge=0, le=LARGEST_COUNT)
    """Rounds in which the learning rate rises to its full value in equal steps; then the schedule begins."""
    head_rounds: int = Field(default=0, ge=0, le=LARGEST_COUNT)
    """The number of rounds at the start that train the head alone, if the task has a head. If it equals `rounds`,
    no LoRA layer is ever trained."""
    head_learning_rate: float | None = Field(default=None, gt=0, examples=[0.01])
    """Learning rate of the head, before the schedule; learning_rate if it is missing."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Starts without state in every round; it sees noised gradients only."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Momentum of sgd."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products in training. auto: bfloat16 if the device supports it in hardware and the
    model's gradients are within 10 % of those of a plain loop in float32, else float32. Clipping and noise are in
    float64."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of storing them: slower, with much less memory."""

    def is_head_alone(self, round_number: int) -> bool:
        """Whether a round, counted from 1, trains the head alone."""
        return round_number <= self.head_rounds

    def rate(self, round_number: int) -> float:
        """The learning rate of a round, counted from 1."""
        return self.learning_rate * self._factor(round_number)

    def head_rate(self, round_number: int) -> float:
        """The learning rate of the head in a round, counted from 1."""
        return (self.head_learning_rate or self.learning_rate) * self._factor(round_number)

    def _factor(self, round_number: int) -> float:
        """The factor of the schedule for a round."""
        if round_number <= self.warmup_rounds:
            return round_number / (self.warmup_rounds + 1)
        progress = (round_number - 1 - self.warmup_rounds) / (self.rounds - self.warmup_rounds)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return 1.0 if self.schedule == "constant" else 1 - progress

    @model_validator(mode="after")
    def _steps_can_be_accounted(self) -> Training:
        steps = self.rounds * self.local_steps
        if steps > MOST_STEPS:
            raise ValueError(f"rounds × local_steps = {steps} should be at most {MOST_STEPS}")
        if self.warmup_rounds >= self.rounds:
            raise ValueError(f"warmup_rounds = {self.warmup_rounds} should be below rounds = {self.rounds}")
        if self.head_rounds > self.rounds:
            raise ValueError(f"head_rounds = {self.head_rounds} should be at most rounds = {self.rounds}")
        return self


class Federation(Section):
    """Which answers a round needs."""

    min_organizations: Count = 2
    """A round counts only if at least this many organizations answered."""
    round_timeout: float = Field(default=600.0, gt=0)
    """Seconds to wait for the answers of a round."""


class Privacy(Section):
    """What the run may cost each organization. Each vault computes its own noise from these."""

    unit: Literal["example", "user"] = "example"
    """The unit of privacy, which is added or removed: "example" is one record, "user" is one user with all their
    records. Organizations with the other unit refuse. With "user", public_size and batch_size count users."""
    records_per_user: Count | None = Field(default=None, examples=[16])
    """Only with unit = "user": the most records of a user in a step, chosen anew for each step. A user counts as
    one unit for any number of records: more records cost time, not ε, and estimate the user's gradient better."""
    epsilon: float = Field(gt=0, le=20, examples=[8.0])
    """ε of this run, for each organization. Above 10 it protects little."""
    delta: float = Field(gt=0, lt=1, examples=[1e-5])
    """δ of this run; must be below 1 / public_size of every organization."""
    # Far from values where σ·C or a clipped gradient would underflow or overflow.
    clipping_norm: float = Field(default=1.0, ge=1e-9, le=1e9)
    """C: the gradient of each unit is clipped to this L2 norm."""

    @model_validator(mode="after")
    def _records_per_user_needs_users(self) -> Privacy:
        if self.unit == "user" and self.records_per_user is None:
            raise ValueError('records_per_user is missing: unit = "user" needs it, 1 or more')
        if self.unit != "user" and self.records_per_user is not None:
            raise ValueError(f'records_per_user = {self.records_per_user} needs unit = "user"')
        return self


class Plan(SettingsFile):
    """A plan of Sotto: what all participants agree on before a run. Paths are relative to this file."""

    name: Name = Field(examples=["triage"])
    """The start of the run's id: lower-case letters, digits and hyphens, at most 40."""
    model: Model
    task: TaskSection = TaskSection()
    lora: Lora = Lora()
    training: Training
    federation: Federation = Federation()
    aggregation: Aggregation = Aggregation()
    wire: Wire = Wire()
    privacy: Privacy
    evaluation: Evaluation = Evaluation()
    simulation: Simulation = Simulation()

    @model_validator(mode="after")
    def _head_settings_need_a_head(self) -> Plan:
        if self.task.head_outputs is None:
            for name in ("head_rounds", "head_learning_rate"):
                if value := getattr(self.training, name):
                    raise ValueError(
                        f'training.{name} = {value} needs a task with a head; kind = "{self.task.kind}" has none'
                    )
        return self

    @model_validator(mode="after")
    def _method_supports_different_ranks(self) -> Plan:
        least, method = self.lora.min_rank, self.aggregation.method
        if least is not None and least < self.lora.rank and not self.aggregation.averages_products:
            raise ValueError(
                f"lora.min_rank = {least}: ranks below lora.rank = {self.lora.rank} need "
                f'aggregation.method = "svd" or "stack"; it is "{method}"'
            )
        return self

    @model_validator(mode="after")
    def _partition_needs_its_field(self) -> Plan:
        if self.simulation.partition != "iid" and self.simulation.field is None:
            raise ValueError(
                f'simulation.field is missing: partition = "{self.simulation.partition}" needs the record field'
            )
        return self

    @model_validator(mode="after")
    def _user_field_needs_users(self) -> Plan:
        if self.simulation.user_field is not None and self.privacy.unit != "user":
            raise ValueError(f'simulation.user_field = {self.simulation.user_field!r} needs privacy.unit = "user"')
        return self

    def at_rank(self, rank: int) -> Plan:
        """The plan as an organization trains it at a rank. Its digest differs, and nobody uses it."""
        return self if rank == self.lora.rank else self.model_copy(update={"lora": self.lora.at_rank(rank)})

    def is_evaluated_after(self, round_number: int) -> bool:
        """Whether public data is evaluated after a round: every `evaluation.every` rounds and after the last."""
        return round_number % self.evaluation.every == 0 or round_number == self.training.rounds

    @classmethod
    def from_canonical(cls, data: bytes) -> Plan:
        """Parse `canonical` bytes; sections outside the agreement have their defaults.

        Raises:
            InputError: they are not the canonical bytes of a plan.
        """
        try:
            values = json.loads(data)
        except (UnicodeDecodeError, ValueError, RecursionError):
            raise InputError("the plan in the request: not JSON") from None
        if not isinstance(values, dict):
            raise InputError("the plan in the request: not a table")
        plan = validate(values, cls, "the plan in the request")
        try:
            same = plan.canonical() == data
        except UnicodeEncodeError:  # half a surrogate pair passes JSON but is not valid text
            same = False
        if not same:
            raise InputError("the plan in the request: not in canonical form")
        return plan

    def agreement(self) -> dict[str, Any]:
        """The sections that bind every participant, defaults filled in; keys without a value are left out."""
        outside = {"evaluation", "simulation"} | ({"wire"} if self.wire == Wire() else set())
        return self.model_dump(mode="json", exclude=outside, exclude_none=True)

    def canonical(self) -> bytes:
        """The agreement as JSON: sorted keys, no spaces, UTF-8. Equal agreements have equal bytes."""
        text = json.dumps(self.agreement(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode()

    def digest(self) -> str:
        """SHA-256 of `canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def base_folder(self) -> str:
        """The coordinator's base model: a folder relative to the plan if it exists, else the name as it is."""
        folder = self.path(self.model.base)
        return str(folder) if folder.is_dir() else self.model.base

    def agreement_toml(self) -> str:
        """The agreement alone, to ship with an adapter: it contains no path on the coordinator's machine."""
        return tomli_w.dumps(self.agreement())

    def to_toml(self) -> str:
        """The plan as it runs: with all defaults, and the coordinator's paths made absolute."""
        values = self.model_dump(mode="json", exclude_none=True)
        for section in ("evaluation", "simulation"):
            if "data" in values[section]:
                values[section]["data"] = str(self.path(values[section]["data"]))
        return tomli_w.dumps(values)
