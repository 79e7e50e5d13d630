"""What another machine reaches of the coordinator's: the gateway, and nothing behind it. And what happens to a run
when the network between them is cut.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from server.superlink.certificates import make_certificates
from tests.conftest import ROOT
from tests.federation.boundary.networks import Elsewhere, elsewhere, namespaces_are_permitted
from tests.federation.harness import Federation, Program, charged, lines, texts, wait_for_round
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(
    not namespaces_are_permitted(), reason="needs the right to make network namespaces, and ip"
)

# Run on the other machine: with the authority's certificate it asks everything of everybody who listens.
INTRUDER = """
import json, socket, ssl, sys
import httpx
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, RegisterNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest

host, gateway, superlink, ca = sys.argv[1:]
heard = {}
for port in (superlink, 9091, 9092, 9093):
    with socket.socket() as probe:
        probe.settimeout(3)
        heard[f"port {port}"] = probe.connect_ex((host, int(port)))
asks = {
    "/v1/control/list-runs": ListRunsRequest(),
    "/v1/control/list-nodes": ListNodesRequest(),
    "/v1/control/register-node": RegisterNodeRequest(public_key=b"x"),
    "/v1/runtime/acquire-task": AcquireTaskRequest(),
    "/v1/fleet/../control/list-runs": ListRunsRequest(),
    "/v1/fleet/%2e%2e/control/list-runs": ListRunsRequest(),
    "/v1/fleet/pull-messages": ListRunsRequest(),
    "/health": ListRunsRequest(),
}
forged = [{}, {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Host": "127.0.0.1:" + superlink}]
with httpx.Client(verify=ssl.create_default_context(cafile=ca)) as client:
    for path, message in asks.items():
        for number, headers in enumerate(forged):
            content, address = message.SerializeToString(), f"https://{host}:{gateway}/"
            request = client.build_request("POST", address, content=content,
                headers={"content-type": "application/x-protobuf", **headers})
            # Past the client's own tidying of paths.
            request.url = request.url.copy_with(raw_path=path.encode())
            heard[f"{path} {number}"] = client.send(request).status_code
print(json.dumps(heard))
"""


@pytest.fixture(scope="module")
def there() -> Iterator[Elsewhere]:
    with elsewhere() as place:
        yield place


@pytest.fixture(scope="module")
def federation(
    there: Elsewhere, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Federation]:
    """The coordinator and the vaults are here; the relay of organization b is on the other machine."""
    with Federation(tmp_path_factory.mktemp("network"), tiny_base) as federation:
        for name in ("server.pem", "server.key"):
            (federation.folder / "certs" / name).unlink()
        make_certificates(federation.folder / "certs", ["127.0.0.1", there.here])
        settings = tomllib.loads((federation.folder / "server.toml").read_text())
        settings["address"] = f"0.0.0.0:{federation.port}"
        (federation.folder / "server.toml").write_text(tomli_w.dumps(settings))
        federation.write_organization("a", texts(80))
        home = federation.write_organization("b", texts(80), server=f"{there.here}:{federation.port}")
        for name in ("a", "b"):
            organization = federation.folder / name / "organization.toml"
            federation.start(f"{name}-vault", "vault", "start", organization)
        federation.start_server()
        for name in ("a", "b"):
            federation.programs[f"{name}-vault"].wait_for("the vault answers")
        federation.start_supernode("a")
        relay = [sys.executable, "-P", "-m", "sotto", "supernode", "start", home / "relay.toml"]
        federation.programs["b-node"] = Program(there.command(*relay), federation.folder / "b-node.log")
        federation.programs["b-node"].wait_for("relays between")
        yield federation


def test_from_another_machine_the_gateway_is_all_there_is_and_it_is_shut(
    federation: Federation, there: Elsewhere
) -> None:
    arguments = [there.here, federation.port, federation.superlink_port, federation.folder / "certs" / "ca.pem"]
    asked = subprocess.run(
        there.command(sys.executable, "-c", INTRUDER, *arguments),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    heard = json.loads(asked.stdout)
    assert all(code != 0 for name, code in heard.items() if name.startswith("port ")), "nobody else listens"
    statuses = {name: code for name, code in heard.items() if not name.startswith("port ")}
    assert len(statuses) == 16
    for name, status in statuses.items():
        assert status == (401 if "pull-messages" in name else 404), name


@pytest.mark.slow
def test_a_run_goes_on_when_a_network_that_was_cut_is_mended(federation: Federation, there: Elsewhere) -> None:
    plan = federation.write_plan(
        "cut",
        training={"rounds": 4, "local_steps": 20},
        federation={"min_organizations": 2, "round_timeout": 240.0},
    )
    out = federation.folder / "cut"
    run = federation.start("run-cut", *federation.run_arguments(plan, out))
    wait_for_round(out, 2)
    there.cut()
    time.sleep(8)
    there.mend()
    assert run.wait() == 0, run.text
    assert [line["round"] for line in lines(out)] == list(range(5))
    for line in lines(out)[1:]:
        assert line["organizations"] == {"asked": ["a", "b"], "answered": ["a", "b"], "refused": {}}
    for name in ("a", "b"):
        (run_of,) = charged(federation.folder / name / "ledger.db").values()
        assert run_of == (80, [(number, 20) for number in range(1, 5)])


def test_a_revoked_organization_is_told_in_one_line_and_its_processes_end(federation: Federation) -> None:
    code, said = federation.call("server", "revoke", "b", "--server", federation.folder / "server.toml")
    assert code == 0, said
    node = federation.programs["b-node"]
    assert node.wait() == 2
    (line,) = [line for line in node.text.splitlines() if line.startswith("error: ")]
    assert "has revoked the key SHA256:" in line
    assert "Traceback" not in node.text
    # The others go on without it.
    out = federation.folder / "without"
    code, said = federation.run(federation.write_plan("without"), out)
    assert code == 0, said
    assert lines(out)[1]["organizations"]["asked"] == ["a"]
    wait_until(lambda: federation.programs["b-node"].process.poll() is not None, "the end")
