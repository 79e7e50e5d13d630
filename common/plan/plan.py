"""The plan: what all participants agree on before a run.

`agreement` is the part that every organization is bound by; its canonical bytes and their SHA-256 are in
every request. `[evaluation]` and `[simulation]` concern the coordinator alone and stand outside it, so
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

# The accountant's time grows with the steps; a request must not keep a vault busy for hours.
MOST_STEPS = 20_000

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Model(Section):
    """The base model. All participants must hold the same weights: a fingerprint is compared."""

    base: str = Field(min_length=1, examples=["HuggingFaceTB/SmolLM2-135M"])
    """A name that each organization maps to a local folder, or a folder relative to this file."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The precision of the frozen base weights; the adapter is always float32."""
    quantization: Literal["4bit", "8bit"] | None = Field(default=None, examples=["4bit"])
    """Keep the frozen linear layers smaller by bitsandbytes: 4bit is NF4 (Dettmers et al. 2023,
    https://arxiv.org/abs/2305.14314), 8bit has a scale for each row. The merge is on the weights as they were."""


class Training(Section):
    """What each organization does in a round."""

    rounds: Count = Field(examples=[20])
    """Rounds of the run."""
    local_steps: Count = 4
    """DP-SGD steps of an organization in a round."""
    batch_size: Count = Field(examples=[256])
    """Expected units (examples, or users) in a step of one organization: public. The sample rate is this /
    public_size."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of the organization's optimizer, before the schedule."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """linear: the learning rate falls in equal steps from round to round, towards zero after the last. cosine: it
    falls slowly at first and at last."""
    warmup_rounds: int = Field(default=0, ge=0, le=LARGEST_COUNT)
    """Rounds in which the learning rate rises to its height in equal steps; then the schedule begins."""
    head_rounds: int = Field(default=0, ge=0, le=LARGEST_COUNT)
    """The first so many rounds train the head alone, where the task has one. As many as `rounds`: no LoRA layer is
    ever trained."""
    head_learning_rate: float | None = Field(default=None, gt=0, examples=[0.01])
    """Of the head, before the schedule; learning_rate if it is missing."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Fresh in every round; it sees noised gradients only."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Of sgd."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products while training. auto: bfloat16 where the device multiplies it in hardware and the model's
    gradients stay within 10 % of a plain loop in float32, else float32. Clipping and noise are in float64."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: slower, much less memory."""

    def is_head_alone(self, round_number: int) -> bool:
        """Whether a round, counted from 1, trains the head alone."""
        return round_number <= self.head_rounds

    def rate(self, round_number: int) -> float:
        """The learning rate of a round, counted from 1."""
        return self.learning_rate * self._share(round_number)

    def head_rate(self, round_number: int) -> float:
        """The learning rate of the head in a round, counted from 1."""
        return (self.head_learning_rate or self.learning_rate) * self._share(round_number)

    def _share(self, round_number: int) -> float:
        """The share of the learning rate that the schedule gives a round."""
        if round_number <= self.warmup_rounds:
            return round_number / (self.warmup_rounds + 1)
        gone = (round_number - 1 - self.warmup_rounds) / (self.rounds - self.warmup_rounds)
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * gone)) / 2
        return 1.0 if self.schedule == "constant" else 1 - gone

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
    """Who has to take part."""

    min_organizations: Count = 2
    """A round counts only if at least so many answered."""
    round_timeout: float = Field(default=600.0, gt=0)
    """Seconds to wait for the answers of a round."""


