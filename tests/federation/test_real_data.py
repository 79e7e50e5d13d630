"""The example on real data: a federation of processes leaves what a simulation leaves, to the last bit."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from client.admin.keys import make_keys
from client.vault.policy.organization import Organization
from common.plan.plan import Plan
from common.records import read_records
from simulations.simulate import SimulationResult, simulate, simulated_organization
from tests.conftest import ROOT
from tests.federation.harness import Federation, Program, charged, lines, report
from tests.waiting import wait_until

SIZES = {"client-0": 300, "client-2": 280, "client-4": 260}
SEED = 11


def edit(path: Path, **replacements: str) -> None:
    """Give keys of a TOML file other values, in the text as a user would."""
    text = path.read_text(encoding="utf-8")
    for key, value in replacements.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        assert count == 1, (path, key)
    path.write_text(text, encoding="utf-8")


def cut(path: Path, count: int) -> None:
    kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:count]
    assert len(kept) == count
    path.write_text("".join(kept), encoding="utf-8")


@pytest.fixture(scope="module")
def federation(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """The example's folder, made small; server and relays run, no vault yet."""
    folder = tmp_path_factory.mktemp("dolly")
    example = ROOT / "examples" / "dolly"
    # Somebody may have run the example where it stands.
    left = [line.rstrip("/") for line in (example / ".gitignore").read_text(encoding="utf-8").splitlines()]
    shutil.copytree(example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left))
    train = shared / "data" / "dolly" / "train.jsonl.gz"
    subprocess.run([sys.executable, folder / "split.py", train], check=True, capture_output=True)
    cut(folder / "public-test.jsonl", 20)
    edit(folder / "plan.toml", max_length="64", local_steps="2", batch_size="16")
    with (folder / "plan.toml").open("a", encoding="utf-8") as plan:
        plan.write(f"[simulation]\nnoise_seed = {SEED}\n")
    with pytest.MonkeyPatch.context() as patch, Federation(folder, shared) as federation:
        patch.setenv("SOTTO_SHARED", str(shared))
        for name, size in SIZES.items():
            home = folder / name
            cut(home / "records.jsonl", size)
            # Each organization has a base model of its own.
            shutil.copytree(shared / "models" / "stories260k", home / "base")
            edit(home / "organization.toml", public_size=str(size))
            make_keys(home / "keys", name)
            text = (home / "organization.toml").read_text(encoding="utf-8")
            mapped = text.replace('= "${SOTTO_SHARED}/models/stories260k"', '= "base"')
            assert mapped != text
            mapped = mapped.replace("[policy]\n", '[policy]\nplans = "any-within-policy"\n')
            (home / "organization.toml").write_text(mapped, encoding="utf-8")
            edit(home / "relay.toml", server=f'"127.0.0.1:{federation.port}"')
            with (home / "relay.toml").open("a", encoding="utf-8") as relay:
                relay.write("patience = 240\n")
        federation.start_server()
        for name in SIZES:
            keys = folder / name / "keys"
            register = ["server", "register", name, keys / "node.pub", keys / "statement.pub"]
            assert federation.call(*register, "--server", folder / "server.toml")[0] == 0
            federation.start(f"{name}-node", "supernode", "start", folder / name / "relay.toml")
        yield federation


@pytest.fixture(scope="module")
def seeded_run(federation: Federation) -> Path:
    """A run over three vaults with repeatable noise; the first has no network interface, if that is permitted."""
    program = [sys.executable, "-P", "-m", "tests.federation.seeded_vault"]
    vaults = []
    for name in SIZES:
        alone = ["unshare", "-n"] if name == "client-0" and without_network_is_permitted() else []
        file = federation.folder / name / "organization.toml"
        vaults.append(Program([*alone, *program, file, SEED], federation.folder / f"{name}-seeded.log"))
        federation.programs[f"{name}-seeded"] = vaults[-1]
    for vault in vaults:
        vault.wait_for("the vault answers")
    for name in SIZES:
        federation.programs[f"{name}-node"].wait_for("relays between")
    out = federation.folder / "seeded"
    code, printed = federation.run(federation.folder / "plan.toml", out)
    assert code == 0, printed
    for vault in vaults:
        assert vault.end() == 0
    return out


@pytest.fixture(scope="module")
def simulation(federation: Federation) -> SimulationResult:
    plan = Plan.read(federation.folder / "plan.toml")
    records = {name: read_records(federation.folder / name / "records.jsonl") for name in SIZES}
    return simulate(plan, records, federation.folder / "simulated")


def without_network_is_permitted() -> bool:
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "-n", "true"]).returncode == 0


def files(out: Path) -> set[str]:
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    return {re.sub(r"^tensorboard/.*", "tensorboard", name) for name in names}


