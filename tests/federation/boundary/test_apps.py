"""Flower apps that a hostile coordinator ships: no code of them runs beside an organization's network connection,
and what they are told is a reason code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.flower.fab import COMPONENTS
from common.protocol.protocol import REASONS
from common.system.network import Address, free_port
from server.superlink.settings import is_ready
from tests.federation.harness import Federation, Program, charged, texts
from tests.waiting import wait_until

# In every record; whatever shows it has read one.
CANARY = "canary4711"

# Asks every node for everything and writes down what comes back, as a coordinator can.
ASKING = """
import json, time
from pathlib import Path
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

QUESTIONS = {
    "query.describe": {"run": ""},
    "query.statement": {"run": "../../etc/passwd"},
    "query": {"run": ""},
    "query.records": {"run": "records.jsonl"},
    "evaluate": {"run": "records.jsonl"},
    "evaluate.records": {"run": 7},
    "train.records": {"run": 7},
    "train": {"run": "a", "round": 1, "plan": b"no plan", "model": "x"},
}

@app.main()
def main(grid, context):
    deadline = time.time() + 120
    while not (nodes := list(grid.get_node_ids())) and time.time() < deadline:
        time.sleep(0.2)
    heard, asked = {}, {}
    for kind, head in QUESTIONS.items():
        array = Array("uint8", (3,), "safetensors", b"abc")
        content = RecordDict({"sotto": ConfigRecord(head), "adapter": ArrayRecord({"safetensors": array})})
        for identity in grid.push_messages([Message(content, node, kind, ttl=60.0) for node in nodes]):
            asked[identity] = kind
    while asked and time.time() < deadline:
        for reply in grid.pull_messages(list(asked)):
            kind = asked.pop(reply.metadata.reply_to_message_id)
            if reply.has_error():
                heard[kind] = {"code": reply.error.code, "reason": reply.error.reason}
            else:
                heard[kind] = {name: dict(record) for name, record in reply.content.config_records.items()}
                heard[kind]["arrays"] = len(reply.content.array_records)
        time.sleep(0.1)
    Path(str(context.run_config["run-directory"])).write_text(json.dumps(heard))
"""

STEALING = """
from pathlib import Path
from flwr.app import Message
from flwr.clientapp import ClientApp

Path({marker!r}).write_text("imported")
app = ClientApp()

@app.train()
@app.evaluate()
@app.query()
@app.query("describe")
@app.query("statement")
def steal(message, context):
    Path({marker!r}).write_text(Path({records!r}).read_text())
    return Message(message.content, reply_to=message)
