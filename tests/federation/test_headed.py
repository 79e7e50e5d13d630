"""A run over real processes of a head and of uneven ranks: all travels, is charged, and can be evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from common.adapter.adapter import is_a
from tests.common.tasks.bases import LABELS, record, save_base
from tests.federation.harness import Federation, charged, lines, report

pytestmark = pytest.mark.slow

NAMES = ["clinic", "bank"]


def test_two_organizations_of_uneven_ranks_train_a_classifier(tmp_path: Path) -> None:
    with Federation(tmp_path, save_base("encoder", tmp_path / "base")) as federation:
        broken = [{"text": "no label"}, {**record(1), "label": "a label of one record alone"}, {}]
        for first, name in enumerate(NAMES):
            records = [record(100 * first + number) for number in range(80)]
            home = federation.write_organization(name, [*records, *broken])
        # The bank, the last one, has the smaller hardware.
        with (home / "organization.toml").open("a") as file:
            file.write("[vault]\nmax_rank = 1\n")
        plan = federation.write_plan(
            "classes",
            task={"kind": "classification", "max_length": 32, "labels": LABELS},
            training={
                "rounds": 2,
                "local_steps": 2,
                "batch_size": 20,
                "head_rounds": 1,
                "head_learning_rate": 5.0,
            },
            lora={"rank": 2, "min_rank": 1},
            aggregation={"method": "stack"},
            federation={"min_organizations": 2},
        )
        federation.start_server()
        for name in NAMES:
            federation.start_client(name)
        out = tmp_path / "run"
        code, said = federation.run(plan, out)
        assert code == 0, said
        assert [line["organizations"]["answered"] for line in lines(out)[1:]] == [sorted(NAMES)] * 2
        for name in NAMES:
            assert [steps for steps, _ in charged(tmp_path / name / "ledger.db").values()] == [4]
        assert {one["signature"] for one in report(out)["organizations"]} == {"valid"}
        head = load_file(out / "adapter" / "head.safetensors")["weight"]
        assert head.shape == (len(LABELS), 32)
        assert head.any()
        # The head was trained in both rounds, the LoRA layers in the second alone.
        first_round = load_file(out / "checkpoints" / "round-0001" / "adapter.safetensors")
        assert first_round.pop("head.weight").any()
        assert not any(tensor.any() for name, tensor in first_round.items() if not is_a(name))
        second = load_file(out / "checkpoints" / "round-0002" / "adapter.safetensors")
        assert all(tensor.any() for tensor in second.values())
        assert {tensor.shape[0] for name, tensor in second.items() if is_a(name)} == {2}
        public = tmp_path / "public.jsonl"
        public.write_text("".join(json.dumps(record(number)) + "\n" for number in range(30)))
        code, said = federation.call("evaluate", out, "--data", public, "--by", "label", "--json")
        assert code == 0, said
        metrics = json.loads(said.splitlines()[-1])
        assert metrics["records"] == 30
        assert set(metrics["by"]["groups"]) == set(LABELS)
