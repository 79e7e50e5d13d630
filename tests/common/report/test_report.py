"""The privacy report for machines: ε recomputed, signatures verified, nothing taken as stated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from common.privacy.mechanism import Mechanism
from common.protocol.statement import Lifetime
from common.report.report import NOT_COVERED, build_report, guarantee, problems, two_decimals, warnings
from tests.common.report.reports import KEY, KEYS, OTHER, only, prv_epsilon, report_of
from tests.common.report.sample_run import PLAN, RUN, signed, simulated, statement
from tests.reference import pld_epsilon

FINGERPRINT = "SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA"


def stated_epsilon(mechanism: dict[str, Any], delta: float) -> float:
    rate, sigma, steps = (mechanism[key] for key in ("sample_rate", "noise_multiplier", "steps"))
    return pld_epsilon(rate, sigma, steps, delta)


def of(mechanism: Mechanism, delta: float = 1e-5) -> dict[str, Any]:
    """What a statement of one run says about its mechanism."""
    cost = prv_epsilon(mechanism, delta)
    spent = Lifetime(cost, 16.0, 4e-5, "basic-composition-filter")
    return {"mechanisms": (mechanism,), "epsilon": cost, "delta": delta, "lifetime": spent}


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
        (of(Mechanism(0.0256, 0.56, 40)), "40 steps; the plan has 80"),
        (of(Mechanism(0.0256, 0.56, 80), 2e-5), "δ is 2e-05"),
        (of(Mechanism(0.0256, 0.5, 80)), "costs ε = 10.57; the plan allows 8.0"),
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
    more = statement("st-mary", **of(Mechanism(0.0256, 5.0, 80)))
    assert problems(report_of(signed(more, KEY), plan=PLAN)) == []


@pytest.mark.parametrize(("raised", "said"), [(0, []), (1, ["once"]), (3, ["3 times"])])
def test_a_cap_that_was_raised_is_a_warning_and_no_problem(raised: int, said: list[str]) -> None:
    lifetime = Lifetime(8.0, 16.0, 4e-5, "basic-composition-filter", raised)
    report = report_of(signed(statement("st-mary", lifetime=lifetime), KEY))
    assert warnings(report) == [f"st-mary: its lifetime cap was raised {times}" for times in said]
    assert problems(report) == []
    assert only(report)["lifetime"].get("raised", 0) == raised


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
