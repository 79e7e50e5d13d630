"""What tests of the vault share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client.vault.preparation import ModelLoader
from client.vault.training.entropy import Entropy, SystemEntropy
from tests.client.vault.bench import RECORDS, Bench, MakeBench, Records, open_bench
from tests.conftest import MakePlan


@pytest.fixture
def make_bench(tmp_path: Path, make_plan: MakePlan) -> MakeBench:
    """Benches of a test are vaults of one ledger, one after the other."""

    def make(
        records: Records = RECORDS,
        entropy: Entropy | None = None,
        policy: dict[str, Any] | None = None,
        load: ModelLoader | None = None,
        max_rank: int | None = None,
        **plan: Any,
    ) -> Bench:
        return open_bench(
            tmp_path / "ledger.db",
            make_plan(**plan),
            records,
            entropy=entropy or SystemEntropy(),
            policy=policy,
            vault={} if max_rank is None else {"max_rank": max_rank},
            load=load,
        )

    return make
