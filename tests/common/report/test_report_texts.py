"""What organizations may write into statements: whatever it is, there is a report or a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from common.privacy.mechanism import Mechanism
from common.protocol.statement import SIMULATED, Statement
from common.report.report import problems, warnings
from common.untrusted import printable
from tests.common.report.reports import KEY, only, report_of
from tests.common.report.sample_run import PLAN, statement


@given(st.text(max_size=300))
def test_what_is_printed_is_one_line_without_control_characters(text: str) -> None:
    shown = printable(text)
    assert len(shown) <= 200
    assert shown.isprintable()
    if text.isprintable() and len(text) <= 200:
        assert shown == text


TEXTS = st.text(max_size=30)
NUMBERS = st.one_of(st.floats(), st.integers(-(10**400), 10**400), st.none(), st.booleans(), TEXTS)


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    texts=st.fixed_dictionaries(
        dict.fromkeys(("organization", "unit", "adjacency", "accountant", "key", "signature", "plan"), TEXTS)
    ),
    boundary=st.one_of(TEXTS, st.just(SIMULATED)),
    versions=st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=3),
    rate=st.floats(1e-6, 1.0),
    sigma=st.floats(0.001, 1e3),
    steps=st.integers(1, 60),
    delta=st.floats(1e-12, 0.9),
)
def test_whatever_is_stated_there_is_a_report(
    texts: dict[str, str],
    boundary: str,
    versions: dict[str, str],
    rate: float,
    sigma: float,
    steps: int,
    delta: float,
) -> None:
    values = {
        **statement("st-mary").to_dict(),
        **texts,
        "boundary": boundary,
        "versions": versions,
        "delta": delta,
        "mechanisms": [Mechanism(rate, sigma, steps).to_dict()],
    }
    item = Statement.from_dict(json.loads(json.dumps(values)))
    report = report_of(item, {texts["organization"]: KEY.public}, plan=PLAN)
    assert only(report)["signature"] == "invalid"
    assert only(report)["epsilon"] >= 0
    assert all(text.isprintable() for text in (*problems(report), *warnings(report), report["guarantee"]))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["epsilon", "delta", "public_size", "mechanisms", "lifetime", "head"]),
    NUMBERS,
    st.sampled_from(["sample_rate", "noise_multiplier", "steps"]),
    st.sampled_from(["epsilon_spent", "max_epsilon", "delta"]),
)
def test_a_statement_is_read_or_refused_as_such(key: str, value: Any, part: str, spent: str) -> None:
    values = statement("st-mary").to_dict()
    if key == "mechanisms":
        values[key][0][part] = value
    elif key == "lifetime":
        values[key][spent] = value
    elif key == "head":
        values[key]["number"] = value
    else:
        values[key] = value
    try:
        item = Statement.from_dict(json.loads(json.dumps(values)))
    except ValueError:
        return
    json.dumps(item.to_dict(), allow_nan=False)


@pytest.mark.parametrize("count", [0, 2])
def test_a_statement_without_exactly_one_mechanism_is_refused(count: int) -> None:
    values = statement("st-mary").to_dict()
    with pytest.raises(ValueError, match="mechanisms"):
        Statement.from_dict({**values, "mechanisms": values["mechanisms"] * count})


def test_half_a_surrogate_pair_is_no_text() -> None:
    values = statement("st-mary").to_dict()
    for changed in ({"boundary": "\ud800"}, {"versions": {"sotto": "\ud800"}}, {"versions": {"\udfff": "1"}}):
        with pytest.raises(ValueError):
            Statement.from_dict({**values, **changed})


@pytest.mark.parametrize("steps", [20_000, 10**15])
def test_a_mechanism_that_would_take_gigabytes_gets_the_looser_bound(steps: int) -> None:
    item = statement("st-mary", mechanisms=(Mechanism(0.3, 3.0, steps),), delta=1e-5)
    said = only(report_of(item))
    assert said["epsilon"] == said["epsilon_rdp"] > 100


def test_an_epsilon_is_never_below_zero() -> None:
    item = statement("st-mary", mechanisms=(Mechanism(1e-9, 3.0, 1),), delta=0.5)
    assert only(report_of(item))["epsilon"] == 0
