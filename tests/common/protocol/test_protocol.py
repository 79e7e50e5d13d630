"""What is asked and answered: a digest for every request, a statement that survives being sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import RefusalCode, is_refusal_code
from common.privacy.mechanism import Mechanism
from common.protocol.protocol import REASONS, TrainRequest
from common.protocol.statement import Head, Lifetime, Statement

REQUEST = TrainRequest("triage-2026-11-22-1a2b3c4d", 3, b'{"plan":1}', "f1", b"adapter")
HEAD = Head("0f" * 16, 7, "ee" * 32, "aa" * 64)
STATEMENT = Statement(
    organization="st-mary",
    run="triage-2026-11-22-1a2b3c4d",
    plan="ab" * 32,
    fingerprint="cd" * 32,
    unit="example",
    public_size=10_000,
    mechanisms=(Mechanism(0.0256, 0.56, 80),),
    epsilon=7.8,
    delta=1e-5,
    lifetime=Lifetime(epsilon_spent=7.8, max_epsilon=8.0, delta=1e-5, accountant="rdp-filter"),
    boundary="same user",
    versions={"sotto": "0.1.0"},
    head=HEAD,
)


def sent(values: Any) -> Any:
    return json.loads(json.dumps(values))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "triage-2026-11-22-1a2b3c4e"),
        ("round", 4),
        ("plan", b'{"plan":2}'),
        ("fingerprint", "f2"),
        ("adapter", b"adapteR"),
        ("adapter", b""),
    ],
)
def test_another_value_in_any_field_gives_another_digest(field: str, value: Any) -> None:
    assert replace(REQUEST, **{field: value}).digest() != REQUEST.digest()


def test_equal_requests_have_equal_digests() -> None:
    assert replace(REQUEST).digest() == REQUEST.digest()
    assert len(bytes.fromhex(REQUEST.digest())) == 32


@settings(deadline=None)
@given(data=st.binary(min_size=1, max_size=24), cuts=st.sets(st.integers(0, 24), min_size=2, max_size=2))
def test_bytes_cannot_move_between_plan_and_adapter(data: bytes, cuts: set[int]) -> None:
    digests = {replace(REQUEST, plan=data[:cut], adapter=data[cut:]).digest() for cut in cuts}
    assert len(digests) == len({min(cut, len(data)) for cut in cuts})


@settings(deadline=None)
@given(st.data())
def test_text_cannot_move_between_run_and_fingerprint(data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet='a", \\[]\n1', min_size=1, max_size=10))
    first = data.draw(st.integers(0, len(text)))
    second = data.draw(st.integers(0, len(text)).filter(lambda cut: cut != first))
    one, other = (replace(REQUEST, run=text[:cut], fingerprint=text[cut:]) for cut in (first, second))
    assert one.digest() != other.digest()


def test_a_statement_comes_back_as_it_was_sent() -> None:
    assert Statement.from_dict(sent(STATEMENT.to_dict())) == STATEMENT


def test_a_statement_is_plain_values_with_the_mechanism_spelt_out() -> None:
    values = sent(STATEMENT.to_dict())
    assert values["mechanisms"] == [
        {"kind": "poisson-gaussian", "sample_rate": 0.0256, "noise_multiplier": 0.56, "steps": 80}
    ]
    assert values["adjacency"] == "add-remove"
    assert values["lifetime"]["epsilon_spent"] == 7.8


def test_a_statement_that_lacks_a_field_or_has_another_is_refused() -> None:
    whole = sent(STATEMENT.to_dict())
    for key in sorted(set(whole) - {"adjacency", "accountant", "key", "signature"}):
        with pytest.raises(ValueError):
            Statement.from_dict({name: value for name, value in whole.items() if name != key})
    with pytest.raises(ValueError):
        Statement.from_dict({**whole, "records": 1234})
    with pytest.raises(ValueError):
        Statement.from_dict({**whole, "lifetime": {**whole["lifetime"], "records": 1234}})


@pytest.mark.parametrize("values", [None, [], {}, "statement", 5, [1, 2], {"mechanisms": []}])
def test_what_is_no_table_of_a_statement_is_refused(values: Any) -> None:
    with pytest.raises(ValueError):
        Statement.from_dict(values)


@pytest.mark.parametrize(
    "mechanisms",
    [
        5,
        None,
        "abc",
        [5],
        ["abc"],
        [None],
        [[]],
        [{}],
        [{"kind": "laplace", "sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1}],
        [{"kind": "poisson-gaussian", "sample_rate": "0.1", "noise_multiplier": 1.0, "steps": 1}],
        [{"kind": "poisson-gaussian", "sample_rate": 0.1, "noise_multiplier": 1.0, "steps": 1.5}],
        [{"kind": "poisson-gaussian", "sample_rate": 0.1, "noise_multiplier": -1.0, "steps": 1}],
    ],
)
def test_a_statement_with_mechanisms_that_are_none_is_refused(mechanisms: Any) -> None:
    with pytest.raises(ValueError):
        Statement.from_dict({**sent(STATEMENT.to_dict()), "mechanisms": mechanisms})


@pytest.mark.parametrize(
    ("rate", "sigma", "steps", "delta"),
    [
        (True, 1.0, 1, 1e-5),
        (0.5, True, 1, 1e-5),
        (0.5, 1e300, 1, 1e-5),
        (5e-324, 1.0, 1, 1e-5),
        (0.5, 1.0, 10**15, 1e-5),
        (0.5, 1.0, 1, 5e-324),
    ],
)
def test_numbers_that_no_accountant_can_compute_with_are_refused(
    rate: float, sigma: float, steps: int, delta: float
) -> None:
    """They would end the report of everybody, or fill the coordinator's memory."""
    mechanism = {"kind": "poisson-gaussian", "sample_rate": rate, "noise_multiplier": sigma, "steps": steps}
    with pytest.raises(ValueError):
        Statement.from_dict({**sent(STATEMENT.to_dict()), "mechanisms": [mechanism], "delta": delta})


