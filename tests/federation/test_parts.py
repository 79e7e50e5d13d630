"""Each part runs with the libraries of its own extra alone: the relay without torch, the vault without Flower."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common.keys.statement_key import StatementKey
from tests.common.report.sample_run import signed, statement
from tests.conftest import ROOT
from tests.federation.harness import Federation, texts, wait_until
from tests.lock_files import beyond
from tests.server.run_directory.sample_directory import make_run

# As if they were not installed: also for those who only look whether they are.
BLOCKER = """
import sys

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else self._finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
FOLDERS = {
    "vault": ["common", "client"],
    "relay": ["common", "client"],
    "server": ["common", "server", "simulations"],
}
# What lies in a part's folders and is the other part's, or of an extra of its own.
OF_THE_RELAY = {
    "client.relay.client_app",
    "client.check.connection",
    "client.relay.gateway_client",
    "client.relay.pace",
    "client.relay.runtime",
    "client.relay.supernode",
    "common.flower.patches",
    "common.flower.codec",
}
OF_AN_EXTRA = {"client.vault.records.recognizers"}
# A folder, and modules of it.
_OF_THE_VAULT = """
    client.admin: approvals budget cost raise_cap
    client.check: check device ledger memory models plan records timing trial
    client.vault: preparation release start statements vault
    client.vault.ledger: cap ledger reader reservation
    client.vault.policy: policy
    client.vault.training: artificial_adapters dp_sgd errors exact features micro_batches optimizer
    client.vault.training: layers per_example rows rows_cache verification
    client.vault.workers: compute pool process server server_handle worker
    common.model: base heads model precision quantization
    common.privacy: accounting calibration plan_mechanism privacy_filter
    common.report: accountants charts evaluation evaluation_charts page report terminal verification
    common.results: adapter_folder evaluate generate model_card quantize
    common.tasks: causal_lm chat classification question_answering seq2seq text tokens
"""
OF_THE_VAULT = {
    f"{folder.strip()}.{name}"
    for folder, names in (line.split(":") for line in _OF_THE_VAULT.strip().splitlines())
    for name in names.split()
}
OTHERS = {"vault": OF_THE_RELAY | OF_AN_EXTRA, "relay": OF_THE_VAULT | OF_AN_EXTRA, "server": set[str]()}


def without(folder: Path, extra: str) -> str:
    """A path with which a Python finds our code, and of what the locks hold no more than an extra's."""
    names = beyond([extra], torch=extra != "relay")
    assert {"pytest", "spacy"} <= names
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=sorted(names)))
    return os.pathsep.join([str(folder), str(ROOT)])


def python(path: str, *arguments: object, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *map(str, arguments)],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
    )


class Alone:
    """What a part does alone: its commands, run one after another in one process, then all of its modules."""

    def __init__(self, folder: Path, extra: str) -> None:
        self.path = without(folder / f"without-{extra}", extra)
        self.extra = extra
        self.asked: list[tuple[list[str], int, str]] = []

    def expect(self, *command: object, code: int = 0, said: str = "") -> None:
        """A command, its exit code, and what stands in what it prints."""
        self.asked.append(([str(word) for word in command], code, said))

    def run(self) -> None:
        asked = {"folders": FOLDERS[self.extra], "commands": [command for command, _, _ in self.asked]}
        ended = python(self.path, ROOT / "tests" / "federation" / "alone.py", said=json.dumps(asked))
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        for (command, code, said), (was, printed) in zip(self.asked, found["ran"], strict=True):
            assert (was, said in printed) == (code, True), (command, was, printed)
            assert "Traceback" not in printed, (command, printed)
            if code == 2:
                assert len(printed.strip().splitlines()) == 1, (command, printed)
        assert set(found["missing"]) == OTHERS[self.extra], found["missing"]


