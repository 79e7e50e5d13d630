"""How tensors travel: fewer bits are part of the agreement."""

from __future__ import annotations

import pytest

from common.errors import InputError
from common.plan.plan import Plan
from tests.common.plan.plans import complaint, dumped, plan


def test_a_plan_that_sends_float32_is_the_same_agreement_as_one_that_does_not_say_so() -> None:
    silent = plan()
    assert silent.wire.update == silent.wire.adapter == "float32"
    assert "wire" not in silent.agreement()
    said = plan(wire={"update": "float32", "adapter": "float32"})
    assert said.canonical() == silent.canonical()
    assert Plan.from_canonical(silent.canonical()).wire == silent.wire


def test_fewer_bits_are_part_of_the_agreement() -> None:
    digests = {plan().digest()}
    for key in ("update", "adapter"):
        for form in ("bfloat16", "int8", "int4"):
            made = plan(wire={key: form})
            assert made.agreement()["wire"][key] == form
            assert Plan.from_canonical(made.canonical()).wire == made.wire
            digests.add(made.digest())
    assert len(digests) == 7


def test_a_default_that_is_written_out_is_not_canonical() -> None:
    values = {**plan().agreement(), "wire": {"update": "float32", "adapter": "float32"}}
    with pytest.raises(InputError, match="not in canonical form"):
        Plan.from_canonical(dumped(values))


def test_an_unknown_number_format_is_named_with_those_that_there_are() -> None:
    text = complaint(wire={"update": "int2"})
    assert text.startswith("wire.update = 'int2': ")
    assert all(form in text for form in ("float32", "bfloat16", "int8", "int4"))
