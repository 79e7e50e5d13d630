"""Plans that protect users: their keys belong together, and are part of the agreement."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InputError
from common.plan.plan import Plan
from tests.common.plan.plans import USERS, complaint, dumped, plan


def test_records_per_user_belong_to_users_and_users_need_them() -> None:
    assert complaint(privacy={"unit": "user"}) == (
        'privacy: records_per_user is missing: unit = "user" needs it, 1 or more'
    )
    assert complaint(privacy={"records_per_user": 4}) == 'privacy: records_per_user = 4 needs unit = "user"'
    assert plan(privacy=USERS).privacy.records_per_user == 4


def test_a_user_field_belongs_to_users() -> None:
    assert 'needs privacy.unit = "user"' in complaint(simulation={"user_field": "user"})
    assert plan(privacy=USERS, simulation={"user_field": "user"}).simulation.user_field == "user"


def test_a_plan_for_users_has_a_digest_of_its_own_for_each_number_of_records_and_comes_back(
    tmp_path: Path,
) -> None:
    made = [plan(), *(plan(privacy={**USERS, "records_per_user": number}) for number in (1, 4, 10**6))]
    assert len({each.digest() for each in made}) == 4
    path = tmp_path / "plan.toml"
    for each in made:
        assert Plan.from_canonical(each.canonical()) == each
        for text in (each.agreement_toml(), each.to_toml()):
            path.write_text(text, encoding="utf-8")
            assert Plan.read(path).digest() == each.digest()


def test_a_key_without_a_value_is_no_part_of_the_agreement() -> None:
    values = json.loads(plan().canonical())
    assert "records_per_user" not in values["privacy"]
    values["privacy"]["records_per_user"] = None
    with pytest.raises(InputError, match="not in canonical form"):
        Plan.from_canonical(dumped(values))
