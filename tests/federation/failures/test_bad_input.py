"""What is wrong is said in one line where the user looks, and costs nobody anything."""

from __future__ import annotations

import socket
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from transformers import LlamaForCausalLM

from client.admin.keys import make_keys
from common.system.network import free_port
from server.superlink.certificates import make_certificates
from tests.federation.harness import Federation, Program, charged, report, texts


class Mistakes:
    """A federation in which some things are wrong, and commands that meet them, all started at once."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.commands: dict[str, Program] = {}

    def start(self, key: str, *arguments: object) -> None:
        self.commands[key] = self.federation.start(key, *arguments)

    def nothing_is_charged(self) -> bool:
        return not any(charged(ledger) for ledger in self.federation.folder.rglob("ledger.db"))


def write_server_files(folder: Path, taken_port: int) -> str:
    """Files of servers, each with a mistake; the address of a server that is not there."""
    other = {"address": f"127.0.0.1:{free_port()}"}
    files: dict[str, dict[str, object]] = {
        "nobody": {**other, "insecure": True, "folder": "nobody"},
        "taken": {"address": f"127.0.0.1:{taken_port}", "folder": "taken", "superlink": other["address"]},
        "public": {"address": "0.0.0.0:8000", "insecure": True},
        "anywhere": {"address": "0.0.0.0:8000"},
        "behind": {"superlink": "0.0.0.0:8000"},
        "no-certificate": {**other, "certificate": "nowhere.pem"},
        "wrong-key": {**other, "key": str(folder / "alone" / "keys" / "statement.key")},
        "same-folder": {**other, "superlink": f"127.0.0.1:{free_port()}"},
    }
    for name, values in files.items():
        (folder / f"{name}.toml").write_text(tomli_w.dumps(values))
    return other["address"]


def start_organizations(one: Mistakes, nowhere: str) -> None:
    """Everything that an organization may do wrong.

    Args:
        one: takes the commands.
        nowhere: address of a server that is not there.
    """
    federation, folder = one.federation, one.federation.folder
    home = federation.write_organization("away", texts(40), patience=1)
    one.start("no vault", "supernode", "start", home / "relay.toml")
    home = folder / "alone"
    side = {**tomllib.loads((home / "relay.toml").read_text()), "name": "somebody"}
    (home / "other-name.toml").write_text(tomli_w.dumps(side))
    one.start("other name", "supernode", "start", home / "other-name.toml")
    one.start("other name, both", "client", "start", home / "organization.toml", home / "other-name.toml")

    def relay(key: str, **changed: object) -> None:
        path = home / f"{key.replace(' ', '-')}.toml"
        path.write_text(tomli_w.dumps({**side, "name": "alone", "log": f"{path.stem}.log", **changed}))
        one.start(key, "supernode", "start", path)

    relay("no server", server=nowhere, patience=1)
    relay("insecure far away", server="example.org:8000", insecure=True)
    relay("no authority", ca="nowhere.pem")
    relay("no certificate", ca="organization.toml")
    make_certificates(folder / "others", ["127.0.0.1"])
    relay("another authority", ca=str(folder / "others" / "ca.pem"))
    relay("another host", server=f"127.1:{federation.port}")
    relay("no node key", node_key="nowhere.key")
    relay("not a node key", node_key="keys/statement.key")
    make_keys(home / "unknown", "alone")
    relay("unknown key", node_key="unknown/node.key")
    relay("another's key", node_key=str(folder / "twin" / "keys" / "node.key"))
    relay("no TLS there", server=f"127.0.0.1:{federation.superlink_port}", patience=1)
    one.start("second vault", "vault", "start", home / "organization.toml")


def start_coordinators(one: Mistakes, plan: Path) -> None:
    """Everything that a coordinator may do wrong."""
    federation, folder = one.federation, one.federation.folder
    one.start("port in use", "server", "start", folder / "taken.toml")
    one.start("not loopback", "server", "start", folder / "public.toml")
    one.start("insecure, not loopback", "server", "start", folder / "anywhere.toml", "--insecure")
    one.start("SuperLink not loopback", "server", "start", folder / "behind.toml")
    one.start("no certificate there", "server", "start", folder / "no-certificate.toml")
    one.start("wrong key", "server", "start", folder / "wrong-key.toml")
    one.start("folder in use", "server", "start", folder / "same-folder.toml")
    one.start("run, no server", "run", plan, "--out", folder / "none", "--server", folder / "nobody.toml")
    held = folder / "held"
    held.mkdir()
    (held / "notes.txt").touch()
    one.start("not empty", *federation.run_arguments(plan, held))
    one.start("nothing to resume", *federation.run_arguments(plan, folder / "none-yet", "--resume"))


@pytest.fixture(scope="module")
def mistakes(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mistakes]:
    folder = tmp_path_factory.mktemp("bad")
    with Federation(folder, tiny_base) as federation, socket.create_server(("127.0.0.1", 0)) as taken:
        one = Mistakes(federation)
        federation.start("server", "server", "start", folder / "server.toml")
        for home in (
            federation.write_organization("alone", texts(40)),
            federation.write_organization("twin", texts(40)),
        ):
            vault = federation.start(f"{home.name}-vault", "vault", "start", home / "organization.toml")
            vault.wait_for("the vault answers")
        nowhere = write_server_files(folder, taken.getsockname()[1])
        plan = federation.write_plan()
        federation.programs["server"].wait_for("is ready")
        start_organizations(one, nowhere)
        start_coordinators(one, plan)
        yield one


@pytest.mark.parametrize(
    ("key", "code", "said"),
    [
        ("no vault", 1, "no vault answers at"),
        ("other name", 2, "name = 'somebody': the vault at"),
        ("other name, both", 2, "name = 'somebody'; it should be 'alone', as in"),
        ("no server", 1, "no server answers at"),
        ("insecure far away", 2, "server = 'example.org:8000': it should be 127.0.0.1:8000; without TLS"),
        ("no authority", 2, "nowhere.pem: no such file; the coordinator provides it as ca.pem"),
        ("no certificate", 2, "organization.toml: not a certificate in PEM format"),
        ("another authority", 2, "its certificate is not valid for"),
        ("another host", 2, "its certificate is not valid for"),
        ("no node key", 2, "nowhere.key: there is no key; create it with: sotto client keys"),
        ("not a node key", 2, "not an ECDSA key on P-384"),
        ("unknown key", 2, "does not know the key SHA256:"),
        ("another's key", 2, "as 'twin'; it should be 'alone'"),
        ("no TLS there", 1, "no TLS, or an incompatible version"),
        ("insecure, not loopback", 2, "address = '0.0.0.0:8000': it should be 127.0.0.1:8000; without TLS"),
        ("SuperLink not loopback", 2, "superlink = '0.0.0.0:8000': it should be 127.0.0.1:8000"),
        ("no certificate there", 2, "create it with: sotto server certs"),
        ("wrong key", 2, "not a certificate and its key"),
        ("port in use", 2, "another program listens there"),
        ("not loopback", 2, "address = '0.0.0.0:8000'"),
        ("folder in use", 2, "another server, process"),
        ("second vault", 2, "another vault, process"),
        ("run, no server", 1, "start it with: sotto server start"),
        ("not empty", 2, "is not empty"),
        ("nothing to resume", 2, "holds no run"),
    ],
)
def test_a_mistake_is_one_line(mistakes: Mistakes, key: str, code: int, said: str) -> None:
    program = mistakes.commands[key]
    assert program.wait() == code, program.text
    assert said in the_error(program.text)
    assert mistakes.nothing_is_charged()


def the_error(printed: str) -> str:
    """The one line that says what is wrong, after which nothing comes."""
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert printed.strip().endswith(line.strip())
    return line


def test_an_organization_whose_model_differs_is_named_and_not_charged(mistakes: Mistakes, tiny_base: Path) -> None:
    federation = mistakes.federation
    model = LlamaForCausalLM.from_pretrained(tiny_base)
    model.lm_head.weight.data[0, 0] += 1e-3
    home = federation.write_organization("differs", texts(40))
    model.save_pretrained(home / "base")
    for file in tiny_base.iterdir():
        if not (home / "base" / file.name).exists():
            (home / "base" / file.name).write_bytes(file.read_bytes())
    text = (home / "organization.toml").read_text()
    (home / "organization.toml").write_text(text.replace(f'= "{tiny_base}"', '= "base"'))
    federation.start_client("differs")
    out = federation.folder / "model-differs"
    code, printed = federation.run(federation.write_plan(), out)
    assert code == 1
    assert "differs: model-differs" in the_error(printed)
    assert mistakes.nothing_is_charged()

    other = federation.write_plan("other", privacy={"epsilon": 7.0})
    for plan, more, said in (
        (federation.write_plan(), [], "already holds the run"),
        (other, ["--resume"], "its run has another plan"),
    ):
        code, printed = federation.run(plan, out, *more)
        assert code == 2
        assert said in the_error(printed)
    assert federation.programs["differs"].end() == 0
    assert mistakes.nothing_is_charged()


def test_without_node_keys_two_organizations_of_one_name_are_refused_before_anything_is_spent(
    tiny_base: Path, tmp_path: Path
) -> None:
    with Federation(tmp_path, tiny_base, insecure=True) as federation:
        federation.start_server()
        for home in (
            federation.write_organization("twin", texts(40)),
            federation.write_organization("twin", texts(40), folder="other-twin"),
        ):
            federation.start_vault(home.name)
            federation.start_supernode(home.name)
        code, printed = federation.run(federation.write_plan("twins"), tmp_path / "twins")
        assert code == 1
        assert "two organizations have the name 'twin'; each needs its own" in the_error(printed)
        assert not any(charged(ledger) for ledger in tmp_path.rglob("ledger.db"))

        assert federation.programs["other-twin-node"].end() == 0
        code, printed = federation.run(federation.write_plan("one"), tmp_path / "one")
        assert code == 0, printed
        # Nobody registered a key: the report says so.
        assert report(tmp_path / "one")["organizations"][0]["signature"] == "unregistered"