class Privacy(Section):
    """What the run costs each organization. Each vault computes its own noise from these."""

    unit: Literal["example", "user"] = "example"
    """What is protected, added or removed: "example" is one record, "user" is one user with all their records.
    Organizations with the other unit refuse. With "user", public_size and batch_size count users."""
    records_per_user: Count | None = Field(default=None, examples=[16])
    """With unit = "user", and only then: records of a user in a step at most, chosen anew in each step. A user
    counts as one however many they are: more cost time, not ε, and give a truer gradient of the user."""
    epsilon: float = Field(gt=0, le=20, examples=[8.0])
    """ε of this run, for each organization. Above 10 it protects little."""
    delta: float = Field(gt=0, lt=1, examples=[1e-5])
    """δ of this run; must be below 1 / public_size of every organization."""
    # Far from where σ·C or a clipped gradient would be rounded to nothing, or to infinity.
    clipping_norm: float = Field(default=1.0, ge=1e-9, le=1e9)
    """C: no unit's gradient has a larger L2 norm."""

    @model_validator(mode="after")
    def _only_users_have_records(self) -> Privacy:
        if self.unit == "user" and self.records_per_user is None:
            raise ValueError('records_per_user is missing: unit = "user" needs it, 1 or more')
        if self.unit != "user" and self.records_per_user is not None:
            raise ValueError(f'records_per_user = {self.records_per_user} needs unit = "user"')
        return self


class Plan(SettingsFile):
    """A plan of Sotto: what all participants agree on before a run. Paths are relative to this file."""

    name: Name = Field(examples=["triage"])
    """Begins the run's id: lower-case letters, digits and hyphens, at most 40."""
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
    def _only_heads_are_trained_as_heads(self) -> Plan:
        if self.task.head_outputs is None:
            for name in ("head_rounds", "head_learning_rate"):
                if value := getattr(self.training, name):
                    raise ValueError(
                        f'training.{name} = {value} needs a head, which kind = "{self.task.kind}" has not'
                    )
        return self

    @model_validator(mode="after")
    def _uneven_ranks_can_be_joined(self) -> Plan:
        least, method = self.lora.min_rank, self.aggregation.method
        if least is not None and least < self.lora.rank and not self.aggregation.averages_products:
            raise ValueError(
                f"lora.min_rank = {least}: ranks below lora.rank = {self.lora.rank} need "
                f'aggregation.method = "svd" or "stack"; it is "{method}"'
            )
        return self

    @model_validator(mode="after")
    def _partition_has_its_field(self) -> Plan:
        if self.simulation.partition != "iid" and self.simulation.field is None:
            raise ValueError(
                f'simulation.field is missing: partition = "{self.simulation.partition}" needs the record field'
            )
        return self

    @model_validator(mode="after")
    def _only_users_have_a_field(self) -> Plan:
        if self.simulation.user_field is not None and self.privacy.unit != "user":
            raise ValueError(f'simulation.user_field = {self.simulation.user_field!r} needs privacy.unit = "user"')
        return self

    def at_rank(self, rank: int) -> Plan:
        """The plan as an organization of a rank trains it; its digest is another one, and is nobody's."""
        return self if rank == self.lora.rank else self.model_copy(update={"lora": self.lora.at_rank(rank)})

    def is_evaluated_after(self, round_number: int) -> bool:
        """Whether public data is looked at after a round: after every so many, and after the last."""
        return round_number % self.evaluation.every == 0 or round_number == self.training.rounds

    @classmethod
    def from_canonical(cls, data: bytes) -> Plan:
        """The plan whose `canonical` bytes these are; sections outside the agreement are at their defaults.

        Raises:
            InputError: they are not the canonical bytes of any plan.
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
        except UnicodeEncodeError:  # half a surrogate pair passes JSON but is no text
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
        """Where the coordinator finds the base model: a folder beside the plan, else the name as it is."""
        folder = self.path(self.model.base)
        return str(folder) if folder.is_dir() else self.model.base

    def agreement_toml(self) -> str:
        """The agreement alone, to travel with an adapter: it holds no path of the coordinator's own."""
        return tomli_w.dumps(self.agreement())

    def to_toml(self) -> str:
        """The plan as it runs: defaults filled in, the coordinator's own paths made absolute."""
        values = self.model_dump(mode="json", exclude_none=True)
        for section in ("evaluation", "simulation"):
            if "data" in values[section]:
                values[section]["data"] = str(self.path(values[section]["data"]))
        return tomli_w.dumps(values)