def test_a_value_of_another_type_is_refused_in_every_field() -> None:
    whole = sent(STATEMENT.to_dict())
    numbers = {"epsilon", "delta", "public_size"}
    accepted = []
    for key in sorted(set(whole) - {"mechanisms"}):
        for value in (None, [], {}, True, "text" if key in numbers else 5, float("nan")):
            try:
                Statement.from_dict({**whole, key: value})
            except ValueError:
                continue
            accepted.append((key, value))
    assert accepted == []


def test_every_refusal_code_has_an_explanation_and_no_other_code_is_accepted() -> None:
    assert set(REASONS) == set(get_args(RefusalCode))
    assert all(is_refusal_code(code) for code in REASONS)
    assert not any(is_refusal_code(code) for code in ("", "Budget", "budget ", "the patient's name"))


# SHA-256 of the bytes that the code before the field `raised` signed for this statement.
SIGNED_BEFORE = "33fb9a9c362bf4f523b69095361e0e23d11bde9ca5971c37dce45d13774421d5"


def raised(values: Any) -> dict[str, Any]:
    whole = sent(STATEMENT.to_dict())
    return {**whole, "lifetime": {**whole["lifetime"], "raised": values}}


def test_how_often_the_cap_was_raised_is_part_of_the_signed_bytes() -> None:
    statement = replace(STATEMENT, lifetime=replace(STATEMENT.lifetime, raised=2))
    assert statement.signed_bytes() != STATEMENT.signed_bytes()
    assert sent(statement.to_dict()) == raised(2)
    assert Statement.from_json(statement.to_json()) == statement


def test_a_statement_of_an_earlier_version_keeps_the_bytes_that_were_signed() -> None:
    assert "raised" not in STATEMENT.to_json()
    assert hashlib.sha256(STATEMENT.signed_bytes()).hexdigest() == SIGNED_BEFORE
    assert Statement.from_dict(sent(STATEMENT.to_dict())).lifetime.raised == 0
    with pytest.raises(ValueError, match="canonical"):
        Statement.from_json(json.dumps(raised(0), sort_keys=True))


@pytest.mark.parametrize("value", [-1, True, False, 1.0, "1", None, [], 10**16, float("nan")])
def test_what_is_no_number_of_raises_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        Statement.from_dict(raised(value))
