"""What a coordinator asks a vault, and what a vault answers. This is the whole list of what may leave.

A `Release` leaves once per round: a noised update. A `Description` and a `Statement` are made of public
numbers. A refusal is a reason code and a sentence about the request or the policy. Nothing else leaves: no
training loss, no count of records, no text of an exception, no metric on private data.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from common.bounds import check_description, check_head, check_ranges, check_types
from common.mechanism import Mechanism
from common.signing import signable
from common.untrusted import read_json

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
    "ledger-behind": "the vault's ledger lacks an entry that the vault itself signed",
    "plan-not-approved": "the organization has not approved the plan",
    "round-conflict": "the round was answered before, for another request",
    "not-trainable": "the model's per-example gradients are not exact; the noise would not protect a record",
    "training-failed": "training could not be done; the cause is in the organization's own log",
    "busy": "the vault is training for another request",
    "vault-unavailable": "the organization's vault does not answer its relay",
    "app-not-allowed": "the Flower app of the run holds code or is not Sotto's own",
}


@dataclass(frozen=True)
class Head:
    """The newest entry of an organization's ledger, as the vault shows it.

    Attributes:
        data_set: the id that the ledger gave to its data.
        number: of the entry.
        digest: over the entry and all before it, in hexadecimal.
        signature: of the organization's statement key; empty in a simulation.
    """

    data_set: str
    number: int
    digest: str
    signature: str

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        return signable("ledger head", {key: value for key, value in asdict(self).items() if key != "signature"})

    def to_json(self) -> str:
        """As it is sent."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Head:
        """The inverse of `to_json`.

        Raises:
            ValueError: it is not a head.
        """
        try:
            head = cls(**read_json(text))
        except TypeError as error:
            raise ValueError(f"not a ledger head: {error}") from None
        check_types(head)
        check_head(head)
        if head.to_json() != text:
            raise ValueError("not a ledger head: another spelling of one")
        return head


def head_text(head: Head | None) -> str:
    """A ledger head as text; empty for none."""
    return "" if head is None else head.to_json()


def read_head(text: str) -> Head | None:
    """The inverse of `head_text`.

    Raises:
        ValueError: it is no head.
    """
    return Head.from_json(text) if text else None


@dataclass(frozen=True)
class TrainRequest:
    """Train one round.

    Attributes:
        run: our own id of the run, `name-date-8hex`.
        round: from 1.
        plan: canonical bytes of the plan's agreement.
        fingerprint: of the coordinator's base model.
        adapter: safetensors bytes of the tensors that the round trains, in the plan's format.
        seen: the newest head of this organization's ledger that the coordinator was shown, in any run.
    """

    run: str
    round: int
    plan: bytes
    fingerprint: str
    adapter: bytes
    seen: Head | None = None

    def digest(self) -> str:
        """SHA-256 of all but `seen`; with run and round it is the round's key."""
        head = json.dumps([self.run, self.round, self.fingerprint, len(self.plan), len(self.adapter)])
        digest = hashlib.sha256(head.encode() + b"\n" + self.plan)
        digest.update(self.adapter)
        return digest.hexdigest()


@dataclass(frozen=True)
class Release:
    """A noised update. Its size is public.

    Attributes:
        update: safetensors bytes of the tensors that the round trained, new minus old, in the plan's format.
        head: of the ledger, after the release was settled.
    """

    update: bytes
    head: Head | None = None


@dataclass(frozen=True)
class Description:
    """What an organization says of itself before any run.

    Attributes:
        organization: its name.
        unit: what it protects, for ever.
        public_size: units that it is willing to publish; not the true count.
        max_rank: the largest LoRA rank that it trains; None for any.
    """

    organization: str
    unit: str
    public_size: int
    max_rank: int | None = None

    def to_json(self) -> str:
        """As it is sent; a rank that does not matter is left out."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Description:
        """The inverse of `to_json`.

        Raises:
            ValueError: it is not a description.
        """
        try:
            description = cls(**read_json(text))
        except TypeError as error:
            raise ValueError(f"not a description: {error}") from None
        description.check()
        if description.to_json() != text:
            raise ValueError("not a description: another spelling of one")
        return description

    def check(self) -> None:
        """Make sure that it can be a description, whoever made it.

        Raises:
            ValueError: it cannot.
        """
        check_types(self)
        check_description(self)


@dataclass(frozen=True)
class Lifetime:
    """The budget over all runs: spent so far, the cap, and how they are added up."""

    epsilon_spent: float
    max_epsilon: float
    delta: float
    accountant: str


@dataclass(frozen=True)
class Statement:
    """What a run costs an organization, from its ledger. The whole run is charged when it is reserved.

    Attributes:
        run: the run's id.
        plan: digest of the plan's agreement.
        mechanisms: all that was reserved for the run; anyone recomputes ε from them.
        boundary: what separates the records from the network.
        versions: of the software that made the releases.
        head: of the ledger when the statement was made.
        key: public half of the organization's statement key. Whoever checks a statement takes the key that the
            organization registered, not this one.
        signature: over everything else; empty in a simulation.
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
    versions: dict[str, str]
    head: Head
    key: str = ""
    signature: str = ""
    adjacency: str = "add-remove"
    accountant: str = "prv"

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        values = self.to_dict()
        del values["signature"]
        return signable("statement", values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as it is stored and sent."""
        return {**asdict(self), "mechanisms": [mechanism.to_dict() for mechanism in self.mechanisms]}

    def to_json(self) -> str:
        """As it is sent."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Statement:
        """The inverse of `to_json`.

        Raises:
            ValueError: it is not a statement.
        """
        statement = cls.from_dict(read_json(text))
        if statement.to_json() != text:
            raise ValueError("not a statement: another spelling of one")
        return statement

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Statement:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it is not a statement.
        """
        try:
            mechanisms = tuple(Mechanism.from_dict(item) for item in values["mechanisms"])
            lifetime = Lifetime(**values["lifetime"])
            head = Head(**values["head"])
            versions = dict(values["versions"].items())
            if not versions or not all(isinstance(text, str) for text in (*versions, *versions.values())):
                raise ValueError("not a statement: versions are no names and texts")
            parts = {"mechanisms": mechanisms, "lifetime": lifetime, "head": head, "versions": versions}
            statement = cls(**{**values, **parts})
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a statement: {error}") from None
        for part in (statement, lifetime, head):
            check_types(part)
        check_head(head)
        check_ranges(statement)
        return statement


class Participant(Protocol):
    """Who answers for an organization: its vault, however it is reached."""

    def describe(self) -> Description:
        """Name, unit, public size and largest rank."""

    def train(self, request: TrainRequest) -> Release:
        """One round of training. Raises `common.errors.Refused`."""

    def statement(self, run: str) -> Statement:
        """The cost of a run. Raises `common.errors.Refused` if it was never reserved."""
