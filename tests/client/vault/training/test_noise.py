"""Noise is never used twice: in another round, run, attempt or organization, after a restart, or after a fork.

The vaults here have no records, so that a release is noise and nothing else. Some are in this process, some in one
that is started anew, and some in two children that it forks after it has drawn noise: each has all its memory.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.training.entropy import Entropy, Keystream, SystemEntropy
from client.vault.vault import Vault
from common.adapter import adapter
from common.model.model import LoraModel
from common.plan.plan import Plan
from common.protocol.protocol import TrainRequest
from common.settings import validate
from tests.conftest import ROOT
from tests.waiting import LONG

Numbers = npt.NDArray[Any]
# Releases and draws, by what made them.
Seen = tuple[dict[str, Numbers], dict[str, Numbers]]

# Of the mechanism. The plan's ε would allow less noise than the organizations' policy.
RATE, SIGMA, CLIPPING_NORM, BATCH_SIZE, LOCAL_STEPS = 0.5, 3.0, 0.7, 8, 4
# Standard normal variables pass this with probability 3e-12, and some two hundred are looked at.
FAR = 7.0


def plan_of(base: Path) -> Plan:
    values = {
        "name": "noise",
        "model": {"base": str(base)},
        "task": {"max_length": 32},
        "lora": {"rank": 16, "alpha": 4.0},
        "training": {
            "rounds": 2,
            "local_steps": LOCAL_STEPS,
            "batch_size": BATCH_SIZE,
            "learning_rate": RATE,
            "optimizer": "sgd",
        },
        "privacy": {"epsilon": 1.0, "delta": 1e-3, "clipping_norm": CLIPPING_NORM},
    }
    return validate(values, Plan, "the test's plan")


class SharedModel:
    """Vaults of one process: on one loaded model, with one source of randomness, without records."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._plan = plan_of(base)
        self._model = LoraModel(str(base), self._plan)
        self._folder = folder
        self._entropy: Entropy = SystemEntropy()

    def ledger(self, name: str, organization: str = "st-mary") -> Ledger:
        return Ledger(self._folder / f"{name}.db", organization, "example")

    def vault(self, ledger: Ledger, organization: str = "st-mary") -> Vault:
        base = self._plan.model.base
        policy = {
            "max_epsilon": 100.0,
            "max_epsilon_per_run": 1.0,
            "max_delta": 2e-2,
            "min_noise_multiplier": SIGMA,
            "plans": "any-within-policy",
        }
        data = {"train": "none.jsonl", "public_size": 40}
        values = {"name": organization, "data": data, "models": {base: base}, "policy": policy}
        made = validate(values, Organization, "test")
        return Vault(made, [], ledger, lambda _f, _p: self._model, self._entropy, "test")

    def noise(self, vault: Vault, run: str = "a", number: int = 1) -> Numbers:
        start = adapter.to_bytes(adapter.initial(self._model.trained_shapes, 0))
        request = TrainRequest(run, number, self._plan.canonical(), self._model.fingerprint, start)
        noise = self.read(vault.train(request).update)
        (mechanism,) = vault.statement(run).mechanisms
        assert mechanism.noise_multiplier == SIGMA
        return noise

    def read(self, update: bytes) -> Numbers:
        tensors = adapter.from_bytes(update, self._model.trained_shapes)
        return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])

    def draws(self, run: str = "a", number: int = 1) -> Numbers:
        """What a step would draw a thousand units with."""
        return self._entropy.stream("st-mary", run, number).branch().uniforms(1000)


class FailsOnce(Ledger):
    """Cannot store the first release: the disk is full. The attempt trained, but is never answered."""

    lost: bytes | None = None

    def settle(self, run: str, round_number: int, request: str, steps: int, released: bytes) -> None:
        if self.lost is None:
            self.lost = released
            raise OSError("no space left on device")
        super().settle(run, round_number, request, steps, released)


def releases_of_this_process(bench: SharedModel, folder: Path) -> dict[str, Numbers]:
    made = {}
    ledger = bench.ledger("usual")
    vault = bench.vault(ledger)
    made["the first round"] = bench.noise(vault)
    made["another run"] = bench.noise(vault, run="b")
    ledger.close()
    made["the next round, by a vault that was started again"] = bench.noise(
        bench.vault(bench.ledger("usual")), number=2
    )
    made["the first round, by a vault whose ledger was lost"] = bench.noise(bench.vault(bench.ledger("fresh")))
    made["another organization"] = bench.noise(bench.vault(bench.ledger("john", "st-john"), "st-john"))
    failing = FailsOnce(folder / "failing.db", "st-mary", "example")
    with pytest.raises(OSError, match="no space"):
        bench.noise(bench.vault(failing))
    assert failing.lost is not None
    made["an attempt that failed"] = bench.read(failing.lost)
    made["the same attempt, made again"] = bench.noise(bench.vault(failing))
    return made


