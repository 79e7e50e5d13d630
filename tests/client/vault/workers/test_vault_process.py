"""A real vault with two workers: it trains, and they end with it however it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

import client.vault.start
from client.relay.vault_client import RemoteVault
from client.vault.policy.organization import VaultSection
from client.vault.start import open_devices
from common.adapter.adapter import from_bytes
from common.errors import InputError
from common.model.model import LoraModel
from tests.client.vaults import VaultProcess, request_for, write_organization
from tests.conftest import MakePlan
from tests.waiting import LONG, wait_until


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_vault_trains_with_workers_and_ends_with_them(
    tmp_path: Path, tiny_base: Path, make_plan: MakePlan, number: signal.Signals
) -> None:
    plan = make_plan()
    path = write_organization(tmp_path, tiny_base, workers=2)
    with VaultProcess(path).wait_ready() as vault:
        process = psutil.Process(vault.process.pid)
        with RemoteVault(tmp_path / "vault.sock", timeout=LONG, patience=LONG) as remote:
            release = remote.train(request_for(plan))
        assert any(
            part.any()
            for part in from_bytes(release.update, LoraModel(plan.model.base, plan).trained_shapes).values()
        )
        family = process.children(recursive=True)
        assert len(family) == 3, "two workers, and the process that they were forked from"
        assert all(one.net_connections(kind="inet") == [] for one in family)
        vault.end(number)
        wait_until(lambda: not any(one.is_running() for one in family), "the end of all workers")


def test_devices_of_two_kinds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = iter(["NVIDIA H200", "NVIDIA A100"])
    monkeypatch.setattr(client.vault.start, "device_kind", lambda _: next(kinds))
    with pytest.raises(InputError, match=r"vault.devices = .*one kind; they are NVIDIA A100, NVIDIA H200"):
        open_devices(VaultSection(devices=["cpu", "cpu"]))


@pytest.mark.parametrize(
    ("width", "tokens"), [(None, 512), (32, 1024), (96, 1024), (384, 256), (768, 128), (4096, 128)]
)
def test_a_micro_batch_is_smaller_for_a_wider_model(width: int | None, tokens: int) -> None:
    assert VaultSection().micro_batch_tokens(width) == tokens
    assert VaultSection(max_tokens=7).micro_batch_tokens(width) == 7
    assert VaultSection(device="cuda").micro_batch_tokens(width) == 512
