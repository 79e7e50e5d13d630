"""The aggregation section: which settings fit together, and which are part of the agreement."""

from __future__ import annotations

import math
from typing import Any

import pytest

from common.plan.plan import Plan
from tests.common.plan.plans import complaint, plan

ROBUST = {"robust": "multi-krum", "byzantine": 2}


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        ({"robust": "median"}, 'byzantine is missing: robust = "median" needs it, 1 or more'),
        ({"byzantine": 2}, 'byzantine = 2 needs robust = "median", for instance'),
        ({**ROBUST, "byzantine": 0}, "byzantine = 0: it should be greater than or equal to 1"),
        ({**ROBUST, "weights": "public-size"}, 'weights = "public-size": robust = "multi-krum" needs "equal"'),
        ({"max_update_norm": 0.0}, "max_update_norm = 0.0: it should be greater than 0"),
        ({"max_update_norm": math.nan}, "max_update_norm = nan: it should be a finite number"),
        ({"method": "svd", **ROBUST}, 'robust = \'multi-krum\' needs method = "ffa" or "fedavg"; it is "svd"'),
        ({"method": "stack", "average": 0.5}, 'average = 0.5 needs method = "ffa" or "fedavg"; it is "stack"'),
        ({"method": "svd", "server_optimizer": "fedavgm"}, "server_optimizer = 'fedavgm' needs method"),
        ({"server_learning_rate": 0.5}, "server_learning_rate = 0.5 needs a server_optimizer"),
        (
            {"server_optimizer": "fedyogi"},
            'server_learning_rate is missing: server_optimizer = "fedyogi" needs it',
        ),
        (
            {"server_optimizer": "fedavgm", "server_momentum": 1.0},
            "server_momentum = 1.0: it should be less than 1",
        ),
        ({"average": 1.0}, "average = 1.0: it should be less than 1"),
        ({"robust": "krum"}, "robust = 'krum': it should be 'none', 'median', 'trimmed-mean' or 'multi-krum'"),
    ],
)
def test_an_aggregation_that_does_not_fit_together_is_named(aggregation: dict[str, Any], said: str) -> None:
    assert said in complaint(aggregation=aggregation)


@pytest.mark.parametrize("method", ["ffa", "fedavg"])
def test_ranks_that_the_method_does_not_support_are_named(method: str) -> None:
    said = complaint(lora={"rank": 8, "min_rank": 4}, aggregation={"method": method})
    assert said == (
        'lora.min_rank = 4: ranks below lora.rank = 8 need aggregation.method = "svd" or "stack"; it is '
        f'"{method}"'
    )
    plan(lora={"rank": 8, "min_rank": 8}, aggregation={"method": method})
    assert "min_rank = 9 should be at most rank = 8" in complaint(lora={"rank": 8, "min_rank": 9})


@pytest.mark.parametrize("method", ["svd", "stack"])
def test_the_least_rank_is_part_of_the_agreement_and_the_ranks_of_a_simulation_are_not(method: str) -> None:
    aggregation = {"method": method}
    plans = [plan(lora={"min_rank": least}, aggregation=aggregation) for least in (2, 4, 8)]
    assert len({one.digest() for one in [*plans, plan(aggregation=aggregation)]}) == 4
    simulated = plan(lora={"min_rank": 4}, aggregation=aggregation, simulation={"ranks": [4, 8]})
    assert simulated.digest() == plans[1].digest()
    assert Plan.from_canonical(simulated.canonical()).simulation.ranks == []


def test_a_robust_aggregation_is_part_of_the_agreement() -> None:
    assert len({plan(aggregation={**ROBUST, "byzantine": f}).digest() for f in (1, 2, 3)}) == 3
    assert plan(aggregation=ROBUST).digest() != plan(aggregation={**ROBUST, "robust": "median"}).digest()
