"""What a coordinator asks a vault, and what a vault answers. This is the whole list of what may leave.

A `Release` leaves once per round: a noised update. A `Description` and a `Statement` are made of public
numbers. A refusal is a reason code and a sentence about the request or the policy. Nothing else leaves: no
training loss, no count of records, no text of an exception, no metric on private data.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from common.mechanism import Mechanism

# What separates the records from the network, as statements say it. A simulated organization's begins so:
SIMULATED = "simulation: one process"
SAME_USER = "same user"
SEPARATE_USERS = "separate users"

REASONS = {
    "malformed-request": "the request cannot be read",
    "model-not-allowed": "the organization's policy does not list the base model",
    "model-differs": "the organization's base model has another fingerprint",
    "plan-changed": "the run was reserved with another plan",
    "policy": "the plan asks for more than the organization's policy allows",
    "budget": "the lifetime budget does not cover the run",
    "round-conflict": "the round was answered before, for another request",
    "not-trainable": "the model's per-example gradients are not exact; the noise would not protect a record",
    "training-failed": "training could not be done; the cause is in the organization's own log",
    "busy": "the vault is training for another request",
    "vault-unavailable": "the organization's vault does not answer its relay",
    "app-not-allowed": "the Flower app of the run holds code or is not Sotto's own",
}


@dataclass(frozen=True)
class TrainRequest:
    """Train one round.

    Attributes:
        run: our own id of the run, `name-date-8hex`.
        round: from 1.
        plan: canonical bytes of the plan's agreement.
        fingerprint: of the coordinator's base model.
        adapter: safetensors bytes of the tensors that the plan trains.
    """

    run: str
    round: int
    plan: bytes
    fingerprint: str
    adapter: bytes

    def digest(self) -> str:
        """SHA-256 of the whole request; with run and round it is the round's key."""
        head = json.dumps([self.run, self.round, self.fingerprint, len(self.plan), len(self.adapter)])
        digest = hashlib.sha256(head.encode() + b"\n" + self.plan)
        digest.update(self.adapter)
        return digest.hexdigest()


@dataclass(frozen=True)
class Release:
    """A noised update: safetensors bytes of the trained tensors, new minus old. Its size is public."""

    update: bytes


@dataclass(frozen=True)
class Description:
    """What an organization says of itself before any run.

    Attributes:
        organization: its name.
        unit: what it protects, for ever.
        public_size: units that it is willing to publish; not the true count.
    """

    organization: str
    unit: str
    public_size: int


@dataclass(frozen=True)
class Lifetime:
    """The budget over all runs: spent so far, the cap, and how they are added up."""

    epsilon_spent: float
    max_epsilon: float
    delta: float
    accountant: str = "basic-composition-filter"


@dataclass(frozen=True)
class Statement:
    """What a run costs an organization, from its ledger. The whole run is charged when it is reserved.

    Attributes:
        run: the run's id.
        plan: digest of the plan's agreement.
        mechanisms: all that was reserved for the run; anyone recomputes ε from them.
        boundary: what separates the records from the network.
    """

    organization: str
    run: str
    plan: str
    fingerprint: str
    unit: str
    public_size: int
    mechanisms: tuple[Mechanism, ...]
    epsilon: float
    delta: float
    lifetime: Lifetime
    boundary: str
    adjacency: str = "add-remove"
    accountant: str = "prv"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as it is stored and sent."""
        return {**asdict(self), "mechanisms": [mechanism.to_dict() for mechanism in self.mechanisms]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Statement:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it is not a statement.
        """
        try:
            mechanisms = tuple(Mechanism.from_dict(item) for item in values["mechanisms"])
            lifetime = Lifetime(**values["lifetime"])
            statement = cls(**{**values, "mechanisms": mechanisms, "lifetime": lifetime})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a statement: {error}") from None
        _check_types(statement)
        _check_types(lifetime)
        return statement


def _check_types(part: Statement | Lifetime) -> None:
    """Texts are texts; numbers are finite and not negative: what comes from outside may be anything."""
    for field in fields(part):
        value, wanted = getattr(part, field.name), field.type
        if wanted == "str" and not isinstance(value, str):
            raise ValueError(f"not a statement: {field.name} is no text")
        if wanted in ("int", "float"):
            kinds = (int,) if wanted == "int" else (int, float)
            if type(value) not in kinds or not math.isfinite(value) or value < 0:
                raise ValueError(f"not a statement: {field.name} is no such number")


class Participant(Protocol):
    """Who answers for an organization: its vault, however it is reached."""

    def describe(self) -> Description:
        """Name, unit and public size."""

    def train(self, request: TrainRequest) -> Release:
        """One round of training. Raises `common.errors.Refused`."""

    def statement(self, run: str) -> Statement:
        """The cost of a run. Raises `common.errors.Refused` if it was never reserved."""
