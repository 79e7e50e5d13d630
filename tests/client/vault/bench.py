"""A vault on a workbench: in this process, with its ledger, its model, and the requests that it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.preparation import ModelLoader
from client.vault.training.entropy import Entropy
from client.vault.vault import Vault
from client.vault.workers.compute import Compute
from common.adapter import adapter
from common.adapter.adapter import Adapter, from_bytes, initial, to_bytes
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from common.settings import validate
from simulations.entropy import SeededEntropy

Records = list[dict[str, Any]]


@dataclasses.dataclass
class Bench:
    """A vault with everything around it.

    Attributes:
        start: the adapter that requests carry, unless they are given another.
    """

    vault: Vault
    ledger: Ledger
    model: LoraModel
    plan: Plan
    start: Adapter

    def request(
        self, round_number: int = 1, run: str = "test-run", plan: Plan | None = None, adapter: bytes | None = None
    ) -> TrainRequest:
        """A round's request; `adapter` is the start's bytes on the wire, if it is not float32."""
        canonical = (plan or self.plan).canonical()
        return TrainRequest(run, round_number, canonical, self.model.fingerprint, adapter or to_bytes(self.start))

    def read(self, update: bytes) -> Adapter:
        """The tensors of a release."""
        return from_bytes(update, self.model.trained_shapes)

    def update(self, run: str = "test-run") -> np.ndarray:
        """What a round releases, as one vector of float64."""
        update = self.read(self.vault.train(self.request(run=run)).update)
        return np.concatenate([update[name].ravel() for name in sorted(update)]).astype(np.float64)


MakeBench = Callable[..., Bench]


def organization(
    base: str, *, data: dict[str, Any], policy: dict[str, Any], vault: dict[str, Any]
) -> Organization:
    """An organization of one base model; keys of sections replace those of an easy-going one."""
    values = {
        "name": "st-mary",
        "data": {"train": "records.jsonl", "public_size": 40, **data},
        "models": {base: base},
        "policy": {
            "max_epsilon": 20.0,
            "max_epsilon_per_run": 8.0,
            "max_delta": 5e-3,
            "plans": "any-within-policy",
            **policy,
        },
        "vault": vault,
    }
    return validate(values, Organization, "test")


def open_bench(
    ledger: Path,
    plan: Plan,
    records: Records,
    *,
    entropy: Entropy | None = None,
    data: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    vault: dict[str, Any] | None = None,
    load: ModelLoader | None = None,
    compute: Compute | None = None,
) -> Bench:
    """A bench on a ledger, which other benches may have used before.

    Args:
        ledger: its file.
        plan: of the requests.
        records: of the vault.
        entropy: seeded, unless another is given.
        data: keys of the organization's section, as the following two.
        policy: see `data`.
        vault: see `data`.
        load: loads the model; the bench's own, if it is missing.
        compute: who computes gradients; this process, if it is missing.
    """
    own = organization(plan.model.base, data=data or {}, policy=policy or {}, vault=vault or {})
    model = LoraModel(plan.model.base, plan)
    books = Ledger(ledger, own.name, own.data.unit)
    loader = load or (lambda _folder, _plan: model)
    made = Vault(own, records, books, loader, entropy or SeededEntropy(3), "test", compute)
    return Bench(made, books, model, plan, initial(model.trained_shapes, 0))


RECORDS: Records = [{"text": f"Customer: where is parcel {n}?\nAgent: on its way to you."} for n in range(30)]


BAD = {
    "plan that is no JSON": {"plan": b"{"},
    "plan with spaces": {"plan": b"{ }"},
    "round zero": {"round": 0},
    "round after the last": {"round": 3},
    "empty run": {"run": ""},
    "long run": {"run": "x" * 81},
    "run with a newline": {"run": "a\nb"},
    "no adapter": {"adapter": b""},
    "adapter of another shape": {"adapter": adapter.to_bytes({"x": np.zeros((2, 2), np.float32)})},
    "another fingerprint": {"fingerprint": "0" * 64},
}
