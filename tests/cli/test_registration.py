"""Keys, registration and approval, on both sides."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from common.keys.node_key import NodeKey
from common.keys.statement_key import StatementKey, public_line
from common.plan.plan import Plan
from tests.cli.files import write_organization
from tests.conftest import Cli


def test_both_sides_see_the_same_fingerprint_and_a_revoked_key_is_not_listed(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("")
    server = ("--server", tmp_path / "server.toml")
    code, said, _ = cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    assert code == 0
    assert (tmp_path / "keys" / "statement.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "node.key").stat().st_mode & 0o777 == 0o600
    publics = [tmp_path / "keys" / "node.pub", tmp_path / "keys" / "statement.pub"]
    # The public keys can be copied from the screen.
    assert all(public.read_text() in said for public in publics)
    node, statement = (line.split()[-1] for line in said.splitlines() if "fingerprint" in line)
    # Verified with ssh-keygen if it is installed, as an organization could.
    if shutil.which("ssh-keygen"):
        for public, fingerprint in zip(publics, (node, statement), strict=True):
            listed = subprocess.run(["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True)
            assert fingerprint == listed.stdout.split()[1]
    code, said, _ = cli("server", "register", "st-mary", *publics, *server)
    assert (code, node in said, statement in said) == (0, True, True)
    assert cli("server", "list", *server)[1] == f"st-mary  node {node}  statement {statement}\n"
    assert cli("server", "revoke", "st-mary", *server)[0] == 0
    assert cli("server", "list", *server)[1] == ""
    code, _, error = cli("server", "register", "st-mary", *publics, *server)
    assert (code, "was revoked" in error) == (2, True)


def test_a_key_is_never_replaced(cli: Cli, tmp_path: Path) -> None:
    cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    before = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    code, _, error = cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    assert code == 2
    assert "exists already" in error
    assert {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    # A missing node key, moved away after a theft for instance, is created again; the other key stays.
    (tmp_path / "keys" / "node.key").rename(tmp_path / "stolen.key")
    code, said, _ = cli("client", "keys", tmp_path / "keys", "--name", "st-mary")
    assert (code, "node.pub" in said) == (0, True)
    after = {path: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert {path.name for path in before if before[path] == after[path]} == {"statement.key", "statement.pub"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("register", "st-mary", "no-such.pub", "statement.pub"), "no-such.pub: there is no such file"),
        (("register", "st-mary", "node.pub", "no-such.pub"), "no-such.pub: there is no such file"),
        (("register", "st-mary", "node.pub", "server.toml"), "server.toml: not a public key"),
        (("register", "st-mary", "statement.pub", "node.pub"), "node.pub: not an Ed25519 public key"),
        (("register", "st-mary", "statement.pub", "statement.pub"), "not an ECDSA public key on P-384"),
        (("register", "../st-mary", "node.pub", "statement.pub"), "lower-case letters"),
        (("revoke", "clinic"), "clinic"),
    ],
)
def test_a_mistake_at_the_registry_is_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("server.toml").write_text("")
    Path("statement.pub").write_text(public_line(StatementKey.generate().public, "st-mary"))
    Path("node.pub").write_text(NodeKey.generate().public.line("st-mary"))
    code, _, error = cli("server", *arguments, "--server", "server.toml")
    assert (code, error.count("\n")) == (2, 1)
    assert said in error
    assert cli("server", "list", "--server", "server.toml")[1] == ""


def test_approving_shows_what_a_plan_would_cost_and_records_it(cli: Cli, folder: Path) -> None:
    organization = write_organization(folder)
    plan = folder / "plan.toml"
    plan.write_text(plan.read_text().replace("delta = 1e-3", "delta = 1e-4"))
    code, said, _ = cli("client", "approve", organization, plan, "--yes")
    assert code == 0
    digest = Plan.read(plan).digest()
    assert f"approved: {digest}" in said
    assert "1 steps at rate 0.2 " in said
    assert digest in (folder / "approved-plans.txt").read_text()
    assert not (folder / "ledger.db").exists(), "nothing is spent"