def run_process(base: str, folder: str) -> None:
    """What the new process does: a release, two forks, a release of each child, and one more of its own."""
    bench = SharedModel(Path(base), Path(folder))

    def leave(name: str) -> None:
        noise = bench.noise(bench.vault(bench.ledger(name)))
        np.savez(Path(folder) / f"{name}.npz", noise=noise, draws=bench.draws())

    leave("a new process")
    children = []
    for name in ("its first child", "its second child"):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                leave(name)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    leave("a new process after it forked")
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


@pytest.fixture(scope="module")
def seen(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    here, there = tmp_path_factory.mktemp("here"), tmp_path_factory.mktemp("there")
    script = (
        "import sys; from tests.client.vault.training.test_noise import run_process; run_process(*sys.argv[1:])"
    )
    # After a fork, torch computes no gradients beside a GPU whose threads were left behind.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", script, str(tiny_base), str(there)]
    subprocess.run(command, env=environment, timeout=LONG, check=True)
    bench = SharedModel(tiny_base, here)
    noises = releases_of_this_process(bench, here)
    draws = {f"draw {place}": bench.draws() for place in range(3)}
    draws |= {"another run": bench.draws(run="b"), "the next round": bench.draws(number=2)}
    for path in sorted(there.glob("*.npz")):
        with np.load(path) as made:
            noises[path.stem], draws[path.stem] = made["noise"], made["draws"]
    assert (len(noises), len(draws)) == (11, 9)
    return noises, draws


def in_threes(numbers: np.ndarray) -> np.ndarray:
    """Each three numbers in a row as one value."""
    threes = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(numbers, 3))
    return threes.view([("", numbers.dtype)] * 3).ravel()


def test_no_two_releases_have_noise_in_common(seen: Seen) -> None:
    noises, _ = seen
    for (left, one), (right, other) in itertools.combinations(noises.items(), 2):
        assert one.shape == other.shape == (7168,)
        correlation = np.corrcoef(one, other)[0, 1]
        assert abs(correlation) < FAR / math.sqrt(len(one)), f"{left} and {right}: {correlation}"
        # Two numbers are the same multiple of the grid, 2⁻¹⁰ of the deviation or half of that, with a probability
        # below 3e-4, and three in a row with one of 3e-11: of the 7168² pairs of places 2e-3 are expected.
        assert len(np.intersect1d(in_threes(one), in_threes(other))) < 4, f"{left} and {right}"


def test_every_release_has_the_noise_of_its_mechanism(seen: Seen) -> None:
    """The noise of each step is its own too: the same one in every step would be twice as large."""
    deviation = RATE * SIGMA * CLIPPING_NORM / BATCH_SIZE * math.sqrt(LOCAL_STEPS)
    for name, noise in seen[0].items():
        standard = noise.astype(np.float64) / deviation
        probability = stats.chi2.cdf(np.sum(standard**2), len(standard))
        assert 1e-10 < probability < 1 - 1e-10, f"{name}: {noise.std()} instead of {deviation}"
        assert abs(standard.sum()) < FAR * math.sqrt(len(standard)), name


def test_no_two_rounds_draw_alike(seen: Seen) -> None:
    _, draws = seen
    # Of 2⁵³ values, nine thousand are different but for a probability of 5e-9.
    assert len(np.unique(np.concatenate(list(draws.values())))) == 9 * 1000
    correlations = np.corrcoef(list(draws.values()))
    assert np.abs(correlations - np.eye(9)).max() < FAR / math.sqrt(1000)


def test_draws_choices_and_noise_of_one_round_have_nothing_in_common() -> None:
    stream: Keystream = SystemEntropy().stream("st-mary", "a", 1)
    draws, choices = stream.branch().uniforms(10_000), stream.branch().uniforms(10_000)
    parts = [draws, choices, *(source.uniforms(10_000) for source in (stream, stream, stream.branch()))]
    correlations = np.corrcoef(parts)
    assert np.abs(correlations - np.eye(len(parts))).max() < FAR / math.sqrt(10_000)
    assert len(np.unique(np.concatenate(parts))) == len(parts) * 10_000
