"""What an organization signs: the head of its ledger, and its statement of what a run cost.

Whoever made them, what is read here has the right types, and its numbers can be computed with.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from common.keys.statement_key import signable
from common.plan.plan import MOST_STEPS
from common.privacy.mechanism import Mechanism
from common.protocol.bounds import check_types, is_text
from common.untrusted import read_json

# What separates the records from the network, as statements say it. A simulated organization's begins so:
SIMULATED = "simulation: one process"
SAME_USER = "same user"
SEPARATE_USERS = "separate users"

_LARGEST_DELTA = 0.9
# Below these no accountant computes with the numbers of floating point, and no vault has them.
_LEAST_DELTA = 1e-15
_LEAST_RATE = 1e-15
# The noise multiplier of a vault is a multiple of the first.
_LEAST_NOISE, _LARGEST_NOISE = 0.001, 1e6


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
        _check_head(head)
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
        _check_head(head)
        _check_ranges(statement)
        return statement


def _check_head(head: Head) -> None:
    """Identifier, digest and signature are hexadecimal digits in one spelling."""
    wanted = {"data_set": "[0-9a-f]{32}", "digest": "[0-9a-f]{64}", "signature": "([0-9a-f]{128})?"}
    for name, pattern in wanted.items():
        if not re.fullmatch(pattern, getattr(head, name)):
            raise ValueError(f"not a head: {name} is none")


def _check_ranges(statement: Statement) -> None:
    """What ε is recomputed from can be computed with, and what is shown can be written down."""
    if len(statement.mechanisms) != 1:
        raise ValueError(f"not a statement: {len(statement.mechanisms)} mechanisms; a run has one")
    if not (_LEAST_DELTA <= statement.delta <= _LARGEST_DELTA and _LEAST_DELTA <= statement.lifetime.delta <= 1):
        raise ValueError("not a statement: delta is no such number")
    (mechanism,) = statement.mechanisms
    if not (
        mechanism.sample_rate >= _LEAST_RATE
        and _LEAST_NOISE <= mechanism.noise_multiplier <= _LARGEST_NOISE
        and mechanism.steps <= MOST_STEPS
    ):
        raise ValueError("not a statement: a mechanism that no vault can have")
    if not all(is_text(text) for pair in statement.versions.items() for text in pair):
        raise ValueError("not a statement: versions is no text")
