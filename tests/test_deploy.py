"""What the files in `deploy/` must keep to: the vault without network, the relay without records, nobody as root.

They are compared with each other, the command line, and what `sotto init` writes after docs/deploy.md.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import sotto
from client.relay.settings import Relay
from client.vault.policy.organization import Organization
from common.system.console import write_template
from server.superlink.settings import Server
from tests.conftest import ROOT

DEPLOY = ROOT / "deploy"
VAULT, RELAY, SERVER, SOCKET_GROUP = 10001, 10002, 10003, 10010
UIDS = dict(zip(("vault", "supernode", "coordinator"), (VAULT, RELAY, SERVER), strict=True))
UNITS = {"vault": "sotto-vault", "supernode": "sotto-supernode", "coordinator": "sotto-server"}
USERS = {"vault": "sotto-vault", "supernode": "sotto-relay", "coordinator": "sotto-server"}
# Of the vault: nothing of it may reach the relay.
OF_THE_VAULT = ["/srv/sotto/records", "/var/lib/sotto-vault", "organization.toml", "statement.key"]


def compose() -> dict[str, dict[str, Any]]:
    """Every service of both compose files, variables at their defaults."""
    services: dict[str, dict[str, Any]] = {}
    for part in ("organization", "coordinator"):
        text = (DEPLOY / part / "compose.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
        files = {name: secret["file"] for name, secret in values["secrets"].items()}
        for name, service in values["services"].items():
            mounts = [entry.split(":") for entry in service["volumes"]]
            mounts += [[files[one["source"]], one["target"], "ro"] for one in service["secrets"]]
            services[name] = {**service, "mounts": mounts, "known": values["volumes"]}
    return services


def unit(name: str) -> dict[str, list[str]]:
    """A unit's keys, each with its values; systemd reads a key that is repeated as a list."""
    keys: dict[str, list[str]] = defaultdict(list)
    for line in (DEPLOY / "systemd" / f"{UNITS[name]}.service").read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            keys[key].append(value)
    return keys


def stages() -> dict[str, list[str]]:
    """The Dockerfile's stages: instructions, one a line, after those of the stage that they begin from."""
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("FROM"):
            _, base, _, name = line.split()
            lines = found[name] = list(found.get(base, [line]))
        elif line and not line.startswith("#"):
            lines.append(line)
    return found


PARTS = list(UNITS)


