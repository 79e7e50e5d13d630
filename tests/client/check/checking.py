"""Helpers for the tests of `sotto client check`: damage an organization, run the checks, read the findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

from client.check.check import check
from client.check.findings import Finding
from client.vault.ledger.ledger import Ledger
from client.vault.ledger.reservation import Reservation
from client.vault.policy.organization import Organization
from common.keys.statement_key import StatementKey
from common.plan.plan import Plan
from common.privacy.mechanism import Mechanism
from common.privacy.privacy_filter import Cap
from common.settings import load
from tests.conftest import MakePlan

FindingsByName = dict[tuple[str, str], Finding]


def change(path: Path, **sections: dict[str, Any]) -> Path:
    """Change settings in an organization's file: change(path, data={"public_size": 30})."""
    values = load(path, Organization).model_dump(exclude_none=True)
    for name, section in sections.items():
        values[name] |= section
    path.write_text(tomli_w.dumps(values))
    return path


def write_records(path: Path, records: list[dict[str, Any]]) -> None:
    (path.parent / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def write_plan(folder: Path, plan: Plan) -> Path:
    file = folder / "plan.toml"
    file.write_text(plan.to_toml())
    return file


def run_checks(path: Path, plan: Plan | None = None) -> FindingsByName:
    findings = check(Organization.read(path), plan)
    assert len({(finding.group, finding.name) for finding in findings}) == len(findings)
    assert all("\n" not in finding.text for finding in findings)
    return {(finding.group, finding.name): finding for finding in findings}


def problems(findings: FindingsByName) -> dict[str, str]:
    """The findings that are not ok, as "group name" → state."""
    return {" ".join(key): finding.state for key, finding in findings.items() if finding.state != "ok"}


def snapshot(*folders: Path) -> dict[Path, tuple[int, int, bytes]]:
    """All files and folders with mode, modification time and content."""
    return {
        file: (file.lstat().st_mode, file.lstat().st_mtime_ns, file.read_bytes() if file.is_file() else b"")
        for folder in folders
        for file in [folder, *folder.rglob("*")]
    }


def users(path: Path, records: list[dict[str, Any]], field: str = "patient") -> Path:
    write_records(path, records)
    return change(path, data={"unit": "user", "user_field": field, "public_size": 4})


def user_plan(make_plan: MakePlan) -> Plan:
    return make_plan(
        training={"batch_size": 2}, privacy={"unit": "user", "records_per_user": 2, "epsilon": 8.0, "delta": 1e-3}
    )


def key_of(path: Path) -> Path:
    return path.parent / "keys" / "statement.key"


def ledger_of(path: Path) -> Ledger:
    return Ledger(path.parent / "ledger.db", "st-mary", "example", StatementKey.read(key_of(path)))


def reserve(path: Path, epsilon: float) -> None:
    ledger = ledger_of(path)
    ledger.cap.set_or_lower(Cap(20.0, 5e-3))
    ledger.reserve(Reservation("a", "p", "f", Mechanism(0.1, 1.5, 12), epsilon, 1e-5, 2))
    ledger.close()


def open_to_all(path: Path) -> None:
    key_of(path).chmod(0o644)
