"""Every process of a federation is killed at random moments: each run completes or is resumed, no ledger
under-counts, no round is lost or made twice, and nothing is left behind.

A hundred kills; part of `make soak`.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.federation.harness import Federation, Program, assert_gone, charged, lines, report, status, texts
from tests.waiting import wait_until

NAMES = ["a", "b"]
ROUNDS, STEPS = 4, 20
KILLS = int(os.environ.get("SOTTO_SOAK_KILLS", "100"))
# What is in the command line of each kind of process, in the order in which it is looked for.
KINDS = {
    "gateway": ("server.superlink.gateway",),
    "ServerApp": ("flwr-serverapp",),
    "SuperExec": ("server.superlink.superexec",),
    "SuperLink": ("flower-superlink",),
    "SuperNode": ("client.relay.runtime", "supernode"),
    "relay": ("client.relay.runtime", "relay"),
    "sotto vault start": ("vault", "start"),
    "sotto supernode start": ("supernode", "start"),
    "sotto client start": ("client", "start"),
    "sotto server start": ("server", "start"),
    "sotto run": ("run", "--out"),
}

_log = logging.getLogger(__name__)


class Kills:
    """Starts what is not there, as an administrator's system does, and kills what is."""

    def __init__(self, federation: Federation, seed: int) -> None:
        self.federation = federation
        self.random = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.lost: list[psutil.Process] = []
        self._starts = 0
        self._told: dict[str, Any] = {}
        self._next: float | None = None
        self._soon = False

    def tend(self) -> None:
        """Start the commands that should run and do not."""
        folder = self.federation.folder
        commands = {"server": ["server", "start", folder / "server.toml"]}
        for name in NAMES:
            home = folder / name
            commands[name] = ["client", "start", home / "organization.toml", home / "relay.toml"]
        for key, command in commands.items():
            program = self.federation.programs.get(key)
            if program is None or program.process.poll() is not None:
                self.federation.start(key, *command)

    def run(self, plan: Path, out: Path) -> None:
        """Run a plan to its end, whatever happens to it meanwhile."""
        code = None
        while code != 0:
            resumed = ["--resume"] if (out / "run.json").exists() else []
            self._starts += 1
            run = self.federation.start(f"run-{self._starts}", *self.federation.run_arguments(plan, out, *resumed))
            while (code := run.process.poll()) is None:
                self.tend()
                if self.done.total() < KILLS and self._is_time(out):
                    self.kill_one(run)
                time.sleep(0.1)
            assert code in (0, 1, -9), run.text
            assert "Traceback" not in run.text

    def _is_time(self, out: Path) -> bool:
        """Mostly when a round is trained again since the last kill, sometimes in the middle of a recovery."""
        now = status(out)
        if self._next is None:
            if not self._soon and (now == self._told or now.get("state") != "running"):
                return False
            self._next = time.monotonic() + self.random.uniform(0, 3)
        if time.monotonic() < self._next:
            return False
        self._told, self._next, self._soon = now, None, self.random.random() < 0.2
        return True

    def kill_one(self, run: Program) -> None:
        """Kill a process of a random kind."""
        tops = [run, *(self.federation.programs[key] for key in ("server", *NAMES))]
        there: dict[str, list[psutil.Process]] = {}
        for top in tops:
            for process in top.family() if top.process.poll() is None else []:
                kind = self.kind(process)
                if kind is not None:
                    there.setdefault(kind, []).append(process)
        if not there:
            return
        # The kinds that were killed least, so that each gets its turn.
        least = min(self.done[kind] for kind in there)
        kind = self.random.choice(sorted(kind for kind in there if self.done[kind] == least))
        process = self.random.choice(there[kind])
        _log.info("kill %d: %s", self.done.total() + 1, kind)
        try:
            process.kill()
        except psutil.NoSuchProcess:
            return
        self.lost.append(process)
        self.done[kind] += 1

    @staticmethod
    def kind(process: psutil.Process) -> str | None:
        try:
            words = {Path(word).name for word in process.cmdline()}
        except psutil.Error:
            return None
        return next((kind for kind, needed in KINDS.items() if words.issuperset(needed)), None)


@pytest.fixture
def federation(tiny_base: Path, tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path, tiny_base) as federation:
        for name in NAMES:
            federation.write_organization(name, texts(80))
            # Enough for all runs.
            path = tmp_path / name / "organization.toml"
            path.write_text(path.read_text().replace("max_epsilon = 80.0", "max_epsilon = 8000.0"))
        yield federation


@pytest.mark.soak
def test_runs_survive_the_death_of_any_process(federation: Federation) -> None:
    seed = int(os.environ.get("SOTTO_SEED", time.time()))
    _log.warning("random moments from seed %d", seed)
    kills = Kills(federation, seed)
    outs = []
    while kills.done.total() < KILLS or not outs:
        number = len(outs) + 1
        plan = federation.write_plan(
            f"kills-{number}",
            training={"rounds": ROUNDS, "local_steps": STEPS},
            federation={"min_organizations": 2, "round_timeout": 240.0},
            privacy={"epsilon": 8.0, "delta": 1e-6},
        )
        outs.append(federation.folder / f"kills-{number}")
        kills.run(plan, outs[-1])
    _log.warning("%d kills in %d runs: %s", kills.done.total(), len(outs), dict(kills.done))
    assert kills.done.total() >= KILLS

    ledgers = {name: charged(federation.folder / name / "ledger.db") for name in NAMES}
    for out in outs:
        assert [line["round"] for line in lines(out)] == list(range(ROUNDS + 1))
        for line in lines(out)[1:]:
            assert line["organizations"]["answered"] == NAMES
        run = report(out)["run"]
        assert [one["signature"] for one in report(out)["organizations"]] == ["valid", "valid"]
        for name in NAMES:
            # Charged once, for the whole run; each round released once.
            assert ledgers[name].pop(run) == (ROUNDS * STEPS, [(n, STEPS) for n in range(1, ROUNDS + 1)])
    assert all(not left for left in ledgers.values()), "nobody was charged for anything else"

    family = [process for key in ("server", *NAMES) for process in federation.programs[key].family()]
    for key in ("server", *NAMES):
        assert federation.programs[key].end() == 0
    assert_gone([*family, *kills.lost])
    wait_until(lambda: not _zombies(), "no zombie")


def _zombies() -> list[psutil.Process]:
    own = psutil.Process().children(recursive=True)
    return [one for one in own if one.status() == psutil.STATUS_ZOMBIE]
