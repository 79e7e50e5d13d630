"""The values that an organization signs: the head of its ledger, and its statement of what a run cost.

Both are read strictly, whatever their source: the types are right and the numbers are in ranges that the
accountant accepts.
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

# The boundary between records and network, as statements name it. That of a simulated organization starts with:
SIMULATED = "simulation: one process"
SAME_USER = "same user"
SEPARATE_USERS = "separate users"

_LARGEST_DELTA = 0.9
# Floating point is not precise enough below these, and no vault produces such values.
_LEAST_DELTA = 1e-15
_LEAST_RATE = 1e-15
# A vault's noise multiplier is a multiple of the first.
_LEAST_NOISE, _LARGEST_NOISE = 0.001, 1e6


@dataclass(frozen=True)
class Head:
    """The newest entry of an organization's ledger, as its vault publishes it.

    Attributes:
        data_set: the ledger's id of the data set.
        number: of the entry.
        digest: over the entry and all earlier ones, in hexadecimal.
        signature: of the organization's statement key; empty in a simulation.
    """

    data_set: str
    number: int
    digest: str
    signature: str

    def signed_bytes(self) -> bytes:
        """The bytes that the signature covers."""
        return signable("ledger head", {key: value for key, value in asdict(self).items() if key != "signature"})

    def to_json(self) -> str:
        """Serialize for the wire."""
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
            raise ValueError("not a ledger head: not in canonical form")
        return head


def head_text(head: Head | None) -> str:
    """A ledger head as text; empty for None."""
    return "" if head is None else head.to_json()


def read_head(text: str) -> Head | None:
    """The inverse of `head_text`.

    Raises:
        ValueError: it is not a head.
    """
    return Head.from_json(text) if text else None


@dataclass(frozen=True)
class Lifetime:
    """The budget over all runs: what is spent, the cap, and the composition.

    Attributes:
        raised: how many times the organization raised its cap.
    """

    epsilon_spent: float
    max_epsilon: float
    delta: float
    accountant: str
    raised: int = 0


@dataclass(frozen=True)
class Statement:
    """What a run costs an organization, from its ledger. The whole run is charged when it is reserved.

    Attributes:
        run: the run's id.
        plan: digest of the plan's agreement.
        mechanisms: everything that was reserved for the run; anyone can recompute ε from them.
        boundary: what separates the records from the network.
        versions: of the software that produced the releases.
        head: the ledger's head when the statement was made.
        key: public half of the organization's statement key. A verifier uses the key that the organization
            registered, not this one.
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
        """The bytes that the signature covers."""
        values = self.to_dict()
        del values["signature"]
        return signable("statement", values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for storage and for the wire."""
        values = {**asdict(self), "mechanisms": [mechanism.to_dict() for mechanism in self.mechanisms]}
        # Statements of earlier versions have no such field; their signatures must still cover the same bytes.
        if self.lifetime.raised == 0:
            del values["lifetime"]["raised"]
        return values

    def to_json(self) -> str:
        """Serialize for the wire."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Statement:
        """The inverse of `to_json`.

        Raises:
            ValueError: it is not a statement.
        """
        statement = cls.from_dict(read_json(text))
        if statement.to_json() != text:
            raise ValueError("not a statement: not in canonical form")
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
                raise ValueError("not a statement: versions should map names to texts")
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
    """Check that identifier, digest and signature are lower-case hexadecimal digits."""
    wanted = {"data_set": "[0-9a-f]{32}", "digest": "[0-9a-f]{64}", "signature": "([0-9a-f]{128})?"}
    for name, pattern in wanted.items():
        if not re.fullmatch(pattern, getattr(head, name)):
            raise ValueError(f"not a ledger head: {name} is not valid")


def _check_ranges(statement: Statement) -> None:
    """Check that ε can be recomputed from the numbers, and that the texts can be displayed."""
    if len(statement.mechanisms) != 1:
        raise ValueError(f"not a statement: {len(statement.mechanisms)} mechanisms; a run has one")
    if not (_LEAST_DELTA <= statement.delta <= _LARGEST_DELTA and _LEAST_DELTA <= statement.lifetime.delta <= 1):
        raise ValueError("not a statement: delta is out of range")
    (mechanism,) = statement.mechanisms
    if not (
        mechanism.sample_rate >= _LEAST_RATE
        and _LEAST_NOISE <= mechanism.noise_multiplier <= _LARGEST_NOISE
        and mechanism.steps <= MOST_STEPS
    ):
        raise ValueError("not a statement: the mechanism is out of range")
    if not all(is_text(text) for pair in statement.versions.items() for text in pair):
        raise ValueError("not a statement: versions is not text")
