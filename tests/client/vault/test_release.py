"""What a vault receives and releases in fewer bits: the noise is the same, and rounding sees nothing before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from client.vault.training.entropy import Keystream
from common.adapter.adapter import from_bytes, initial, is_lora, to_bytes, to_wire
from common.adapter.compression import NumberFormat
from common.adapter.rounding import PublicUniforms
from common.errors import Refused
from common.protocol.protocol import TrainRequest
from simulations.entropy import SeededEntropy
from tests.client.vault.bench import Bench, MakeBench, Records, open_bench
from tests.common.tasks.bases import LABELS, record, save_base
from tests.conftest import MakePlan

FORMATS: tuple[NumberFormat, ...] = get_args(NumberFormat)
FEWER = FORMATS[1:]
RECORDS: Records = [{"text": f"Customer: where is parcel {n}?\nAgent: on its way."} for n in range(12)]


@pytest.fixture
def make_bench(tmp_path: Path, make_plan: MakePlan) -> MakeBench:
    number = iter(range(100))

    def make(records: Records = RECORDS, seed: int = 3, **sections: Any) -> Bench:
        ledger = tmp_path / f"ledger-{next(number)}.db"
        bench = open_bench(ledger, make_plan(**sections), records, entropy=SeededEntropy(seed))
        generator = np.random.default_rng(0)
        for tensor in bench.start.values():
            tensor += generator.normal(0, 0.02, tensor.shape).astype(np.float32)
        return bench

    return make


def request_of(bench: Bench, number: int = 1, data: bytes | None = None) -> TrainRequest:
    """A request with the start as the plan wants it on the wire, or with these bytes."""
    start = data or to_wire(bench.start, bench.plan.wire.adapter, PublicUniforms("test"))
    return bench.request(number, "run", adapter=start)


def rounding_of(bench: Bench, seed: int = 3) -> Keystream:
    """Where the rounding's numbers lie in the keystream, by the order of what is drawn: behind all noise."""
    stream = SeededEntropy(seed).stream("st-mary", "run", 1)
    for _ in range(bench.plan.training.local_steps):
        stream.branch()
        stream.branch()
        # Two words for two numbers, and the key of what continues them.
        numbers = sum(int(np.prod(shape)) for shape in bench.model.trained_shapes.values())
        stream.bytes(2 * 8 * ((numbers + 1) // 2))
        stream.branch()
    return stream.branch()


@pytest.mark.parametrize("method", ["ffa", "fedavg"])
@pytest.mark.parametrize("form", FEWER)
def test_the_release_follows_from_the_noised_update_and_the_rounding_alone(
    make_bench: MakeBench, form: NumberFormat, method: str
) -> None:
    """The very bytes are made from the float32 release: nothing of the update before its noise can be in them."""
    sections = {"aggregation": {"method": method}}
    plain = make_bench(**sections)
    noised = from_bytes(plain.vault.train(request_of(plain)).update, plain.model.trained_shapes)
    bench = make_bench(**sections, wire={"update": form})
    release = bench.vault.train(request_of(bench)).update
    assert release == to_wire(noised, form, rounding_of(bench))
    read = from_bytes(release, bench.model.trained_shapes, form)
    # The noise is the same to the last bit: what differs is less than a step.
    for name, tensor in noised.items():
        step = np.abs(tensor) * 2.0**-7
        if form != "bfloat16":
            step = np.abs(tensor).max(0 if "lora_B" in name else 1, keepdims=True) / {"int8": 127, "int4": 7}[form]
        assert (np.abs(read[name] - tensor) <= step * (1 + 1e-5)).all()
        assert (read[name] != tensor).any()


@pytest.mark.parametrize("form", FEWER)
def test_the_same_request_gets_the_same_bytes_and_they_are_what_the_ledger_holds(
    make_bench: MakeBench, form: NumberFormat
) -> None:
    bench = make_bench(wire={"update": form, "adapter": form})
    request = request_of(bench)
    first = bench.vault.train(request)
    assert bench.vault.train(request) == first
    assert bench.ledger.released("run", 1, request.digest()) == first.update
    # The same adapter, rounded otherwise, is another request.
    other = to_wire(bench.start, form, PublicUniforms("other"))
    with pytest.raises(Refused, match="round-conflict"):
        bench.vault.train(request_of(bench, data=other))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "records", [[], RECORDS[:-1], [*RECORDS, {}, {"text": "x" * 3000}]], ids=["0", "-1", "+2"]
)
def test_a_release_has_the_same_size_whatever_the_records_are(
    make_bench: MakeBench, form: NumberFormat, records: list[dict[str, Any]]
) -> None:
    bench = make_bench(records, wire={"update": form})
    release = bench.vault.train(request_of(bench)).update
    reference = to_wire(initial(bench.model.trained_shapes, 0), form, PublicUniforms("any"))
    assert len(release) == len(reference)
    header = 8 + int.from_bytes(reference[:8], "little")
    assert release[:header] == reference[:header]


@pytest.mark.parametrize("form", FEWER)
def test_training_starts_from_the_adapter_as_it_was_decoded(make_bench: MakeBench, form: NumberFormat) -> None:
    """The same decoded tensors sent in float32 give the very same update."""
    bench = make_bench(wire={"adapter": form})
    request = request_of(bench)
    decoded = from_bytes(request.adapter, bench.model.trained_shapes, form)
    assert any((decoded[name] != bench.start[name]).any() for name in decoded)
    plain = make_bench()
    update = plain.vault.train(request_of(plain, data=to_bytes(decoded))).update
    assert bench.vault.train(request).update == update


def test_an_adapter_in_another_format_is_refused_and_costs_nothing(make_bench: MakeBench) -> None:
    bench = make_bench(wire={"adapter": "int8"})
    for form in FORMATS:
        if form != "int8":
            data = to_wire(bench.start, form, PublicUniforms("test"))
            with pytest.raises(Refused, match="malformed-request: the adapter"):
                bench.vault.train(request_of(bench, data=data))
    assert bench.ledger.spent() == []


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_of_the_head_alone_sends_the_head_alone(
    make_bench: MakeBench, tmp_path: Path, form: NumberFormat
) -> None:
    bench = make_bench(
        [record(number) for number in range(30)],
        model={"base": str(save_base("encoder", tmp_path / "base"))},
        task={"kind": "classification", "max_length": 32, "labels": LABELS},
        training={"rounds": 2, "head_rounds": 1},
        wire={"update": form, "adapter": form},
    )
    shapes = bench.model.trained_shapes
    head = {name: shape for name, shape in shapes.items() if not is_lora(name)}
    assert list(head) == ["head.weight"]
    every = initial(shapes, 0)
    whole = to_wire(every, form, PublicUniforms("test"))
    part = to_wire({name: every[name] for name in head}, form, PublicUniforms("test"))
    with pytest.raises(Refused, match="the adapter"):
        bench.vault.train(request_of(bench, 1, whole))
    update = from_bytes(bench.vault.train(request_of(bench, 1, part)).update, head, form)
    assert update["head.weight"].any()
    with pytest.raises(Refused, match="the adapter"):
        bench.vault.train(request_of(bench, 2, part))
    both = from_bytes(bench.vault.train(request_of(bench, 2, whole)).update, shapes, form)
    assert all(tensor.any() for tensor in both.values())
