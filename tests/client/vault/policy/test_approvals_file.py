"""The file of approved plans: its format, its mistakes, and what a killed process leaves."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.vault.policy.approval import Approval, Approvals
from common.errors import InputError
from common.plan.plan import Plan
from common.system.lock import exclusive
from tests.conftest import ROOT, MakePlan

DIGEST, OTHER = "ab" * 32, "cd" * 32
LINE = f"{DIGEST} triage 2026-11-22T10:00:00+00:00"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "approved-plans.txt"


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan()


def test_a_line_without_a_number_as_earlier_versions_wrote_it_is_one_run(path: Path) -> None:
    path.write_text(f"# approved by the board\n\n{LINE}\n{OTHER} two 2026-11-23T10:00:00+00:00 5\n")
    assert {digest: approval.total for digest, approval in Approvals(path).read().items()} == {DIGEST: 1, OTHER: 5}


def test_a_file_that_does_not_exist_approves_nothing_and_is_not_created(path: Path) -> None:
    assert Approvals(path).read() == {}
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("earlier", "used", "runs", "total"),
    [(None, 0, 1, 1), (None, 4, 2, 6), (1, 0, 1, 2), (1, 1, 1, 2), (3, 1, 2, 5), (3, 7, 1, 8)],
)
def test_an_approval_adds_runs_to_those_that_are_left(
    path: Path, plan: Plan, earlier: int | None, used: int, runs: int, total: int
) -> None:
    if earlier is not None:
        path.write_text(f"{plan.digest()} test 2026-11-22T10:00:00+00:00 {earlier}\n")
    approval = Approvals(path).add(plan, runs, used)
    assert approval.total == total
    assert Approvals(path).read() == {plan.digest(): approval}
    assert path.read_text() == f"{plan.digest()} test {approval.at} {total}\n"


def test_other_lines_stay_as_they_are(path: Path, plan: Plan) -> None:
    path.write_text(f"# approved by the board\n{LINE}\n\n{OTHER} two 2026-11-23 5")
    approvals = Approvals(path)
    approval = approvals.add(plan, 2, 0)
    kept = f"# approved by the board\n{LINE}\n\n{OTHER} two 2026-11-23 5\n"
    assert path.read_text() == f"{kept}{approval.to_line()}\n"
    approvals.withdraw(plan.digest())
    assert path.read_text() == kept
    approvals.withdraw(plan.digest())
    approvals.withdraw(DIGEST)
    assert path.read_text() == f"# approved by the board\n\n{OTHER} two 2026-11-23 5\n"


BAD_LINES = {
    "a digest alone": DIGEST,
    "a short digest": f"{DIGEST[:12]} triage 2026-11-22 1",
    "a digest in capitals": f"{DIGEST.upper()} triage 2026-11-22 1",
    "no run": f"{LINE} 0",
    "a negative number": f"{LINE} -1",
    "a fraction": f"{LINE} 1.5",
    "for ever": f"{LINE} *",
    "other digits": f"{LINE} ٣",
    "an endless number": f"{LINE} {'9' * 5000}",
    "more runs than there can be": f"{LINE} 1000000001",
    "a column too many": f"{LINE} 1 1",
    "no time": f"{DIGEST} triage yesterday 1",
    "no name": f"{DIGEST} A_B 2026-11-22 1",
    "part of a record": "patient Ann Lee 1957",
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=list(BAD_LINES))
def test_a_line_that_cannot_be_read_is_one_error_with_file_and_line(path: Path, plan: Plan, line: str) -> None:
    text = f"# approved\n{line}\n"
    path.write_text(text, encoding="utf-8")
    approvals = Approvals(path)
    for task in (approvals.read, lambda: approvals.add(plan, 1, 0), lambda: approvals.withdraw(DIGEST)):
        with pytest.raises(InputError) as caught:
            task()
        assert str(caught.value).startswith(f"{path}: line 2 is not an approval")
        assert len(str(caught.value).splitlines()) == 1
        assert "Lee" not in str(caught.value), "the vault logs this text"
    assert path.read_text(encoding="utf-8") == text


def test_a_plan_that_occurs_twice_is_an_error(path: Path) -> None:
    path.write_text(f"{LINE} 1\n{LINE} 9\n")
    with pytest.raises(InputError, match=f"line 2: the plan {DIGEST} occurs twice"):
        Approvals(path).read()


def test_a_file_that_is_no_text_or_no_file_is_an_input_error(path: Path, plan: Plan) -> None:
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8 text"):
        Approvals(path).read()
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        Approvals(path).read()
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(InputError, match="cannot be written"):
        Approvals(path).add(plan, 1, 0)


@pytest.mark.parametrize("runs", [0, -1, 10**9])
def test_a_number_of_runs_that_cannot_be_is_refused(path: Path, plan: Plan, runs: int) -> None:
    with pytest.raises(InputError, match=f"runs = {runs}"):
        Approvals(path).add(plan, runs, 1)
    assert not path.exists()


@settings(deadline=None, max_examples=400)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from([DIGEST, "triage", "2026-11-22", "3", "é", "-"]))))
@example(f"{LINE}\x0b3")
@example(f"{LINE} 3\ud800")
def test_any_line_is_an_approval_that_comes_back_or_a_value_error(line: str | list[str]) -> None:
    text = line if isinstance(line, str) else " ".join(line)
    try:
        approval = Approval.from_line(text)
    except ValueError:
        return
    assert len(approval.digest) == 64
    assert approval.total >= 1
    assert Approval.from_line(approval.to_line()) == approval


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.builds(
            Approval,
            st.text("0123456789abcdef", min_size=64, max_size=64),
            st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True),
            st.datetimes().map(lambda at: at.isoformat()),
            st.integers(1, 10**9),
        ),
        unique_by=lambda approval: approval.digest,
        max_size=5,
    )
)
def test_a_file_of_approvals_comes_back(approvals: list[Approval]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "approved-plans.txt"
        path.write_text("".join(f"{approval.to_line()}\n" for approval in approvals))
        assert list(Approvals(path).read().values()) == approvals


def test_the_file_keeps_its_permissions_and_a_link_keeps_its_target(path: Path, plan: Plan) -> None:
    real = path.with_name("real.txt")
    real.write_text(f"{LINE} 1\n")
    real.chmod(0o640)
    path.symlink_to(real)
    Approvals(path).add(plan, 1, 0)
    assert path.is_symlink()
    assert len(Approvals(real).read()) == 2
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
def test_the_file_keeps_its_owner_when_root_runs_the_command(path: Path, plan: Plan) -> None:
    path.write_text(f"{LINE} 1\n")
    os.chown(path, 12345, 23456)
    Approvals(path).add(plan, 1, 0)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


# Dies after the new file is written and before it takes the place of the old one.
KILLED = """
import os, signal, sys
from pathlib import Path
from client.vault.policy.approval import Approvals
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
Approvals(Path(sys.argv[1])).withdraw(sys.argv[2])
"""


def test_a_process_that_is_killed_before_it_replaces_the_file_leaves_the_old_one(path: Path, plan: Plan) -> None:
    before = f"{LINE} 3\n"
    path.write_text(before)
    ended = subprocess.run([sys.executable, "-c", KILLED, path, DIGEST], cwd=ROOT, check=False)
    assert ended.returncode == -9
    assert path.read_text() == before
    assert path.with_name(f"{path.name}.part").exists(), "it was killed too early"
    Approvals(path).add(plan, 1, 0)
    assert len(Approvals(path).read()) == 2
    assert not path.with_name(f"{path.name}.part").exists()


def test_commands_at_the_same_time_do_not_lose_an_approval(path: Path, plan: Plan) -> None:
    with ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(Approvals(path).add, plan, 1, 0) for _ in range(16)]:
            future.result()
    assert Approvals(path).read()[plan.digest()].total == 16


def test_a_file_that_another_command_is_changing_is_an_input_error(
    path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.vault.policy.approval._LOCK_SECONDS", 0.05)
    with exclusive(path), pytest.raises(InputError, match=f"process {os.getpid()}, is changing it"):
        Approvals(path).add(plan, 1, 0)
    assert not path.exists()
