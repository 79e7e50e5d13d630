"""Organizations that stand still, come late or come back, and full disks: a run goes on, or is continued."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.federation.harness import Federation, charged, lines, texts, wait_for_round
from tests.waiting import wait_until

STEPS = 10
SHORT = {"min_organizations": 1, "round_timeout": 25.0}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 3 MB in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "none", folder], capture_output=True)
    if made.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Take what is left of a disk."""
    path = disk / "filling"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return path


@pytest.fixture(scope="module")
def federation(tiny_base: Path) -> Iterator[Federation]:
    # Short: a socket lies in a folder below.
    with tempfile.TemporaryDirectory(prefix="sotto-faults-") as folder, Federation(Path(folder), tiny_base) as one:
        for name in ("a", "b", "late"):
            one.write_organization(name, texts(80))
        one.start_server()
        for name in ("a", "b"):
            one.start(f"{name}-vault", "vault", "start", one.folder / name / "organization.toml")
        for name in ("a", "b"):
            one.programs[f"{name}-vault"].wait_for("the vault answers")
            one.start_supernode(name)
        yield one


def answered(out: Path) -> list[list[str]]:
    """Who answered, round by round."""
    return [line["organizations"]["answered"] for line in lines(out)[1:]]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["vault", pytest.param("SuperNode", marks=pytest.mark.soak)])
def test_a_run_does_not_wait_for_ever_for_one_that_stands_still(federation: Federation, part: str) -> None:
    rounds = 4
    plan = federation.write_plan(
        f"still-{part.lower()}", training={"rounds": rounds, "local_steps": STEPS}, federation=SHORT
    )
    out = federation.folder / f"still-{part}"
    if part == "vault":
        stopped = psutil.Process(federation.programs["b-vault"].process.pid)
    else:
        stopped = federation.programs["b-node"].descendant("client.relay.runtime", "supernode")
    before = set(charged(federation.folder / "b" / "ledger.db"))
    run = federation.start(f"run-{part}", *federation.run_arguments(plan, out))
    wait_for_round(out, 2)
    stopped.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: ["a"] in answered(out), "a round without b")
    finally:
        stopped.send_signal(signal.SIGCONT)
    assert run.wait() == 0, run.text
    assert len(answered(out)) == rounds
    assert all("a" in names for names in answered(out))
    refused = [line["organizations"]["refused"] for line in lines(out)[1:]]
    assert any(one.get("b", "").startswith("no answer within") for one in refused)
    # Whatever it did late was charged when the run was reserved, and no round was released twice.
    for name in set(charged(federation.folder / "b" / "ledger.db")) - before:
        steps, releases = charged(federation.folder / "b" / "ledger.db")[name]
        assert steps == rounds * STEPS
        assert len({number for number, _ in releases}) == len(releases) <= rounds


@pytest.mark.soak
def test_one_that_comes_late_takes_part_and_so_does_one_that_comes_back(federation: Federation) -> None:
    rounds = 30
    plan = federation.write_plan(
        "late", training={"rounds": rounds, "local_steps": 1}, federation={**SHORT, "round_timeout": 60.0}
    )
    out = federation.folder / "late-run"
    run = federation.start("run-late", *federation.run_arguments(plan, out))
    wait_for_round(out, 2)
    assert federation.programs["b-node"].end() == 0
    federation.start_client("late")
    wait_until(lambda: any("late" in names for names in answered(out)), "a round with the late one")
    federation.start("b-node", "supernode", "start", federation.folder / "b" / "relay.toml")
    wait_until(lambda: "b" in answered(out)[-1] or run.process.poll() is not None, "a round with b again")
    assert run.wait() == 0, run.text
    assert federation.programs["late"].end() == 0
    names = answered(out)
    assert len(names) == rounds
    assert all("a" in one for one in names)
    assert "late" not in names[0]
    gone = [number for number, one in enumerate(names) if "b" not in one]
    assert gone, "it was away"
    assert any("b" in one for one in names[gone[-1] :]), "it came back"
    (late,) = charged(federation.folder / "late" / "ledger.db").values()
    # Who comes late is charged for the whole run: partial participation is not credited.
    assert late[0] == rounds


@pytest.mark.soak
def test_a_full_disk_of_the_coordinator_ends_the_run_in_one_line_and_resume_completes_it(
    federation: Federation,
) -> None:
    rounds = 4
    before = set(charged(federation.folder / "a" / "ledger.db"))
    with small_disk(federation.folder / "runs") as disk:
        plan = federation.write_plan("disk", training={"rounds": rounds, "local_steps": STEPS}, federation=SHORT)
        out = disk / "out"
        run = federation.start("run-disk", *federation.run_arguments(plan, out))
        wait_for_round(out, 2)
        filling = fill(disk)
        assert run.wait() == 1, run.text
        assert "Traceback" not in run.text
        (line,) = [line for line in run.text.splitlines() if line.startswith("error: ")]
        assert "--resume" in line
        done = len(lines(out)) - 1
        assert 1 <= done < rounds
        filling.unlink()
        code, said = federation.run(plan, out, "--resume")
        assert code == 0, said
        assert [line["round"] for line in lines(out)] == list(range(rounds + 1))
    (name,) = set(charged(federation.folder / "a" / "ledger.db")) - before
    steps, releases = charged(federation.folder / "a" / "ledger.db")[name]
    assert (steps, releases) == (rounds * STEPS, [(number, STEPS) for number in range(1, rounds + 1)])
