"""Real processes of a federation in one folder: started as a user starts them, on free ports, and ended."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from client.admin.keys import make_keys
from common.system.network import free_port
from server.superlink.certificates import make_certificates
from server.superlink.settings import Server
from server.superlink.start import apply_registry
from tests.programs.start import start
from tests.waiting import LONG, wait_until

WORDS = ["parcel", "account", "letter", "doctor", "window", "garden", "evening", "number"]


def texts(count: int, word: str = "") -> list[dict[str, str]]:
    """Made-up records."""
    return [{"text": f"{word} {WORDS[n % 8]} {WORDS[n // 8 % 8]} {WORDS[n // 64 % 8]}"} for n in range(count)]


class Program:
    """A process and everything that it prints, in a file."""

    def __init__(self, command: Sequence[object], log: Path, **environment: str) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = start(command, cwd=log.parent, output=output, **environment)

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, said: str, times: int = 1) -> Program:
        def is_said() -> bool:
            assert self.text.count(said) >= times or self.process.poll() is None, self.text
            return self.text.count(said) >= times

        wait_until(is_said, f"{said!r} in {self.log}")
        return self

    def wait(self, seconds: float = LONG) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.log} does not end: {self.text}") from None

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def descendants(self, *words: str) -> list[psutil.Process]:
        """Those whose command line has all these words."""
        return [one for one in self.family()[1:] if set(words) <= set(_words(one))]

    def descendant(self, *words: str) -> psutil.Process:
        """The only one; waited for."""
        wait_until(lambda: len(self.descendants(*words)) == 1, f"one process {words} below {self.log}")
        return self.descendants(*words)[0]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait, and make sure that nothing of the family is left."""
        family = self.family() if self.process.poll() is None else []
        self.process.send_signal(number)
        code = self.wait()
        assert_gone(family)
        return code

    def kill_family(self) -> None:
        """For a test that failed: whatever is left."""
        if self.process.poll() is None:
            family = self.family()
            for process in family:
                _kill(process)
            psutil.wait_procs(family, timeout=10)


def assert_gone(processes: Iterable[psutil.Process], seconds: float = 60.0) -> None:
    """None of these processes is left, not even as a zombie."""
    _, left = psutil.wait_procs(list(processes), timeout=seconds)
    assert not left, [(one.pid, one.status(), _words(one)) for one in left]


def _words(process: psutil.Process) -> list[str]:
    try:
        # Flower's programs are scripts: the name is the last part of a path.
        return [Path(word).name for word in process.cmdline()]
    except psutil.Error:
        return []


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


