"""Measure a round's time beyond training: Sotto's processes against a stock Flower app, in one run of this script.

    .venv/bin/python benchmarks/round_overhead.py [--rounds 11] [--organizations 3] [--insecure]

Sotto: server with TLS and node keys (without them with `--insecure`), vaults and relays as `sotto` starts them, on
the demo's base model; the time that the slowest vault spent in `train` is subtracted from each round. Stock:
`flower-superlink`, `flower-supernode` and FedAvg with all defaults and no TLS, whose ClientApp returns the arrays
that it received, of the same size, without training. All on loopback. The first round of each is not counted: it
loads what later rounds reuse.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w
from parts.stock_app import STOCK_APP

from client.admin.keys import make_keys
from common.system.network import Address, free_port
from common.system.processes import FLOWER_ENVIRONMENT
from server.superlink.certificates import make_certificates
from simulations.demo.prepare import prepare_demo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.protocol.protocol import Description, Participant, Release, TrainRequest
    from common.protocol.statement import Statement

BIN = Path(sys.executable).parent
BASE = Path(__file__).parent.parent / "simulations" / "demo" / "base"
QUIET = {**os.environ, **FLOWER_ENVIRONMENT, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
# The stock programs keep their own polling intervals.
STOCK = {name: value for name, value in QUIET.items() if name != "FLWR_SUPEREXEC_TASK_POLL_INTERVAL"}


class TimedVault:
    """A vault that records the time of each training."""

    def __init__(self, vault: Participant, times: Path) -> None:
        self._vault, self._times = vault, times

    def describe(self) -> Description:
        """As the vault."""
        return self._vault.describe()

    def train(self, request: TrainRequest) -> Release:
        """As the vault."""
        begin = time.monotonic()
        release = self._vault.train(request)
        with self._times.open("a", encoding="utf-8") as file:
            file.write(json.dumps([request.round, time.monotonic() - begin]) + "\n")
        return release

    def statement(self, run: str) -> Statement:
        """As the vault."""
        return self._vault.statement(run)


def serve_timed_vault(path: Path) -> None:
    """A vault process of this benchmark."""
    from client.vault.ledger.ledger import Ledger
    from client.vault.policy.organization import Organization
    from client.vault.service import VaultServer
    from client.vault.training.entropy import SystemEntropy
    from client.vault.vault import Vault
    from common.keys.statement_key import StatementKey
    from common.model.model import LoraModel
    from common.records import read_records

    organization = Organization.read(path)
    key = StatementKey.read(organization.path(organization.vault.statement_key))
    vault = Vault(
        organization,
        read_records(organization.path(organization.data.train)),
        Ledger(organization.path(organization.vault.ledger), organization.name, "example", key),
        LoraModel,
        SystemEntropy(),
        "benchmark",
    )
    server = VaultServer(TimedVault(vault, path.with_name("times.jsonl")), path.with_name("vault.sock"))
    server.start()
    signal.pause()


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """Run a process, and end it and all its descendants with SIGTERM."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(text: str, log: Path, seconds: float = 120) -> None:
    """Wait until a log contains a text."""
    deadline = time.monotonic() + seconds
    while text not in (log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{log}: no {text!r}\n{log.read_text(encoding='utf-8', errors='replace')}")
        time.sleep(0.1)


def ours(folder: Path, rounds: int, organizations: int, insecure: bool) -> tuple[list[float], int]:
    """Seconds of each round of Sotto beyond training, and the bytes of an adapter."""
    demo = prepare_demo(folder / "data")
    address = f"127.0.0.1:{free_port()}"
    settings = {"address": address, "superlink": f"127.0.0.1:{free_port()}", "insecure": insecure}
    (folder / "server.toml").write_text(tomli_w.dumps(settings), encoding="utf-8")
    make_certificates(folder / "certs", ["127.0.0.1"])
    plan = {
        "name": "overhead",
        "model": {"base": str(BASE)},
        "task": {"max_length": 63, "template": demo.task.template},
        "lora": {"rank": 16},
        "training": {"rounds": rounds, "local_steps": 1, "batch_size": 32},
        "federation": {"min_organizations": organizations},
        "privacy": {"epsilon": 8.0, "delta": 1e-5},
    }
    (folder / "plan.toml").write_text(tomli_w.dumps(plan), encoding="utf-8")
    sotto = str(BIN / "sotto")
    with ExitStack() as stack:
        server = [sotto, "server", "start", str(folder / "server.toml")]
        stack.enter_context(running(server, QUIET, folder / "server.log"))
        wait_for("ready", folder / "server.log")
        homes = [folder / f"org-{number}" for number in range(organizations)]
        for home in homes:
            _write_organization(home, str(folder / "data" / "records.jsonl"), address, insecure)
            keys = [str(home / "keys" / name) for name in ("node.pub", "statement.pub")]
            register = [sotto, "server", "register", home.name, *keys, "--server", str(folder / "server.toml")]
            subprocess.run(register, env=QUIET, check=True, stdout=subprocess.DEVNULL)
            vault = [sys.executable, __file__, "--vault", str(home / "organization.toml")]
            stack.enter_context(running(vault, QUIET, home / "vault.log"))
            relay = [sotto, "supernode", "start", str(home / "relay.toml")]
            stack.enter_context(running(relay, QUIET, home / "supernode.log"))
        for home in homes:
            wait_for("relays between", home / "supernode.log")
        run = [sotto, "run", str(folder / "plan.toml"), "--out", str(folder / "run")]
        subprocess.run(
            [*run, "--server", str(folder / "server.toml")], env=QUIET, check=True, stdout=subprocess.DEVNULL
        )
    lines = [json.loads(text) for text in (folder / "run" / "rounds.jsonl").read_text().splitlines()][1:]
    trained = [
        dict(json.loads(text) for text in (home / "times.jsonl").read_text().splitlines()) for home in homes
    ]
    seconds = [line["seconds"] - max(times[line["round"]] for times in trained) for line in lines]
    return seconds, lines[0]["bytes_up"] // organizations


def _write_organization(home: Path, records: str, address: str, insecure: bool) -> None:
    home.mkdir()
    organization = {
        "name": home.name,
        "data": {"train": records, "public_size": 4000},
        "models": {str(BASE): str(BASE)},
        "policy": {
            "max_epsilon": 8.0,
            "max_epsilon_per_run": 8.0,
            "max_delta": 1e-5,
            "plans": "any-within-policy",
        },
    }
    make_keys(home / "keys", home.name)
    (home / "organization.toml").write_text(tomli_w.dumps(organization), encoding="utf-8")
    relay = {
        "name": home.name,
        "server": address,
        "insecure": insecure,
        "ca": str(home.parent / "certs" / "ca.pem"),
    }
    (home / "relay.toml").write_text(tomli_w.dumps(relay), encoding="utf-8")


def stock(folder: Path, rounds: int, nodes: int, size: int) -> list[float]:
    """Seconds of each round of a stock app that does not train."""
    app = folder / "stockapp"
    for name, text in STOCK_APP.items():
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(text, encoding="utf-8")
    port = free_port()
    address = f"127.0.0.1:{port}"
    home = folder / "cli"
    home.mkdir()
    connection = {"address": address, "insecure": True}
    (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "here", "here": connection}}))
    with ExitStack() as stack:
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        link = [str(BIN / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**STOCK, "PATH": path, "FLWR_HOME": str(folder / "superlink")}
        stack.enter_context(running(link, environment, folder / "superlink.log"))
        if not Address("127.0.0.1", port).wait_until_open(60):
            raise TimeoutError("the stock SuperLink does not listen")
        for number in range(nodes):
            node = [str(BIN / "flower-supernode"), "--insecure", "--superlink", address]
            node += ["--host", "127.0.0.1", "--port", str(free_port())]
            environment = {**STOCK, "PATH": path, "FLWR_HOME": str(folder / f"node-{number}")}
            stack.enter_context(running(node, environment, folder / f"node-{number}.log"))
            wait_for("SuperNode ID", folder / f"node-{number}.log")
        out = folder / "seconds.json"
        config = f'out="{out}" rounds={rounds} nodes={nodes} bytes={size}'
        run = [str(BIN / "flwr"), "run", str(app), "here", "--run-config", config, "--stream"]
        environment = {**STOCK, "PATH": path, "FLWR_HOME": str(home)}
        subprocess.run(run, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds: list[float] = json.loads(out.read_text(encoding="utf-8"))
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--organizations", type=int, default=3)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--vault", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.vault:
        serve_timed_vault(arguments.vault)
        return
    # A socket's path must be short, like that of the system's temporary folder.
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        (Path(folder) / "ours").mkdir()
        (Path(folder) / "stock").mkdir()
        own, size = ours(Path(folder) / "ours", arguments.rounds, arguments.organizations, arguments.insecure)
        others = stock(Path(folder) / "stock", arguments.rounds, arguments.organizations, size)
    print(f"{arguments.organizations} organizations, {size} bytes each way, the rounds from the second on")
    print(f"{'':8}{'median':>8}{'min':>8}{'max':>8}  seconds per round beyond training")
    for name, seconds in (("ours", own[1:]), ("stock", others[1:])):
        print(f"{name:8}{statistics.median(seconds):8.2f}{min(seconds):8.2f}{max(seconds):8.2f}")


if __name__ == "__main__":
    main()
