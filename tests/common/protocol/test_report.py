"""The privacy report for machines: ε recomputed, signatures verified, nothing taken as stated."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from common.keys.statement_key import StatementKey
from common.privacy.mechanism import Mechanism
from common.protocol.report import NOT_COVERED, build_report, guarantee, problems, two_decimals, warnings
from common.protocol.statement import SIMULATED, Lifetime, Statement
from common.untrusted import printable
from tests.reference import pld_epsilon
from tests.server.report.signed_run import PLAN, RUN, signed, simulated, statement

KEY, OTHER = StatementKey.generate(), StatementKey.generate()
KEYS = {"st-mary": KEY.public}
FINGERPRINT = "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"


def report_of(item: Statement, keys: dict[str, str] = KEYS, **more: Any) -> dict[str, Any]:
    """The report of one statement, after it went through JSON."""
    report = build_report(RUN, [item], keys, **more)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    return report


def only(report: dict[str, Any]) -> dict[str, Any]:
    (item,) = report["organizations"]
    return item


def stated_epsilon(mechanism: dict[str, Any], delta: float) -> float:
    rate, sigma, steps = (mechanism[key] for key in ("sample_rate", "noise_multiplier", "steps"))
    return pld_epsilon(rate, sigma, steps, delta)


# ε


@pytest.mark.parametrize(
    ("mechanism", "delta"),
    [
        (Mechanism(0.0256, 0.56, 80), 1e-5),
        (Mechanism(0.1, 2.0, 50), 1e-5),
        (Mechanism(0.25, 1.5, 40), 1e-3),
        (Mechanism(0.001, 0.6, 1000), 1e-6),
        (Mechanism(1.0, 5.0, 3), 1e-5),
    ],
    ids=str,
)
def test_epsilon_of_the_report_is_that_of_another_library(mechanism: Mechanism, delta: float) -> None:
    item = signed(statement("st-mary", mechanisms=(mechanism,), epsilon=50.0, delta=delta), KEY)
    said = only(report_of(item))
    reference = stated_epsilon(said["mechanisms"][0], said["delta"])
    assert reference - 0.001 <= said["epsilon"] <= reference + 0.02
    assert said["epsilon"] <= said["epsilon_rdp"]
    assert said["epsilon_stated"] == 50.0


def test_a_statement_that_understates_its_cost_is_found() -> None:
    report = report_of(signed(statement("st-mary", epsilon=2.0), KEY))
    assert only(report)["signature"] == "valid"
    assert only(report)["epsilon"] == pytest.approx(7.80, abs=0.01)
    assert len(problems(report)) == 1
    assert "states ε = 2.0" in problems(report)[0]


def test_a_lifetime_below_the_cost_of_this_run_alone_is_found() -> None:
    spent = Lifetime(3.0, 16.0, 4e-5, "basic-composition-filter")
    report = report_of(signed(statement("st-mary", lifetime=spent), KEY))
    assert len(problems(report)) == 1
    assert "3.0 over all its runs" in problems(report)[0]
    # By Rényi composition at a larger δ a run may cost less than alone at its own.
    spent = Lifetime(3.0, 16.0, 4e-5, "rdp-filter")
    assert problems(report_of(signed(statement("st-mary", lifetime=spent), KEY))) == []


def test_a_sound_statement_has_no_problems_and_no_warnings() -> None:
    report = report_of(signed(statement("st-mary"), KEY), plan=PLAN, answered=["st-mary"])
    assert only(report)["signature"] == "valid"
    assert problems(report) == warnings(report) == report["missing_statements"] == []
    assert report["not_covered"] == list(NOT_COVERED)


# Signatures


def test_the_key_inside_a_statement_does_not_make_its_signature_valid() -> None:
    forged = signed(statement("st-mary"), OTHER)
    assert only(report_of(forged))["signature"] == "invalid"
    report = report_of(forged, {})
    assert only(report)["signature"] == "unregistered"
    assert problems(report) == []
    assert "registered no key" in warnings(report)[0]


def test_another_organizations_key_is_not_valid() -> None:
    report = report_of(signed(statement("st-mary"), OTHER), {"st-mary": KEY.public, "clinic": OTHER.public})
    assert only(report)["signature"] == "invalid"


ALTERED: dict[str, Any] = {
    "plan": "00" * 32,
    "fingerprint": "00" * 32,
    "unit": "user",
    "public_size": 10_001,
    "mechanisms": (Mechanism(0.0256, 0.57, 80),),
    "epsilon": 7.81,
    "delta": 2e-5,
    "lifetime": Lifetime(7.81, 17.0, 4e-5, "basic-composition-filter"),
    "boundary": "separate users",
    "versions": {"sotto": "0.2.0"},
    "adjacency": "replace-one",
    "accountant": "rdp",
    "key": OTHER.public,
    "signature": "",
    "run": "triage-2026-11-22-00000000",
    "organization": "clinic",
}


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("field", ALTERED)
def test_whatever_is_altered_the_signature_is_invalid(field: str, registered: bool) -> None:
    altered = replace(signed(statement("st-mary"), KEY), **{field: ALTERED[field]})
    keys = {"st-mary": KEY.public, "clinic": KEY.public} if registered else {}
    report = report_of(altered, keys)
    assert only(report)["signature"] == "invalid"
    assert any("altered or forged" in text for text in problems(report))


def test_every_field_is_among_those_that_are_altered() -> None:
    assert set(ALTERED) | {"head"} == set(statement("st-mary").to_dict())


def test_another_head_makes_the_signature_invalid() -> None:
    item = signed(statement("st-mary"), KEY)
    older = replace(item, head=replace(item.head, number=3))
    assert only(report_of(older))["signature"] == "invalid"


def test_a_true_statement_of_another_run_is_invalid() -> None:
    other = signed(statement("st-mary", run="triage-2026-11-01-00000000"), KEY)
    assert only(report_of(other))["signature"] == "invalid"


def test_who_has_a_key_cannot_pass_for_a_simulation() -> None:
    report = report_of(simulated("st-mary"))
    assert only(report)["signature"] == "invalid"
    assert only(report_of(simulated("st-mary"), {}))["signature"] == "none"
    assert problems(report_of(simulated("st-mary"), {})) == []


def test_key_fingerprints_are_those_of_ssh_keygen() -> None:
    """The key and its fingerprint were printed by ssh-keygen -lf."""
    line = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    key = serialization.load_ssh_public_key(f"ssh-ed25519 {line}".encode())
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()
    said = only(report_of(statement("st-mary", key=raw), {"st-mary": raw}))
    assert said["key_fingerprint"] == said["registered_key_fingerprint"] == FINGERPRINT
    assert only(report_of(statement("st-mary", key="no key"), {}))["key_fingerprint"] == ""


# What does not fit the plan


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"plan": "00" * 32}, "another plan"),
        ({"unit": "user"}, "unit is 'user'"),
        ({"public_size": 20_000}, "sample rate is 0.0256"),
        ({"public_size": 0}, "sample rate is 0.0256"),
        ({"mechanisms": (Mechanism(0.0256, 0.56, 40),)}, "40 steps; the plan has 80"),
        ({"delta": 2e-5}, "δ is 2e-05"),
        ({"adjacency": "replace-one"}, "adjacency 'replace-one'"),
        ({"lifetime": Lifetime(9.0, 8.0, 4e-5, "basic-composition-filter")}, "above its cap of 8.0"),
    ],
)
def test_a_statement_that_is_not_about_the_plan_does_not_hold(changed: dict[str, Any], said: str) -> None:
    report = report_of(signed(statement("st-mary", **changed), KEY), plan=PLAN)
    assert [said in text for text in problems(report)] == [True]
    assert "There is no guarantee for st-mary" in report["guarantee"]
    assert warnings(report) == []


def test_more_noise_than_the_plan_needs_is_no_difference() -> None:
    """An organization's policy may demand it."""
    more = statement("st-mary", mechanisms=(Mechanism(0.0256, 5.0, 80),))
    assert problems(report_of(signed(more, KEY), plan=PLAN)) == []


