"""The requests of a coordinator and the answers of a vault. This is the complete list of what may leave a vault.

A `Release` leaves once per round: a noised update. A `Description` and a `Statement` consist of public
values. A refusal is a reason code and a sentence about the request or the policy. Nothing else leaves: no
training loss, no record count, no exception text, no metric on private data.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Protocol

from common.errors import RefusalCode
from common.plan.lora import MOST_RANK
from common.plan.plan import NAME_PATTERN
from common.protocol.bounds import check_types
from common.protocol.statement import Head, Statement
from common.untrusted import read_json

REASONS: dict[RefusalCode, str] = {
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
class TrainRequest:
    """Train one round.

    Attributes:
        run: Sotto's id of the run, `name-date-8hex`.
        round: its number, from 1.
        plan: canonical bytes of the plan's agreement.
        fingerprint: of the coordinator's base model.
        adapter: safetensors bytes of the tensors that the round trains, in the plan's number format.
        seen: the newest head of this organization's ledger that the coordinator has received, in any run.
    """

    run: str
    round: int
    plan: bytes
    fingerprint: str
    adapter: bytes
    seen: Head | None = None

    def digest(self) -> str:
        """SHA-256 of everything except `seen`; run, round and digest together identify the request."""
        head = json.dumps([self.run, self.round, self.fingerprint, len(self.plan), len(self.adapter)])
        digest = hashlib.sha256(head.encode() + b"\n" + self.plan)
        digest.update(self.adapter)
        return digest.hexdigest()


@dataclass(frozen=True)
class Release:
    """A noised update. Its size is public.

    Attributes:
        update: safetensors bytes of the tensors that the round trained, new minus old, in the plan's number
            format.
        head: the ledger's head after the release was stored.
    """

    update: bytes
    head: Head | None = None


@dataclass(frozen=True)
class Description:
    """What an organization publishes about itself before any run.

    Attributes:
        organization: its name.
        unit: its unit of privacy; it never changes.
        public_size: the number of units that it publishes; not the true count.
        max_rank: the largest LoRA rank that it trains; None for no limit.
    """

    organization: str
    unit: str
    public_size: int
    max_rank: int | None = None

    def to_json(self) -> str:
        """Serialize for the wire; an unlimited rank is left out."""
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
            raise ValueError("not a description: not in canonical form")
        return description

    def check(self) -> None:
        """Validate types and ranges.

        Raises:
            ValueError: a field is not valid.
        """
        check_types(self)
        _check_description(self)


class Participant(Protocol):
    """What answers for an organization: its vault, called directly or through its relay."""

    def describe(self) -> Description:
        """Name, unit, public size and largest rank."""

    def train(self, request: TrainRequest) -> Release:
        """One round of training. Raises `common.errors.Refused`."""

    def statement(self, run: str) -> Statement:
        """The cost of a run. Raises `common.errors.Refused` if it was never reserved."""


def _check_description(description: Description) -> None:
    """Check the ranges: the name becomes part of a path in the run directory, the public size a weight."""
    if not re.fullmatch(NAME_PATTERN, description.organization):
        raise ValueError("not a description: organization is not a valid name")
    if description.unit not in ("example", "user") or description.public_size < 1:
        raise ValueError("not a description: unit or public_size is not valid")
    rank = description.max_rank
    if rank is not None and not (type(rank) is int and 1 <= rank <= MOST_RANK):
        raise ValueError("not a description: max_rank is not valid")
