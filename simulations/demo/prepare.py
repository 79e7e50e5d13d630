"""The embedded demo as files, so that a run of it holds all that it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from common.plan.plan import Plan
from common.records import Record
from simulations.demo.corpus import ORGANIZATIONS, PROMPTS, TEMPLATE, private_records, public_test

_PLAN = Path(__file__).with_name("plan.toml")


def prepare_demo(folder: Path) -> Plan:
    """Write the demo's records, and give its plan.

    Args:
        folder: gets `records.jsonl`, the private records of all four organizations, and `public-test.jsonl`.
            The same bytes are written each time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    private = [record for name in ORGANIZATIONS for record in private_records(name)]
    records = _write(folder / "records.jsonl", private)
    test = _write(folder / "public-test.jsonl", public_test())
    plan = Plan.read(_PLAN)
    prompts = [TEMPLATE.format(question=question, answer="").strip() for question in PROMPTS.values()]
    evaluation = plan.evaluation.model_copy(update={"data": test, "prompts": prompts})
    return plan.model_copy(
        update={"evaluation": evaluation, "simulation": plan.simulation.model_copy(update={"data": records})}
    )


def _write(path: Path, records: Iterable[Record]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path.absolute())