def test_an_organization_that_answered_and_stated_nothing_is_missing() -> None:
    report = report_of(signed(statement("st-mary"), KEY), answered=["st-mary", "clinic", "bank"])
    assert report["missing_statements"] == ["bank", "clinic"]


# The sentence


def test_the_sentence_has_its_numbers_rounded_up() -> None:
    spent = Lifetime(7.8601, 16.0, 4e-5, "basic-composition-filter")
    text = report_of(signed(statement("st-mary", lifetime=spent), KEY))["guarantee"]
    assert "st-mary: (7.87, 4e-05) for one example" in text
    assert "adding or removing one unit" in text
    assert "protects nobody" not in text
    assert [two_decimals(value) for value in (0.0, 1.0, 1.001, 7.9999, 0.1)] == [
        "0.00",
        "1.00",
        "1.01",
        "8.00",
        "0.10",
    ]


def test_the_sentence_promises_nothing_for_a_statement_that_does_not_hold() -> None:
    good, bad = signed(statement("st-mary"), KEY), signed(statement("clinic"), KEY)
    report = build_report(RUN, [good, bad], {**KEYS, "clinic": OTHER.public})
    assert "st-mary: (" in report["guarantee"]
    assert "clinic: (" not in report["guarantee"]
    assert "no guarantee for clinic" in report["guarantee"]
    assert build_report(RUN, [bad], {"clinic": OTHER.public})["guarantee"].startswith("No guarantee")


def test_no_statements_no_guarantee() -> None:
    assert guarantee([]).startswith("No guarantee")
    report = build_report(RUN, [], {})
    assert report["epsilon"] is None
    assert report["organizations"] == []


def test_a_simulation_says_that_it_protects_nobody() -> None:
    assert "protects nobody" in report_of(simulated("st-mary"), {})["guarantee"]


# What organizations may write


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
