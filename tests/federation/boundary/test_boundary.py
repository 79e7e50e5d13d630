"""The boundary in operation: vault and relay are two users of the system, and what the one guards the other cannot
read. Planted strings show that nothing of it leaves by any other way.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tomli_w

from tests.federation.boundary.users import (
    GROUP,
    GROUP_NUMBER,
    RELAY,
    VAULT,
    as_user,
    python_of_users,
    python_path,
)
from tests.federation.boundary.wire import Capture
from tests.federation.harness import Federation, Program, charged, report, texts

pytestmark = pytest.mark.skipif(
    python_of_users() is None, reason="needs the right to run as other users, and a Python that they may run"
)

RECORD, SETTING, IN_VAULT, IN_RELAY = "canaryrecord7316", "canarysetting8427", "canaryvault9538", "canaryrelay1649"


def records() -> list[dict[str, object]]:
    """Good ones, and some that each part of the code stumbles over in its own way; the string is in all."""
    broken: list[dict[str, object]] = [
        {"text": 7, "note": RECORD},
        {"note": RECORD},
        {"text": ""},
        {"text": {"deep": [RECORD]}},
        {"text": RECORD + "\ud83d" * 3},
        {"text": "\x00\x1b[31m" + RECORD},
        {"text": RECORD * 500},
    ]
    return [*texts(80, RECORD), *broken]


@dataclass
class Site:
    """A federation of one organization, whose vault and relay are two users, and what was heard of it."""

    federation: Federation
    home: Path
    relay: Path
    capture: Capture | None
    secrets: list[str] = field(default_factory=list)

    def readable_as(self, user: int, path: Path) -> bool:
        return subprocess.run(as_user(user, "cat", path), capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def site(tiny_base: Path) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="sotto-boundary-"))
    folder.chmod(0o711)
    try:
        with Federation(folder, tiny_base) as federation:
            yield from _run_as_two_users(federation)
    finally:
        shutil.rmtree(folder)


def _run_as_two_users(federation: Federation) -> Iterator[Site]:
    folder = federation.folder
    base = folder / "base"
    shutil.copytree(federation.base, base)
    for path in (base, *base.iterdir()):
        path.chmod(0o755)
    home = federation.write_organization("st-mary", records())
    relay = folder / "relay"
    relay.mkdir()
    for name in ("node.key", "node.pub"):
        (home / "keys" / name).rename(relay / name)
    run = folder / "run"
    run.mkdir(mode=0o710)
    settings = tomllib.loads((home / "organization.toml").read_text())
    settings["models"] = {str(federation.base): str(base)}
    settings["vault"] = {"socket": str(run / "vault.sock"), "group": GROUP, "ledger": f"{SETTING}.db"}
    (home / "organization.toml").write_text(tomli_w.dumps(settings))
    side = tomllib.loads((home / "relay.toml").read_text())
    (home / "relay.toml").unlink()
    shutil.copy(folder / "certs" / "ca.pem", relay / "ca.pem")
    side |= {"socket": str(run / "vault.sock"), "node_key": "node.key", "ca": "ca.pem"}
    (relay / "relay.toml").write_text(tomli_w.dumps(side))
    _give(home, VAULT)
    _give(relay, RELAY)
    os.chown(run, VAULT, GROUP_NUMBER)
    try:
        capture: Capture | None = Capture()
    except PermissionError:
        capture = None
    site = Site(federation, home, relay, capture)
    for key in (home / "keys" / "statement.key", relay / "node.key"):
        site.secrets += [line for line in key.read_text().splitlines() if not line.startswith("-----")]
    alone = [] if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode else ["unshare", "-n"]
    sotto = [python_of_users(), "-P", "-m", "sotto"]
    vault = [*alone, *as_user(VAULT, *sotto, "vault", "start", home / "organization.toml")]
    node = as_user(RELAY, *sotto, "supernode", "start", relay / "relay.toml")
    environment = {"PYTHONPATH": python_path(), "HOME": "/nonexistent"}
    if capture:
        capture.__enter__()
    try:
        federation.start_server()
        for key, command, said, canary in (
            ("vault", vault, "the vault answers", IN_VAULT),
            ("node", node, "relays between", IN_RELAY),
        ):
            log = folder / f"{key}.log"
            federation.programs[key] = Program(command, log, SOTTO_CANARY=canary, **environment)
            federation.programs[key].wait_for(said)
        yield site
    finally:
        if capture:
            capture.__exit__(None, None, None)


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)
        path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.fixture(scope="module")
def out(site: Site) -> Path:
    """A run that completes, and one that is refused."""
    federation = site.federation
    code, printed = federation.run(federation.write_plan("good"), federation.folder / "good")
    assert code == 0, printed
    dear = federation.write_plan("dear", privacy={"epsilon": 9.0}, federation={"round_timeout": 60.0})
    code, printed = federation.run(dear, federation.folder / "dear")
    assert code == 1
    assert "privacy.epsilon = 9.0; a run may cost at most 8.0" in printed
    return federation.folder / "good"


def test_the_run_was_trained_and_states_two_users(site: Site, out: Path) -> None:
    (organization,) = report(out)["organizations"]
    assert organization["boundary"] == "separate users"
    assert organization["signature"] == "valid"
    (run,) = charged(site.home / f"{SETTING}.db").values()
    assert run == (4, [(1, 2), (2, 2)])


def test_the_relay_can_read_nothing_that_the_vault_guards(site: Site, out: Path) -> None:
    guarded = [path for path in site.home.rglob("*") if path.is_file()]
    names = {path.name for path in guarded}
    assert {"records.jsonl", "organization.toml", "statement.key", f"{SETTING}.db"} <= names
    for path in guarded:
        assert site.readable_as(VAULT, path), path
        assert not site.readable_as(RELAY, path), path
    assert subprocess.run(as_user(RELAY, "ls", site.home), capture_output=True).returncode != 0
    # It can use the socket, and not take it away or put another in its place.
    socket = site.home.parent / "run" / "vault.sock"
    assert subprocess.run(as_user(RELAY, "test", "-w", socket)).returncode == 0
    assert subprocess.run(as_user(RELAY, "rm", "-f", socket), capture_output=True).returncode != 0
    # Nor can it look into the process.
    vault = site.federation.programs["vault"].process.pid
    for part in ("mem", "environ"):
        assert not site.readable_as(RELAY, Path(f"/proc/{vault}/{part}"))


def test_the_vault_cannot_read_the_node_key(site: Site) -> None:
    assert site.readable_as(RELAY, site.relay / "node.key")
    assert not site.readable_as(VAULT, site.relay / "node.key")


def test_another_user_cannot_even_ask_the_vault(site: Site) -> None:
    socket = site.home.parent / "run" / "vault.sock"
    stranger = ["setpriv", "--reuid", "61003", "--regid", "61003", "--clear-groups"]
    assert subprocess.run([*stranger, "test", "-w", str(socket)]).returncode != 0


def test_what_was_planted_is_nowhere_but_at_home(site: Site, out: Path) -> None:
    """In no log, error, app bundle, checkpoint, database of the server, run directory, or byte on the network."""
    federation = site.federation
    for key in ("node", "vault", "server"):
        assert federation.programs[key].end() == 0
    planted = [RECORD, SETTING, IN_VAULT, IN_RELAY, *site.secrets]
    assert len(site.secrets) >= 4
    at_home = [site.home, site.relay]
    seen = 0
    for path in federation.folder.rglob("*"):
        inside = path.is_file() and not any(path.is_relative_to(home) for home in at_home)
        if inside:
            seen += 1
            assert found(path.read_bytes(), planted) == [], path
    assert seen > 30
    # The relay's own folder holds its key, and nothing of the vault's.
    log = (site.relay / "relay.log").read_bytes()
    assert found(log, planted) == []
    stored = sqlite3.connect(federation.folder / "superlink" / "state.db")
    tables = [name for (name,) in stored.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    values = [value for name in tables for row in stored.execute(f"SELECT * FROM {name}") for value in row]
    stored.close()
    assert "st-mary" in values, "the database is the one that was used"
    assert all(found(as_bytes(value), planted) == [] for value in values)


def test_nothing_planted_crossed_the_network(site: Site, out: Path) -> None:
    if site.capture is None:
        pytest.skip("needs the right to open raw sockets")
    federation = site.federation
    streams = site.capture.streams()
    behind = [data for ports, data in streams.items() if federation.superlink_port in ports]
    gateway = [data for ports, data in streams.items() if federation.port in ports]
    # Behind the gateway it is in the clear, so that what is looked for would be found: the plan is.
    assert any(b'"clipping_norm"' in data for data in behind)
    assert any(b"ledger_head" in data or b"st-mary" in data for data in behind)
    assert gateway
    assert not any(b'"clipping_norm"' in data or b"st-mary" in data for data in gateway), "the gateway speaks TLS"
    planted = [RECORD, SETTING, IN_VAULT, IN_RELAY, *site.secrets]
    for data in (*behind, *gateway):
        assert found(data, planted) == []


def as_bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def found(data: bytes, planted: list[str]) -> list[str]:
    """What of the planted stands in these bytes, also if they are compressed or written as JSON or UTF-16."""
    forms = [data]
    for start in range(min(len(data), 4)):
        try:
            forms.append(zlib.decompress(data[start:], wbits=47))
        except zlib.error:
            continue
    return [
        text
        for text in planted
        if any(text.encode(code) in form for form in forms for code in ("utf-8", "utf-16-le"))
        or any(json.dumps(text)[1:-1].encode() in form for form in forms)
    ]


def test_what_is_looked_for_would_be_found() -> None:
    assert sys.byteorder == "little"
    for data in (RECORD.encode(), f'{{"a": "{RECORD}"}}'.encode(), zlib.compress(b"x" + RECORD.encode())):
        assert found(data, [RECORD, SETTING]) == [RECORD]
