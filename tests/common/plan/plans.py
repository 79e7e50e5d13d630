"""Plans that differ from the smallest plan, and the errors for invalid plans."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import strategies as st

from common.errors import InputError
from common.plan.plan import Plan
from common.settings import validate

SMALLEST: dict[str, Any] = {
    "name": "triage",
    "model": {"base": "base"},
    "training": {"rounds": 3, "batch_size": 8},
    "privacy": {"epsilon": 8.0, "delta": 1e-5},
}


USERS = {"unit": "user", "records_per_user": 4}


def plan(**sections: Any) -> Plan:
    values = dict(SMALLEST)
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return validate(values, Plan, "plan.toml")


def complaint(**sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        plan(**sections)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("plan.toml: ")
    return text.removeprefix("plan.toml: ")


def dumped(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


PARTS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True),
        "model": st.fixed_dictionaries({"base": st.text(min_size=1, max_size=8)}),
        "lora": st.fixed_dictionaries(
            {
                "target_modules": st.just("all-linear") | st.lists(st.text(max_size=4), max_size=2),
                "alpha": st.floats(min_value=1e-300, max_value=1e300),
            }
        ),
        "privacy": st.fixed_dictionaries(
            {
                "epsilon": st.floats(min_value=0, max_value=20, exclude_min=True),
                "delta": st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True),
            }
        ),
        "training": st.fixed_dictionaries({"rounds": st.integers(1, 5_000), "batch_size": st.integers(1, 3)}),
    }
)
