"""What a whole federation writes into its logs: JSON where that is asked for, and nowhere a word of a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from server.superlink.settings import Server
from tests.federation.harness import Federation, texts

CANARY = "Zwetschgenknoedel"


def read(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_program_writes_json_and_no_file_holds_a_word_of_a_record(tiny_base: Path, tmp_path: Path) -> None:
    with Federation(tmp_path, tiny_base) as federation:
        home = federation.write_organization("a", texts(40, CANARY), log="relay.log")
        file = federation.folder / "server.toml"
        server = federation.start("server", "--log-format", "json", "server", "start", file)
        server.wait_for("is ready")
        both = federation.start(
            "a", "--log-format", "json", "client", "start", home / "organization.toml", home / "relay.toml"
        ).wait_for("relays between")
        plan, out = federation.write_plan(), tmp_path / "run"
        run = federation.start("run", "--log-format", "json", *federation.run_arguments(plan, out))
        assert run.wait() == 0, run.text
        wrong = federation.start("wrong", "--log-format", "json", "run", tmp_path / "no.toml", "--out", out)
        assert wrong.wait() == 2

        stranger = federation.write_organization("stranger", texts(1), log="-")
        registry = Server.read(file).organizations()
        registry.revoke("stranger")
        # A relay whose SuperNode dies says so here; a revoked node is turned away at the gateway.
        both.descendant("client.relay.runtime", "supernode").kill()
        both.wait_for("SuperNode ended with code -9")
        assert both.end() == 0
        vault = federation.start_vault("stranger")
        federation.start("revoked", "--log-format", "json", "supernode", "start", stranger / "relay.toml").wait()
        assert vault.end() == 0
        assert server.end() == 0

    lines = {name: read((tmp_path / f"{name}.log").read_text()) for name in ("server", "a", "run", "wrong")}
    assert {line["part"] for line in lines["server"]} == {"server"}
    assert {(line["part"], line.get("organization")) for line in lines["a"]} == {("vault", "a"), ("relay", "a")}
    assert [line["message"] for line in lines["a"] if "is trained" in line["message"]]
    assert {line["part"] for line in lines["run"]} == {"run"}
    rounds = [line for line in lines["run"] if line["message"] == "a round is complete"]
    assert [line["round"] for line in rounds] == [0, 1, 2]
    assert lines["run"][-1]["message"] == "the run is complete"
    assert 0 < lines["run"][-1]["costs"]["a"]["epsilon"] <= 8
    (line,) = lines["wrong"]
    assert line["level"] == "error"
    assert "no.toml: there is no such file" in line["message"]

    relay = read((home / "relay.log").read_text())
    assert {(line["part"], line["organization"]) for line in relay} == {("relay", "a"), ("supernode", "a")}
    gateway = read((tmp_path / "superlink" / "gateway.log").read_text())
    assert [line["part"] for line in gateway if line["message"].startswith("refused: revoked-key SHA256:")]
    for line in read((tmp_path / "revoked.log").read_text()):
        assert (line["part"], line["organization"]) == ("relay", "stranger")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != "records.jsonl":
            assert CANARY.encode() not in path.read_bytes(), path
