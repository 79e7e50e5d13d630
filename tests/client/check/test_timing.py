"""How long a round takes at most, and what is said of `vault.reply_seconds`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from client.check.timing import Speed, check_times, enough_seconds, most_tokens
from client.vault.policy.organization import Organization
from client.vault.records.encoded import Unit
from common.plan.plan import Plan
from common.settings import validate
from common.tasks import Example

SPEED = Speed(token=0.001, step=0.5, encoding=3.0, parameters=1000)


def organization(public_size: int, **vault: Any) -> Organization:
    policy = {"max_epsilon": 8.0, "max_epsilon_per_run": 8.0, "max_delta": 1e-9}
    values = {
        "name": "st-mary",
        "data": {"train": "records.jsonl", "public_size": public_size},
        "models": {"base": "base"},
        "policy": policy,
        "vault": vault,
    }
    return validate(values, Organization, "test")


def plan(batch_size: int, local_steps: int = 1, **privacy: Any) -> Plan:
    values = {
        "name": "test",
        "model": {"base": "base"},
        "task": {"max_length": 40},
        "lora": {"rank": 2, "alpha": 4.0},
        "training": {"rounds": 1, "local_steps": local_steps, "batch_size": batch_size},
        "federation": {"round_timeout": 100.0},
        "privacy": {"epsilon": 8.0, "delta": 1e-9, **privacy},
    }
    return validate(values, Plan, "test")


def unit(*lengths: int) -> Unit:
    return tuple(Example((1,) * length, (1,) * length) for length in lengths)


@given(st.integers(1, 3000), st.data())
def test_more_tokens_are_drawn_with_a_negligible_probability(count: int, data: Any) -> None:
    """Units of 16 padded tokens, so that tokens count units."""
    batch_size = data.draw(st.integers(1, count))
    own, asked = organization(count, max_tokens=16), plan(batch_size)
    most = most_tokens(own, asked, [unit(3)] * count) // 16 - 1
    assert 0 <= most <= count
    assert binom.sf(most, count, batch_size / count) <= 1e-9


def test_the_longest_units_count_and_a_micro_batch_of_each_length_may_be_partial() -> None:
    units = [unit(3), unit(20), unit(40, 3, 17), unit(), unit(3)]
    everything = organization(5, max_tokens=64)
    # By hand: 16 + 32 + (48 + 16 + 32) + 0 + 16 = 160, and three lengths of 64 tokens each.
    assert most_tokens(everything, plan(5), units) == 160 + 3 * 64
    by_user = plan(5, unit="user", records_per_user=2)
    assert most_tokens(everything, by_user, units) == 160 - 16 + 3 * 64, "the user's two longest"


def test_what_is_enough_is_twice_the_longest_round_in_tens_of_seconds() -> None:
    units = [unit(3)] * 100
    # 3 s of encoding, and 4 steps of 0.5 s and 100 · 16 + 512 tokens of 1 ms: 13.448 s, twice that is 26.9 s.
    assert enough_seconds(organization(100), plan(100, local_steps=4), SPEED, units) == 30


@pytest.mark.parametrize(
    ("reply", "state", "said"),
    [
        (None, "ok", "follows the records that are drawn; vault.reply_seconds = 10 would be enough"),
        (12.0, "ok", "hidden by vault.reply_seconds = 12; 10 would be enough"),
        (4.0, "warning", "vault.reply_seconds = 4 may be too short to hide it; 10 is enough"),
        (101.0, "warning", "vault.reply_seconds = 101 is above the plan's round_timeout = 100: always too late"),
    ],
)
def test_the_reply_time_is_compared_with_what_is_enough(reply: float | None, state: str, said: str) -> None:
    own = organization(10) if reply is None else organization(10, reply_seconds=reply)
    findings = {finding.name: finding for finding in check_times(own, plan(10), SPEED, [unit(3)] * 10)}
    assert findings["time"].text == "about 1 s for a round of 1 steps"
    assert findings["reply time"].state == state
    assert said in findings["reply time"].text


@pytest.mark.parametrize("reply", [0.0, -1.0, float("inf"), float("nan")])
def test_a_reply_time_is_a_positive_number(reply: float, tmp_path: Path) -> None:
    from common.errors import InputError

    with pytest.raises(InputError, match=r"vault.reply_seconds"):
        organization(10, reply_seconds=reply)