@pytest.fixture(params=["vault", "relay", "server"])
def extra(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_what_a_part_lacks_cannot_be_imported(extra: str, tmp_path: Path) -> None:
    library = {"vault": "flwr", "relay": "torch", "server": "presidio_analyzer"}[extra]
    ended = python(without(tmp_path / "path", extra), "-c", f"import {library}")
    assert f"No module named '{library}'" in ended.stderr


def organization(folder: Path, base: Path) -> tuple[Path, Path]:
    """An organization's folder with a relay's file beside, and a plan; without a server."""
    federation = Federation(folder, base)
    home = federation.write_organization("st-mary", texts(40))
    return home, federation.write_plan()


def test_the_vaults_modules_and_commands_do_without_the_relays_libraries(tiny_base: Path, tmp_path: Path) -> None:
    home, plan = organization(tmp_path, tiny_base)
    file, vault = home / "organization.toml", Alone(tmp_path, "vault")
    vault.expect("--help", said="supernode")
    vault.expect("vault", "start", "--help", said="Needs no network")
    vault.expect("init", "organization", tmp_path / "new.toml", said="written")
    vault.expect("init", "relay", tmp_path / "relay.toml", said="written")
    vault.expect("init", "plan", tmp_path / "new-plan.toml", said="written")
    vault.expect("client", "keys", tmp_path / "keys", "--name", "st-mary", said="fingerprint")
    vault.expect("client", "check", file, said="nothing wrong")
    vault.expect("client", "check", file, "--plan", plan, "--json", said='"ok": true')
    vault.expect("client", "approve", file, plan, "--yes", said="approved")
    vault.expect("privacy", "calibrate", plan, "--organization", file, "--json", said="noise_multiplier")
    vault.expect("client", "approvals", file, "--json", said='"runs_left": 1')
    vault.expect("client", "withdraw", file, plan, said="withdrawn")
    vault.expect("privacy", "budget", file, code=2, said="no such ledger")
    vault.expect("privacy", "raise-cap", file, "--yes", code=2, said="no such ledger")
    vault.expect("vault", "start", tmp_path / "no.toml", code=2, said="there is no such file")
    # What belongs to the relay says so.
    needs = f"in Sotto's folder: python3 locks/install.py {sys.prefix} "
    vault.expect("client", "check", file, "--relay", home / "relay.toml", code=2, said="httpx is not installed")
    vault.expect("supernode", "start", home / "relay.toml", code=2, said=f"{needs}server or relay --no-project")
    vault.run()


def test_the_relays_modules_and_commands_do_without_torch(tiny_base: Path, tmp_path: Path) -> None:
    home, plan = organization(tmp_path, tiny_base)
    relay = Alone(tmp_path, "relay")
    relay.expect("--help", said="supernode")
    relay.expect("supernode", "start", "--help", said="Opens no records")
    relay.expect("init", "relay", tmp_path / "relay.toml", said="written")
    relay.expect("client", "keys", tmp_path / "keys", "--name", "st-mary", said="fingerprint")
    relay.expect("supernode", "start", tmp_path / "no.toml", code=2, said="there is no such file")
    needs = f"in Sotto's folder: python3 locks/install.py {sys.prefix} server or vault --no-project"
    relay.expect("vault", "start", home / "organization.toml", code=2, said=needs)
    relay.expect("client", "approve", home / "organization.toml", plan, code=2, said=needs)
    relay.run()


def test_the_servers_modules_and_commands_do_with_its_own_libraries(tiny_base: Path, tmp_path: Path) -> None:
    home, plan = organization(tmp_path, tiny_base)
    key, server = StatementKey.generate(), Alone(tmp_path, "server")
    run = make_run(tmp_path / "finished", [signed(statement("st-mary"), key)], {"st-mary": key}).path
    shutil.copy(home / "records.jsonl", tmp_path / "public.jsonl")
    server.expect("--help", said="supernode")
    server.expect("server", "certs", tmp_path / "new-certs", "--host", "127.0.0.1", said="written")
    server.expect("init", "server", tmp_path / "new-server.toml", said="written")
    server.expect("init", "plan", tmp_path / "new-plan.toml", said="written")
    at = ("--server", tmp_path / "server.toml")
    keys = tmp_path / "keys"
    server.expect("client", "keys", keys, "--name", "st-paul", said="fingerprint")
    server.expect(
        "server", "register", "st-paul", keys / "node.pub", keys / "statement.pub", *at, said="registered"
    )
    server.expect("server", "list", *at, said="st-mary  node")
    server.expect("server", "revoke", "st-mary", *at, said="revoked")
    server.expect("privacy", "calibrate", plan, "--public-size", 100, "--json", said="noise_multiplier")
    server.expect("privacy", "report", run, "--html", tmp_path / "report.html")
    server.expect("generate", tiny_base, "--prompt", "parcel", "--max-new-tokens", 2, "--json", said="parcel")
    data = ("--data", tmp_path / "public.jsonl")
    server.expect("evaluate", tiny_base, *data, "--plan", plan, "--json", said="perplexity")
    server.expect("run", tmp_path / "no.toml", "--out", tmp_path / "out", code=2, said="there is no such file")
    server.run()


@pytest.mark.slow
def test_a_run_of_three_parts_each_with_its_own_libraries(tiny_base: Path, tmp_path: Path) -> None:
    paths = {extra: without(tmp_path / extra, extra) for extra in FOLDERS}
    with Federation(tmp_path, tiny_base) as federation:
        home = federation.write_organization("a", texts(40))
        socket, file = home / "vault.sock", federation.folder / "server.toml"
        checks = [
            ("vault", "client.channel.health", socket),
            ("relay", "client.relay.health", home / "relay.toml"),
            ("server", "server.superlink.health", file),
        ]

        def well() -> list[tuple[str, str]]:
            return [(part, python(paths[part], "-m", *arguments).stderr) for part, *arguments in checks]

        assert [part for part, said in well() if said and "Traceback" not in said] == ["vault", "relay", "server"]
        federation.start("server", "server", "start", file, PYTHONPATH=paths["server"]).wait_for("is ready")
        vault = federation.start("vault", "vault", "start", home / "organization.toml", PYTHONPATH=paths["vault"])
        node = federation.start("node", "supernode", "start", home / "relay.toml", PYTHONPATH=paths["relay"])
        node.wait_for("relays between")
        wait_until(lambda: not any(said for _, said in well()), "all parts are well")
        words = federation.run_arguments(federation.write_plan(), tmp_path / "run")
        run = federation.start("run", *words, PYTHONPATH=paths["server"])
        assert run.wait() == 0, run.text
        assert "is trained" in vault.text
        budget = python(paths["vault"], "-m", "sotto", "privacy", "budget", home / "organization.toml", "--json")
        assert json.loads(budget.stdout)["epsilon_spent"] > 0