@pytest.mark.parametrize("part", PARTS)
def test_a_container_can_do_no_more_than_it_must(part: str) -> None:
    service = compose()[part]
    assert service["user"] == f"{UIDS[part]}:{UIDS[part]}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert not {"cap_add", "privileged", "devices", "pid", "ipc", "userns_mode"} & service.keys()
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert 0 < service["pids_limit"] <= 1024
    assert service["mem_limit"]
    assert service["ulimits"] == {"core": 0}
    assert [entry.split(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
    name, tag = service["image"].split(":")
    assert (name, tag != "latest") == (f"sotto-{part}", True)
    assert service["build"]["target"] == part
    assert not any("docker.sock" in source for source, *_ in service["mounts"])


def test_the_vault_has_no_network_and_reads_its_records_only() -> None:
    services = compose()
    vault = services["vault"]
    assert vault["network_mode"] == "none"
    assert "ports" not in vault
    mounts = {where: (source, mode) for source, where, *mode in vault["mounts"]}
    writable = {where for where, (_, mode) in mounts.items() if mode != ["ro"]}
    assert writable == {"/var/lib/sotto-vault", "/run/sotto"}
    assert {mounts[where][0] for where in writable} <= set(vault["known"])
    assert mounts["/srv/sotto/records"][1] == ["ro"]
    assert not any("node.key" in where or "relay.toml" in where for where in mounts)


def test_the_relay_is_given_nothing_of_the_vault_but_its_socket() -> None:
    services = compose()
    mounts = services["supernode"]["mounts"]
    assert all(mode == ["ro"] for _, _, *mode in mounts)
    assert {where for _, where, *_ in mounts} == {
        "/etc/sotto/relay.toml",
        "/run/sotto",
        "/etc/sotto/certs/ca.pem",
        "/etc/sotto/keys/node.key",
    }
    for source, where, *_ in mounts:
        assert not any(word in source or word in where for word in OF_THE_VAULT)
    (socket,) = (source for source, where, *_ in mounts if where == "/run/sotto")
    assert socket in {source for source, where, *_ in services["vault"]["mounts"] if where == "/run/sotto"}
    for part in ("vault", "supernode"):
        assert services[part]["group_add"] == [str(SOCKET_GROUP)]


def test_the_coordinators_container_has_neither_the_authoritys_key_nor_an_open_superlink() -> None:
    service = compose()["coordinator"]
    assert service["ports"] == ["8443:8443"]
    assert not any("ca.key" in source or source.endswith("/certs") for source, *_ in service["mounts"])
    assert [where for _, where, *mode in service["mounts"] if mode != ["ro"]] == ["/var/lib/sotto-server"]


@pytest.mark.parametrize("part", PARTS)
def test_an_image_names_its_user_by_number_and_checks_its_health(part: str) -> None:
    lines = stages()[part]
    assert [line for line in lines if line.startswith("USER")] == [f"USER {UIDS[part]}:{UIDS[part]}"]
    assert f"--uid {UIDS[part]} --gid {UIDS[part]}" in "\n".join(lines)
    (health,) = (line for line in lines if line.startswith("HEALTHCHECK"))
    module = re.search(r'"-m", "([\w.]+)"', health)
    assert module is not None
    assert (ROOT / f"{module[1].replace('.', '/')}.py").is_file()
    assert not any(line.startswith(("VOLUME", "ADD")) for line in lines)


def test_the_images_name_no_registry_and_no_latest_and_the_context_is_a_list_of_code() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert "latest" not in text
    (base,) = re.findall(r"^ARG BASE_IMAGE=(.*)$", text, re.MULTILINE)
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
    assert "://" not in text
    named = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert named[0] == "*"
    for line in named[1:]:
        assert line == "**/__pycache__" or (line.startswith("!") and (ROOT / line[1:]).exists())


def test_the_relays_image_installs_no_torch_and_the_vaults_no_flower() -> None:
    found = stages()
    for part, extra in {"vault": "vault", "supernode": "relay", "coordinator": "server"}.items():
        assert re.search(rf"locks/install\.py /opt/sotto {extra}( --|$)", found[f"build-{part}"][-1])
        assert f"COPY --from=build-{part} /opt/sotto /opt/sotto" in found[part]
    assert "torch" not in " ".join(found["build-supernode"]).lower()


@pytest.mark.parametrize("part", PARTS)
def test_a_unit_can_do_no_more_than_it_must(part: str) -> None:
    keys = unit(part)
    assert keys["User"] == keys["Group"] == [USERS[part]]
    for key, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "SystemCallArchitectures": "native",
        "RestrictNamespaces": "yes",
        "RestrictSUIDSGID": "yes",
        "ProtectKernelModules": "yes",
        "ProtectProc": "invisible",
        "UMask": "0077",
        "LimitCORE": "0",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2",
        "MemoryDenyWriteExecute": "yes" if part == "supernode" else "no",
    }.items():
        assert keys[key] == [value], key
    assert keys["SystemCallFilter"][0] == "@system-service"
    assert "DynamicUser" not in keys
    assert int(keys["RestartSec"][0]) >= 5


def test_the_vaults_unit_has_no_network_and_the_relays_nothing_of_the_vault() -> None:
    vault, relay = unit("vault"), unit("supernode")
    assert vault["PrivateNetwork"] == ["yes"]
    assert vault["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert vault["ReadWritePaths"] == ["/var/lib/sotto-vault /run/sotto"]
    assert "PrivateNetwork" not in relay
    assert "ReadWritePaths" not in relay
    hidden = relay["InaccessiblePaths"][0].replace("-/", "/").split()
    for word in OF_THE_VAULT:
        assert any(path.endswith(word) or word.startswith(path) for path in hidden), word
    assert "ca.key" in unit("coordinator")["InaccessiblePaths"][0]


def commands() -> set[tuple[str, ...]]:
    """Every command of the command line."""
    table = typer.main.get_command(sotto.app)
    found: set[tuple[str, ...]] = set()
    for name, command in table.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", {})
        found |= {(name, one) for one in inner} or {(name,)}
    return found


@pytest.mark.parametrize("part", PARTS)
def test_containers_and_units_run_the_same_command(part: str) -> None:
    (command,) = (line for line in stages()[part] if line.startswith("CMD"))
    words = yaml.safe_load(command.removeprefix("CMD "))
    assert unit(part)["ExecStart"] == [" ".join(["/opt/sotto/bin/sotto", *words])]
    assert tuple(words[:2]) in commands()
    assert "command" not in compose()[part]
    assert any(where == words[2] for _, where, *_ in compose()[part]["mounts"])


def documented(page: str) -> list[str]:
    """The commands of a page, one a line."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def test_every_command_that_is_documented_exists() -> None:
    lines = documented("deploy.md")
    found = (re.search(r"(?:^|bin/)sotto (.+)", line) for line in lines)
    named = [words[1].split() for words in found if words]
    assert len(named) >= 20
    for words in named:
        assert commands() & {tuple(words[:1]), tuple(words[:2])}, words
    for line in lines:
        for path in re.findall(r"(?<![\w/])deploy/\S+", line):
            assert (ROOT / path).exists(), path


def edited(folder: Path, kind: str) -> Path:
    """The file that `sotto init` writes, after the edits of the page."""
    target = f"/etc/sotto/{kind}.toml"
    lines = [line for line in documented("deploy.md") if line.endswith(target) and line.startswith("sed ")]
    path = folder / f"{kind}.toml"
    kinds = {"organization": Organization, "relay": Relay, "server": Server}
    write_template(path, kinds[kind])
    for line in lines:
        before = path.read_text()
        subprocess.run(line.replace(target, str(path)), shell=True, check=True)
        if "st-mary" not in line and "coordinator.example" not in line:
            assert path.read_text() != before, line
    return path


def test_the_paths_of_the_files_are_those_of_containers_units_and_folders(tmp_path: Path) -> None:
    etc = Path("/etc/sotto")
    organization = Organization.read(edited(tmp_path, "organization"))
    relay, server = Relay.read(edited(tmp_path, "relay")), Server.read(edited(tmp_path, "server"))
    services = compose()
    where = {part: {target: mode for _, target, *mode in services[part]["mounts"]} for part in PARTS}

    assert organization.vault.socket == relay.socket == "/run/sotto/vault.sock"
    assert organization.vault.group == "sotto"
    assert Path(organization.data.train).parent == Path("/srv/sotto/records")
    for path in (organization.vault.ledger, organization.policy.approvals):
        assert str(Path(path).parent) in where["vault"]
        assert str(Path(path).parent) in unit("vault")["ReadWritePaths"][0].split()
    assert str(etc / organization.vault.statement_key) in where["vault"]
    assert {str(etc / relay.node_key), str(etc / relay.ca)} < set(where["supernode"])
    assert relay.log_file is None
    assert {str(etc / server.key), str(etc / server.certificate)} < set(where["coordinator"])
    assert server.folder.startswith("/var/lib/sotto-server/")
    assert unit("coordinator")["ReadWritePaths"] == ["/var/lib/sotto-server"]
    assert server.public_address.port == 8443
    assert f"EXPOSE {server.public_address.port}" in stages()["coordinator"]
    (health,) = (line for line in stages()["vault"] if line.startswith("HEALTHCHECK"))
    assert organization.vault.socket in health


def test_users_and_folders_of_the_machine_are_those_of_the_images() -> None:
    text = "".join(path.read_text() for path in (DEPLOY / "systemd" / "sysusers.d").iterdir())
    users = {name: int(number) for name, number in re.findall(r"^[ug] (\S+) (\d+)", text, re.MULTILINE)}
    assert users == {"sotto-vault": VAULT, "sotto-relay": RELAY, "sotto-server": SERVER, "sotto": SOCKET_GROUP}
    assert set(re.findall(r"^m (\S+) sotto$", text, re.MULTILINE)) == {"sotto-vault", "sotto-relay"}
    folders = {}
    for path in (DEPLOY / "systemd" / "tmpfiles.d").iterdir():
        for line in path.read_text().splitlines():
            if line.startswith("d "):
                _, folder, mode, user, group, _ = line.split()
                folders[folder] = mode, user, group
    assert folders["/run/sotto"] == ("0710", "sotto-vault", "sotto")
    assert folders["/var/lib/sotto-vault"] == ("0700", "sotto-vault", "sotto-vault")
    assert folders["/var/lib/sotto-server"] == ("0700", "sotto-server", "sotto-server")
    assert folders["/srv/sotto/records"] == ("0750", "root", "sotto-vault")
    assert "install -d -o 10001 -g 10010 -m 0710 /run/sotto" in "\n".join(stages()["vault"])
