"""Reports of one statement."""

from __future__ import annotations

import json
from typing import Any

from common.keys.statement_key import StatementKey
from common.protocol.statement import Statement
from common.report.report import build_report
from tests.common.report.sample_run import RUN

KEY, OTHER = StatementKey.generate(), StatementKey.generate()
KEYS = {"st-mary": KEY.public}


def report_of(item: Statement, keys: dict[str, str] = KEYS, **more: Any) -> dict[str, Any]:
    """The report of one statement, after it went through JSON."""
    report = build_report(RUN, [item], keys, **more)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    return report


def only(report: dict[str, Any]) -> dict[str, Any]:
    (item,) = report["organizations"]
    return item