"""


class Hostile:
    """A federation of one organization, and apps that are submitted to its SuperLink with `flwr run`."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.marker = federation.folder / "marker"
        self.temporary = federation.folder / "temporary"
        self.temporary.mkdir()
        self.imported = federation.folder / "imported"
        self.imported.mkdir()
        (self.imported / "asking.py").write_text(ASKING)

    def app(self, name: str, components: dict[str, str], code: dict[str, str] | None = None) -> Path:
        folder = self.federation.folder / name
        folder.mkdir()
        app = {"publisher": "sotto", "components": components, "config": {"run-directory": ""}}
        project = {"name": "sotto-app", "version": "1.0.0", "dependencies": []}
        settings = {"project": project, "tool": {"flwr": {"app": app}}}
        (folder / "pyproject.toml").write_text(tomli_w.dumps(settings))
        for file, text in (code or {}).items():
            (folder / file).write_text(text)
        return folder

    def submit(self, app: Path, port: int, imported: Path) -> dict[str, Any]:
        """What the app's ServerApp hears from the organization."""
        home = app.parent / f"{app.name}-home"
        home.mkdir()
        connection = {"address": f"127.0.0.1:{port}", "insecure": True}
        (home / "config.toml").write_text(tomli_w.dumps({"superlink": {"default": "it", "it": connection}}))
        heard = app.parent / f"{app.name}.json"
        subprocess.run(
            [Path(sys.executable).parent / "flwr", "run", app, "it", "--run-config", f'run-directory="{heard}"'],
            env={**os.environ, "FLWR_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(imported), *sys.path])},
            check=True,
            capture_output=True,
        )
        wait_until(heard.exists, f"the ServerApp of {app.name}")
        wait_until(lambda: heard.read_text().endswith("}"), f"all of {heard}")
        values: dict[str, Any] = json.loads(heard.read_text())
        return values

    def make_sure_that_nothing_ran(self) -> None:
        assert not self.marker.exists()
        # The homes of the relay's programs lie here: nothing of an app was unpacked.
        left = [path.name for path in self.temporary.rglob("*")]
        assert "secret" in left
        assert not [name for name in left if name.endswith((".py", ".toml", ".fab")) or "app" in name]
        (runs,) = [charged(self.federation.folder / "a" / "ledger.db")]
        assert runs == {}


@pytest.fixture(scope="module")
def hostile(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    with Federation(tmp_path_factory.mktemp("apps"), tiny_base) as federation:
        one = Hostile(federation)
        home = federation.write_organization("a", texts(80, CANARY))
        vault = federation.start("a-vault", "vault", "start", home / "organization.toml")
        server = federation.start(
            "server", "server", "start", federation.folder / "server.toml", PYTHONPATH=_paths(one.imported)
        )
        relay = federation.start("a-node", "supernode", "start", home / "relay.toml", TMPDIR=str(one.temporary))
        for program, said in ((server, "is ready"), (vault, "the vault answers"), (relay, "relays between")):
            program.wait_for(said)
        yield one


def _paths(first: Path) -> str:
    return os.pathsep.join([str(first), *filter(None, sys.path)])


def assert_all_refused(heard: dict[str, Any]) -> None:
    assert {"train", "query.describe", "evaluate", "query.records"} <= set(heard)
    for kind, reply in heard.items():
        assert reply["sotto"]["refused"] == "app-not-allowed", (kind, reply)
        assert set(reply) == {"sotto", "arrays"}
        assert reply["arrays"] == 0


def test_an_app_with_code_is_refused_and_none_of_it_runs(hostile: Hostile) -> None:
    records = hostile.federation.folder / "a" / "records.jsonl"
    stealing = STEALING.format(marker=str(hostile.marker), records=str(records))
    app = hostile.app(
        "with-code",
        {"serverapp": "shipped_server:app", "clientapp": "shipped_client:app"},
        {"shipped_server.py": ASKING, "shipped_client.py": stealing},
    )
    # `flwr run` imports the components here: what it writes in doing so is not the organization's.
    heard = hostile.submit(app, hostile.federation.superlink_port, hostile.imported)
    hostile.marker.unlink(missing_ok=True)
    assert_all_refused(heard)
    assert CANARY not in json.dumps(heard)
    hostile.make_sure_that_nothing_ran()
    log = (hostile.federation.folder / "a" / "relay.log").read_text()
    assert "an app was refused: the app holds 2 other files; code is never taken" in log


def test_an_app_without_code_that_names_other_components_is_refused(hostile: Hostile) -> None:
    app = hostile.app("other", {"serverapp": "asking:app", "clientapp": COMPONENTS["clientapp"]})
    heard = hostile.submit(app, hostile.federation.superlink_port, hostile.imported)
    assert_all_refused(heard)
    hostile.make_sure_that_nothing_ran()
    log = (hostile.federation.folder / "a" / "relay.log").read_text()
    assert "the app's components are not those installed with Sotto" in log


def test_a_coordinator_that_runs_other_code_hears_reason_codes_only(hostile: Hostile) -> None:
    """Sotto's own app, but behind its names the coordinator has installed something else."""
    federation = hostile.federation
    evil = federation.folder / "evil"
    (evil / "server" / "rounds").mkdir(parents=True)
    for package in ("server", "server/rounds"):
        (evil / package / "__init__.py").touch()
    (evil / "server" / "rounds" / "server_app.py").write_text(ASKING)
    port = free_port()
    command = [Path(sys.executable).parent / "flower-superlink", "--insecure", "--host", "127.0.0.1"]
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    federation.programs["evil"] = Program(
        [*command, "--port", port, "--database", evil / "state.db"],
        evil / "log",
        PYTHONPATH=_paths(evil),
        FLWR_HOME=str(evil / "home"),
        PATH=bin_first,
    )
    wait_until(lambda: is_ready(Address("127.0.0.1", port)), "the other SuperLink")
    home = federation.folder / "a"
    relay = tomllib.loads((home / "relay.toml").read_text())
    relay |= {"server": f"127.0.0.1:{port}", "insecure": True, "log": "second.log"}
    (home / "second.toml").write_text(tomli_w.dumps(relay))
    federation.start("second", "supernode", "start", home / "second.toml").wait_for("relays between")
    heard = hostile.submit(hostile.app("evil-app", dict(COMPONENTS)), port, evil)

    said = heard.pop("query.describe")
    assert json.loads(said["sotto"]["json"]) == {"organization": "a", "unit": "example", "public_size": 100}
    assert heard.pop("train")["sotto"]["refused"] == "malformed-request"
    assert heard.pop("query.statement")["sotto"]["refused"] == "malformed-request"
    assert set(heard) == {"query", "query.records", "evaluate", "evaluate.records", "train.records"}
    for kind, reply in heard.items():
        assert set(reply) == {"code", "reason"}, kind
        assert reply["reason"] in REASONS, kind
    hostile.make_sure_that_nothing_ran()


def test_an_honest_run_still_works_afterwards(hostile: Hostile) -> None:
    out = hostile.federation.folder / "honest"
    plan = hostile.federation.write_plan(training={"rounds": 1})
    code, printed = hostile.federation.run(plan, out)
    assert code == 0, printed
    assert list(charged(hostile.federation.folder / "a" / "ledger.db").values()) == [(2, [(1, 2)])]
