"""Statements that no vault makes, and what the report should say of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from common.keys.statement_key import StatementKey
from common.privacy.mechanism import Mechanism
from common.protocol.statement import SIMULATED, Lifetime, Statement
from common.report.verification import SignatureState
from tests.common.report.sample_run import signed, simulated, statement

KEY = StatementKey.generate()

# ε of the sample's mechanism at 4e-5 and 1e-5, by dp_accounting's RdpAccountant at the filter's eleven orders with
# an eleventh of δ: 12.348458 and 13.734752, rounded up.
RENYI, RENYI_AT_RUN_DELTA = 12.3485, 13.7348
BASIC_FILTER, RENYI_FILTER = "basic-composition-filter", "rdp-filter"

Author = Literal["organization", "another key", "nobody", "simulation"]


@dataclass(frozen=True)
class Forged:
    """A false statement.

    Attributes:
        changed: fields that differ from an honest statement.
        problems: the sentences that the report should have, in order, each to its end or a part of it.
        author: "organization" signs the altered statement with its registered key, "another key" with another;
            "nobody" alters a signed statement; "simulation" alters one that has no signature.
    """

    changed: dict[str, Any]
    problems: tuple[str, ...]
    author: Author = "organization"

    def statement(self) -> Statement:
        """The statement as the coordinator stores it."""
        if self.author == "simulation":
            return replace(simulated("st-mary"), **self.changed)
        if self.author == "nobody":
            return replace(signed(statement("st-mary"), KEY), **self.changed)
        key = KEY if self.author == "organization" else StatementKey.generate()
        return signed(statement("st-mary", **self.changed), key)

    @property
    def keys(self) -> dict[str, str]:
        """The registered keys."""
        return {} if self.author == "simulation" else {"st-mary": KEY.public}

    @property
    def signature(self) -> SignatureState:
        """The state that the report should give to the signature."""
        states: dict[Author, SignatureState] = {"organization": "valid", "simulation": "none"}
        return states.get(self.author, "invalid")


def basic(spent: float, delta: float = 4e-5, cap: float = 16.0) -> dict[str, Any]:
    """A budget by basic composition."""
    return {"lifetime": Lifetime(spent, cap, delta, BASIC_FILTER)}


def renyi(spent: float, delta: float = 4e-5, cap: float = 16.0) -> dict[str, Any]:
    """A budget by the Rényi filter."""
    return {"lifetime": Lifetime(spent, cap, delta, RENYI_FILTER)}


def by(accountant: str, spent: float = 0.0) -> dict[str, Any]:
    """A budget by another accountant."""
    return {"lifetime": Lifetime(spent, 16.0, 4e-5, accountant)}


# Rate, σ, steps and δ → ε by Opacus' PRV accountant, see `prv_epsilon`: each takes a second.
COSTS = {
    (0.0256, 0.5, 80, 1e-5): 10.57,
    (0.0256, 0.56, 80, 1e-4): 6.2236,
    (0.0256, 0.56, 80, 2e-5): 7.331,
    (0.0256, 5.0, 80, 1e-5): 0.1538,
    (0.0256, 0.56, 79, 1e-5): 7.7701,
    (0.0128, 0.56, 80, 1e-5): 5.0984,
    (0.0256, 0.5601, 80, 1e-5): 7.7962,
}


def consistent(rate: float = 0.0256, sigma: float = 0.56, steps: int = 80, delta: float = 1e-5) -> dict[str, Any]:
    """Another mechanism, with the costs that it really has, and a cap that allows them."""
    cost = COSTS[rate, sigma, steps, delta]
    budget = basic(cost, max(delta, 4e-5), 100.0)
    return {"mechanisms": (Mechanism(rate, sigma, steps),), "epsilon": cost, "delta": delta, **budget}


def _sigma(sigma: float) -> dict[str, Any]:
    return {"mechanisms": (Mechanism(0.0256, sigma, 80),)}


def _cost(sigma: float) -> float:
    return COSTS[0.0256, sigma, 80, 1e-5]


_ALTERED = "the statement was altered or forged, or is from another run"
_NOT_A_FILTER = "it should be 'basic-composition-filter' or 'rdp-filter'"
_ALONE = f"this run alone costs {RENYI} by rdp-filter"
_ALONE_BASIC = "this run alone costs 7.7999 by basic-composition-filter"
_SMALLER_SIGMA = (
    f"it states ε = 7.7999; its mechanism costs {_cost(0.5)}",
    f"it states ε = 7.7999 over all its runs; this run alone costs {_cost(0.5)} by basic-composition-filter",
    f"its mechanism costs ε = {_cost(0.5)}; the plan allows 8.0",
)

FORGED: dict[str, Forged] = {
    # Spent over all runs
    "renyi, nothing spent": Forged(renyi(0.0), (f"it states ε = 0.0 over all its runs; {_ALONE}",)),
    "renyi, only the cost by PRV spent": Forged(
        renyi(7.7999), (f"it states ε = 7.7999 over all its runs; {_ALONE}",)
    ),
    "renyi, 0.0003 too little spent": Forged(
        renyi(12.3482), (f"it states ε = 12.3482 over all its runs; {_ALONE}",)
    ),
    "renyi, spent as at a larger delta": Forged(
        renyi(RENYI, 1e-5),
        (f"ε = {RENYI} over all its runs; this run alone costs {RENYI_AT_RUN_DELTA} by rdp-filter",),
    ),
    "basic, nothing spent": Forged(basic(0.0), (f"it states ε = 0.0 over all its runs; {_ALONE_BASIC}",)),
    "basic, 0.0003 too little spent": Forged(
        basic(7.7996), (f"it states ε = 7.7996 over all its runs; {_ALONE_BASIC}",)
    ),
    "more spent than the cap": Forged(basic(9.0, cap=8.0), ("it spent ε = 9.0, above its cap of 8.0",)),
    "renyi, no cap": Forged(renyi(RENYI, cap=0.0), (f"it spent ε = {RENYI}, above its cap of 0.0",)),
    # The accountants
    "an unknown filter": Forged(
        by("own-filter"), (f"its accountant over all runs is 'own-filter'; {_NOT_A_FILTER}",)
    ),
    "no filter": Forged(by(""), (f"its accountant over all runs is ''; {_NOT_A_FILTER}",)),
    "a filter in capital letters": Forged(by("RDP-filter"), (f"over all runs is 'RDP-filter'; {_NOT_A_FILTER}",)),
    "the accountant of runs as filter": Forged(by("prv", 7.7999), (f"over all runs is 'prv'; {_NOT_A_FILTER}",)),
    "a name that only looks the same": Forged(by("rdp\u2010filter"), (f"rdp\u2010filter'; {_NOT_A_FILTER}",)),
    "a run by another accountant": Forged({"accountant": "gdp"}, ("its accountant is 'gdp'; it should be 'prv'",)),
    "a run by the looser accountant": Forged(
        {"accountant": "rdp"}, ("its accountant is 'rdp'; it should be 'prv'",)
    ),
    # δ
    "basic, a smaller delta than the run's": Forged(
        basic(7.7999, 9e-6), ("its δ over all runs is 9e-06; this run alone has 1e-05",)
    ),
    "basic, a delta that allows publishing records": Forged(
        basic(7.7999, 1e-4), ("its δ over all runs is 0.0001; it should be below 1 / public_size = 0.0001",)
    ),
    "renyi, a delta that allows publishing records": Forged(
        renyi(RENYI, 1e-4), ("its δ over all runs is 0.0001; it should be below 1 / public_size = 0.0001",)
    ),
    "renyi, a delta of one and nothing spent": Forged(
        renyi(RENYI, 1.0), ("its δ over all runs is 1.0; it should be below 1 / public_size = 0.0001",)
    ),
    "a run's delta that allows publishing records": Forged(
        consistent(delta=1e-4),
        (
            "its δ is 0.0001; it should be below 1 / public_size = 0.0001",
            "its δ over all runs is 0.0001; it should be below 1 / public_size = 0.0001",
            "its δ is 0.0001; the plan's is 1e-05",
        ),
    ),
    "a larger delta than the plan's": Forged(consistent(delta=2e-5), ("its δ is 2e-05; the plan's is 1e-05",)),
    # ε of the run
    "no cost stated": Forged({"epsilon": 0.0}, ("it states ε = 0.0; its mechanism costs 7.7999",)),
    "0.0003 less stated": Forged({"epsilon": 7.7996}, ("it states ε = 7.7996; its mechanism costs 7.7999",)),
    "0.0003 more stated": Forged({"epsilon": 7.8002}, ("it states ε = 7.8002; its mechanism costs 7.7999",)),
    "much more stated": Forged({"epsilon": 50.0}, ("it states ε = 50.0; its mechanism costs 7.7999",)),
    # The mechanism
    "less noise, costs as before": Forged(_sigma(0.5), _SMALLER_SIGMA),
    "less noise, costs to match": Forged(
        consistent(sigma=0.5), (f"its mechanism costs ε = {_cost(0.5)}; the plan allows 8.0",)
    ),
    "more noise, costs as before": Forged(
        _sigma(5.0), (f"it states ε = 7.7999; its mechanism costs {_cost(5.0)}",)
    ),
    "fewer steps": Forged(consistent(steps=79), ("its mechanism has 79 steps; the plan has 80",)),
    "half the sample rate": Forged(
        consistent(rate=0.0128),
        ("its sample rate is 0.0128; the plan's batch of 256 by its public size is 0.0256",),
    ),
    "another public size": Forged(
        {"public_size": 9_999},
        ("its sample rate is 0.0256; the plan's batch of 256 by its public size is 0.0256026",),
    ),
    "another adjacency": Forged({"adjacency": "replace-one"}, ("it states the adjacency 'replace-one'",)),
    "another unit": Forged({"unit": "user"}, ("its unit is 'user'; the plan's is 'example'",)),
    "another plan": Forged({"plan": "00" * 32}, ("its statement is about another plan",)),
    # Altered by who has no key
    "altered noise under a signature": Forged(_sigma(0.5), (_ALTERED, *_SMALLER_SIGMA), "nobody"),
    "a smaller budget under a signature": Forged(
        renyi(0.0), (_ALTERED, f"it states ε = 0.0 over all its runs; {_ALONE}"), "nobody"
    ),
    "passed off as a simulation": Forged({"signature": "", "boundary": SIMULATED}, (_ALTERED,), "nobody"),
    "signed with another key": Forged({}, (_ALTERED,), "another key"),
    # Simulations, which have no signature
    "simulated, less noise": Forged(_sigma(0.5), _SMALLER_SIGMA, "simulation"),
    "simulated, less noise, costs to match": Forged(
        {**consistent(sigma=0.5)}, (f"its mechanism costs ε = {_cost(0.5)}; the plan allows 8.0",), "simulation"
    ),
    "simulated, a little more noise": Forged(
        _sigma(0.5601), (f"it states ε = 7.7999; its mechanism costs {_cost(0.5601)}",), "simulation"
    ),
    "simulated, another cost": Forged(
        {"epsilon": 7.0}, ("it states ε = 7.0; its mechanism costs 7.7999",), "simulation"
    ),
    "simulated, nothing spent": Forged(
        renyi(0.0), (f"it states ε = 0.0 over all its runs; {_ALONE}",), "simulation"
    ),
    "simulated, an unknown filter": Forged(by("own-filter"), (_NOT_A_FILTER,), "simulation"),
    "simulated, a smaller delta": Forged(
        basic(7.7999, 1e-6), ("its δ over all runs is 1e-06; this run alone has 1e-05",), "simulation"
    ),
}
