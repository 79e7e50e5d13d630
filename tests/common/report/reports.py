"""Reports of one statement."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

from opacus.accountants import PRVAccountant

from common.keys.statement_key import StatementKey
from common.privacy.mechanism import Mechanism
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


def prv_epsilon(mechanism: Mechanism, delta: float) -> float:
    """What Opacus' PRV accountant gives, rounded up to four decimals as in statements."""
    accountant = PRVAccountant()
    accountant.history = [(mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        value = accountant.get_epsilon(delta, eps_error=0.001)
    return max(math.ceil(10_000 * value), 0) / 10_000


def only(report: dict[str, Any]) -> dict[str, Any]:
    (item,) = report["organizations"]
    return item