class Federation:
    """A coordinator and organizations on this machine, each with a folder of its own; use it as a context.

    Args:
        folder: for everything.
        base: folder of the base model.
        insecure: without TLS and node keys.
    """

    def __init__(self, folder: Path, base: Path, *, insecure: bool = False) -> None:
        self.folder = folder
        self.base = base
        self.insecure = insecure
        self.port = free_port()
        self.superlink_port = self.port if insecure else free_port()
        self.programs: dict[str, Program] = {}
        self._number = 0
        settings = {"address": f"127.0.0.1:{self.port}", "superlink": f"127.0.0.1:{self.superlink_port}"}
        (folder / "server.toml").write_text(tomli_w.dumps({**settings, "insecure": insecure}))
        if not insecure:
            make_certificates(folder / "certs", ["127.0.0.1", "localhost"])

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self.programs.values():
            program.kill_family()

    def start(self, key: str, *arguments: object, **environment: str) -> Program:
        """Start `sotto …`; what runs under the same key before must have ended."""
        assert key not in self.programs or self.programs[key].process.poll() is not None
        command = [sys.executable, "-P", "-m", "sotto", *arguments]
        self.programs[key] = Program(command, self.folder / f"{key}.log", **environment)
        return self.programs[key]

    def call(self, *arguments: object) -> tuple[int, str]:
        """Run `sotto …` to its end: exit code and everything printed."""
        self._number += 1
        program = self.start(f"call-{self._number}", *arguments)
        return program.wait(), program.text

    def run_arguments(self, plan: Path, out: Path, *more: object) -> list[object]:
        return ["run", plan, "--out", out, "--server", self.folder / "server.toml", *more]

    def run(self, plan: Path, out: Path, *more: object) -> tuple[int, str]:
        """`sotto run` to its end."""
        return self.call(*self.run_arguments(plan, out, *more))

    def write_plan(self, name: str = "plan", **sections: dict[str, Any]) -> Path:
        """A plan on tiny records; keywords replace keys of its sections."""
        values: dict[str, dict[str, Any]] = {
            "model": {"base": str(self.base)},
            "task": {"max_length": 16},
            "lora": {"rank": 2, "alpha": 4.0},
            "training": {"rounds": 2, "local_steps": 2, "batch_size": 8, "learning_rate": 0.01},
            "federation": {"min_organizations": 1, "round_timeout": 180.0},
            "privacy": {"epsilon": 8.0, "delta": 1e-3},
        }
        for section, more in sections.items():
            values[section] = {**values.get(section, {}), **more}
        path = self.folder / f"{name}.toml"
        path.write_text(tomli_w.dumps({"name": name, **values}), encoding="utf-8")
        return path

    def write_organization(
        self, name: str, records: list[dict[str, Any]], public_size: int = 100, folder: str = "", **relay: Any
    ) -> Path:
        """An organization's folder, with its records, keys, file and relay's file; its keys are registered."""
        home = self.folder / (folder or name)
        home.mkdir()
        (home / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
        organization = {
            "name": name,
            "data": {"train": "records.jsonl", "public_size": public_size},
            "models": {str(self.base): str(self.base)},
            "policy": {
                "max_epsilon": 80.0,
                "max_epsilon_per_run": 8.0,
                "max_delta": 9e-3,
                "plans": "any-within-policy",
            },
        }
        make_keys(home / "keys", name)
        if not self.insecure:
            self._register(name, home)
        (home / "organization.toml").write_text(tomli_w.dumps(organization), encoding="utf-8")
        side = {"name": name, "server": f"127.0.0.1:{self.port}", "patience": LONG, "insecure": self.insecure}
        side |= {"ca": str(self.folder / "certs" / "ca.pem"), **relay}
        (home / "relay.toml").write_text(tomli_w.dumps(side), encoding="utf-8")
        return home

    def _register(self, name: str, home: Path) -> None:
        """As the coordinator does with `sotto server register`."""
        server = Server.read(self.folder / "server.toml")
        server.organizations().register(name, home / "keys" / "node.pub", home / "keys" / "statement.pub")
        apply_registry(server)

    def start_server(self) -> Program:
        return self.start("server", "server", "start", self.folder / "server.toml").wait_for("is ready")

    def start_client(self, name: str) -> Program:
        home = self.folder / name
        program = self.start(name, "client", "start", home / "organization.toml", home / "relay.toml")
        return program.wait_for("relays between")

    def start_vault(self, name: str) -> Program:
        program = self.start(f"{name}-vault", "vault", "start", self.folder / name / "organization.toml")
        return program.wait_for("the vault answers")

    def start_supernode(self, name: str) -> Program:
        program = self.start(f"{name}-node", "supernode", "start", self.folder / name / "relay.toml")
        return program.wait_for("relays between")


def status(out: Path) -> dict[str, Any]:
    """What `status.json` says; empty before it is there."""
    try:
        values: dict[str, Any] = json.loads((out / "status.json").read_bytes())
    except FileNotFoundError:
        return {}
    return values


def wait_for_round(out: Path, number: int) -> None:
    """Until a round is being trained."""
    wait_until(lambda: status(out).get("round", 0) >= number, f"round {number} of {out}")


def lines(out: Path) -> list[dict[str, Any]]:
    """`rounds.jsonl`."""
    return [json.loads(line) for line in (out / "rounds.jsonl").read_text().splitlines()]


def report(out: Path) -> dict[str, Any]:
    """`privacy/report.json`."""
    values: dict[str, Any] = json.loads((out / "privacy" / "report.json").read_bytes())
    return values


def charged(ledger: Path) -> dict[str, tuple[int, list[tuple[int, int]]]]:
    """Of every run in a ledger: the steps that were charged, and (round, steps) of every release."""
    if not ledger.exists():
        return {}
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
        entries = [json.loads(entry) for (entry,) in database.execute("SELECT entry FROM chain ORDER BY number")]
    database.close()
    releases = sorted((e["run"], e["round"], e["steps"]) for e in entries if e["kind"] == "release")
    return {
        e["run"]: (e["mechanism"]["steps"], [(number, steps) for of, number, steps in releases if of == e["run"]])
        for e in entries
        if e["kind"] == "run"
    }
