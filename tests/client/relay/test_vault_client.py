"""The client of the vault waits for an unavailable vault, but not for ever."""

from __future__ import annotations

import re
import socket as sockets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from client.relay.vault_client import RemoteVault
from common.errors import Refused
from tests.client.vaults import Echo, request_for, served
from tests.conftest import MakePlan
from tests.waiting import LONG

CALLS: dict[str, Callable[[RemoteVault, MakePlan], object]] = {
    "describe": lambda vault, _: vault.describe(),
    "train": lambda vault, make_plan: vault.train(request_for(make_plan())),
    "statement": lambda vault, _: vault.statement("run"),
}


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("patience", [0.0, 0.7])
def test_a_vault_that_never_comes_is_unavailable_when_patience_ends(
    method: str, patience: float, tmp_path: Path, make_plan: MakePlan
) -> None:
    request_for(make_plan())
    started = time.monotonic()
    with RemoteVault(tmp_path / "vault.sock", LONG, patience) as vault, pytest.raises(Refused) as caught:
        CALLS[method](vault, make_plan)
    assert caught.value.code == "vault-unavailable"
    assert "the vault was unavailable for" in caught.value.detail
    assert time.monotonic() - started >= patience


def test_the_deadline_ends_the_longest_patience(tmp_path: Path) -> None:
    with RemoteVault(tmp_path / "vault.sock", 0.5, LONG) as vault, pytest.raises(Refused) as caught:
        vault.describe()
    assert caught.value.code == "vault-unavailable"


def test_a_program_that_accepts_and_says_nothing_is_no_vault(tmp_path: Path, make_plan: MakePlan) -> None:
    """As with a suspended vault: patience must end although each attempt takes long."""
    with sockets.socket(sockets.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "vault.sock"))
        silent.listen(64)
        with RemoteVault(tmp_path / "vault.sock", 12.0, 3.0) as vault, pytest.raises(Refused) as caught:
            vault.train(request_for(make_plan()))
    assert caught.value.code == "vault-unavailable"
    unavailable = re.fullmatch(r"the vault was unavailable for (\d+) seconds", caught.value.detail)
    assert unavailable is not None
    assert int(unavailable[1]) >= 3


def test_a_vault_that_comes_later_is_waited_for(tmp_path: Path, make_plan: MakePlan) -> None:
    request = request_for(make_plan())
    socket = tmp_path / "vault.sock"
    with RemoteVault(socket, LONG, LONG) as vault, ThreadPoolExecutor(1) as caller:
        answer = caller.submit(vault.train, request)
        time.sleep(0.5)
        assert not answer.done()
        with served(Echo(), socket):
            assert answer.result(LONG).update == request.adapter


def test_a_vault_that_goes_and_comes_is_asked_again(tmp_path: Path) -> None:
    socket = tmp_path / "vault.sock"
    with RemoteVault(socket, LONG, LONG) as vault:
        for _ in range(3):
            with served(Echo(), socket):
                assert vault.describe().organization == "echo"