def test_a_federation_leaves_the_files_of_a_simulation(seeded_run: Path, simulation: SimulationResult) -> None:
    simulated = {name for name in files(simulation.directory.path) if not name.startswith("organizations/")}
    keys = {f"privacy/keys/{name}.pub" for name in SIZES}
    assert files(seeded_run) == simulated | keys | {"status.json", "run.lock"}
    for ours, theirs in zip(lines(seeded_run), lines(simulation.directory.path), strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["organizations"] == theirs["organizations"]
        # The heads of the ledgers are signed: 64 bytes, in hexadecimal.
        signatures = 128 * len(SIZES) if ours["round"] else 0
        assert ours["bytes_up"] == theirs["bytes_up"] + signatures
        # They come back with every request but the first; the simulation has nobody to keep them.
        heads = (ours["bytes_down"] - theirs["bytes_down"]) / len(SIZES)
        assert heads == 0 if ours["round"] < 2 else 250 < heads < 350
        assert ours["round"] == theirs["round"]
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)


def keys(values: Any) -> Any:
    """The names in nested dictionaries, without the values."""
    if isinstance(values, dict):
        return {name: keys(value) for name, value in values.items()}
    return [keys(value) for value in values] if isinstance(values, list) else None


def test_a_federation_costs_what_its_simulation_says(seeded_run: Path, simulation: SimulationResult) -> None:
    ours, theirs = report(seeded_run), report(simulation.directory.path)
    assert keys(ours) == keys(theirs)
    assert [item["name"] for item in ours["organizations"]] == list(SIZES)
    for item, simulated in zip(ours["organizations"], theirs["organizations"], strict=True):
        assert (item["boundary"], item["signature"]) == ("same user", "valid")
        assert item["registered_key_fingerprint"].startswith("SHA256:")
        own = {"boundary", "lifetime", "signature", "head", "key", "key_fingerprint", "registered_key_fingerprint"}
        for key in set(item) - own:
            assert item[key] == simulated[key], key
        assert item["mechanisms"][0]["sample_rate"] == 16 / SIZES[item["name"]]
        assert item["lifetime"]["epsilon_spent"] == simulated["lifetime"]["epsilon_spent"]


def test_a_federation_trains_the_adapter_of_its_simulation(
    seeded_run: Path, simulation: SimulationResult, federation: Federation
) -> None:
    plan = Plan.read(federation.folder / "plan.toml")
    for name, size in SIZES.items():
        # What else has to agree: the sizes, and how large a micro-batch is.
        here = Organization.read(federation.folder / name / "organization.toml")
        there = simulated_organization(name, plan, size)
        assert (here.data.public_size, here.vault.max_tokens) == (there.data.public_size, there.vault.max_tokens)
    for number in range(1, 4):
        file = f"checkpoints/round-{number:04d}/adapter.safetensors"
        assert (seeded_run / file).read_bytes() == (simulation.directory.path / file).read_bytes()
    adapter = simulation.directory.latest_checkpoint()[1]
    assert any(np.abs(tensor).max() > 1e-3 for name, tensor in adapter.items() if "lora_B" in name)


def test_a_vault_needs_no_network_interface(seeded_run: Path, federation: Federation) -> None:
    if not without_network_is_permitted():
        pytest.skip("`unshare -n` is not permitted here")
    (ledger,) = charged(federation.folder / "client-0" / "ledger.db").values()
    assert ledger == (6, [(1, 2), (2, 2), (3, 2)])


@pytest.mark.soak
def test_a_vault_loads_its_model_once_and_its_memory_stays_flat(seeded_run: Path, federation: Federation) -> None:
    """Over two runs of three rounds; the relays have run all the time while the vaults were others."""
    folder = federation.folder
    vaults = {name: federation.start(f"{name}-vault", "vault", "start", folder / name / "organization.toml")
              for name in SIZES}  # fmt: skip
    for vault in vaults.values():
        vault.wait_for("the vault answers")
    processes = {name: psutil.Process(vault.process.pid) for name, vault in vaults.items()}

    outs = [folder / "first", folder / "second"]
    program = federation.start("first-run", *federation.run_arguments(folder / "plan.toml", outs[0]))
    wait_until(lambda: (outs[0] / "checkpoints" / "round-0001").exists(), "the first round")
    before = {name: process.memory_info().rss for name, process in processes.items()}
    for name in SIZES:
        shutil.rmtree(folder / name / "base")
    assert program.wait() == 0, program.text
    code, printed = federation.run(folder / "plan.toml", outs[1])
    assert code == 0, printed
    after = {name: process.memory_info().rss for name, process in processes.items()}

    for name, bytes_before in before.items():
        assert after[name] < 1.05 * bytes_before + 20 * 2**20, (before, after)
    # Nobody seeded these: equal noise would be no noise.
    first, second = ((out / "checkpoints/round-0003/adapter.safetensors").read_bytes() for out in outs)
    assert first != second
    for name in SIZES:
        runs = charged(folder / name / "ledger.db")
        assert list(runs.values()) == [(6, [(1, 2), (2, 2), (3, 2)])] * 3
        spent = [report(out)["organizations"][list(SIZES).index(name)]["lifetime"] for out in outs]
        cost = report(outs[0])["organizations"][list(SIZES).index(name)]["epsilon"]
        assert [item["epsilon_spent"] for item in spent] == pytest.approx([2 * cost, 3 * cost])
