"""The gateway: what it forwards, and that nothing else gets behind it, whatever a request looks like."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.admin.keys import make_keys
from client.relay.gateway_client import NotAccepted, Unreachable, ask_gateway, tls_context
from common.errors import InputError
from common.keys.node_key import NodeKey
from common.system.network import Address
from server.superlink.certificates import make_certificates
from tests.server.superlink.calls import FLEET, HIDDEN, TRICKS
from tests.server.superlink.gateways import NODE, Site, opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # There is no database: nothing is kept for long.
    with opened(tmp_path_factory.mktemp("gateway")) as site:
        yield site


@pytest.fixture(autouse=True)
def _nothing_seen(site: Site) -> None:
    site.behind.seen.clear()
    site.behind.status = 200


def push(request: int, *messages: int) -> bytes:
    """A `push-messages` call of one node with messages that say that they are from others."""
    said = [Message(metadata=Metadata(src_node_id=node)) for node in messages]
    return PushMessagesRequest(node=Node(node_id=request), messages_list=said).SerializeToString()


@pytest.mark.parametrize("call", FLEET)
def test_the_calls_of_a_registered_node_are_forwarded(site: Site, call: str) -> None:
    body = push(NODE, NODE) if call == "push-messages" else b"body"
    assert site.post(f"/v1/fleet/{call}", body) == (200, b"answer")
    ((line, headers, arrived),) = site.behind.seen
    assert (line, arrived) == (f"POST /v1/fleet/{call}", body)
    assert headers["content-type"] == "application/x-protobuf"
    assert "flwr-signature" in headers
    assert "set-cookie" not in site.reply_headers


def test_only_flowers_headers_are_forwarded(site: Site) -> None:
    forged = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "https",
        "x-real-ip": "127.0.0.1",
        "forwarded": "for=127.0.0.1",
        "cookie": "a=b",
        "authorization": "Bearer x",
        "x-flwr-client": "x",
    }
    assert site.post("/v1/fleet/get-run", headers={**site.signed(), **forged})[0] == 200
    ((_, headers, _),) = site.behind.seen
    assert not headers.keys() & forged.keys()
    assert headers["host"].startswith("127.0.0.1:")
    assert not headers["host"].endswith(str(site.address.port))


@pytest.mark.parametrize("path", [*HIDDEN, *TRICKS])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "superlink", "127.0.0.1/v1/control"])
def test_nothing_else_gets_behind_the_gateway_even_with_a_registered_key(site: Site, path: str, host: str) -> None:
    signed = "".join(f"{name}: {value}\r\n" for name, value in site.signed().items())
    for method in ("POST", "GET"):
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 127.0.0.1\r\nConnection: close\r\n"
        answer = site.send(
            f"{head}{signed}Content-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert answer.split(b" ", 2)[1] in (b"400", b"404"), answer
    assert site.behind.seen == []


def test_a_second_request_hidden_in_the_first_is_none(site: Site) -> None:
    signed = "".join(f"{name}: {value}\r\n" for name, value in site.signed().items())
    inner = f"POST /v1/control/list-runs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{signed}\r\n"
    heads = [
        f"Content-Length: {len(inner)}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}",
        f"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}",
        f"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}",
        f"Content-Length: 0\r\nContent-Length: {len(inner)}\r\n\r\n{inner}",
        f"Content-Length: 0\r\n\r\n{inner}",
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n{inner}",
        f"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n{inner}",
    ]
    for head in heads:
        with site.connect() as connection:
            connection.sendall(f"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\n{signed}{head}".encode())
            connection.settimeout(1)
            try:
                while connection.recv(65536):
                    pass
            except (TimeoutError, OSError):
                pass
    assert {line for line, _, _ in site.behind.seen} <= {"POST /v1/fleet/get-run"}
    assert not any(b"control" in body for _, _, body in site.behind.seen)


def unsigned(site: Site) -> dict[str, str]:
    return {}


def unknown(site: Site) -> dict[str, str]:
    return NodeKey.generate().headers()


def mixed(site: Site) -> dict[str, str]:
    """A registered key that somebody else signs for."""
    return {**NodeKey.generate().headers(), "flwr-public-key": site.signed()["flwr-public-key"]}


@pytest.mark.parametrize(
    ("forge", "reason"), [(unsigned, "signature"), (unknown, "unknown-key"), (mixed, "signature")]
)
@pytest.mark.parametrize("call", [f"/v1/fleet/{name}" for name in FLEET])
def test_who_is_not_registered_does_not_enter(site: Site, forge: object, reason: str, call: str) -> None:
    assert callable(forge)
    status, answer = site.post(call, b"body", forge(site))
    assert (status, json.loads(answer)) == (401, {"reason": reason})
    assert site.behind.seen == []


def test_a_node_cannot_answer_in_anothers_name(site: Site) -> None:
    for body in (push(NODE, 1), push(NODE, NODE, 1), push(1, 1), b"\xff\xff"):
        status, answer = site.post("/v1/fleet/push-messages", body)
        assert (status, json.loads(answer)) == (403, {"reason": "another-node"}), body
    assert site.behind.seen == []


def test_a_body_has_its_limit(site: Site) -> None:
    for call in ("get-run", "push-messages"):
        status, _ = site.post(f"/v1/fleet/{call}", b"x" * (17 * 2**20))
        assert status == 413
    assert all(len(body) <= 2**20 for _, _, body in site.behind.seen)


def test_a_node_that_is_taken_for_connected_learns_its_number(site: Site) -> None:
    site.behind.status = 400
    assert site.post("/v1/fleet/activate-node")[0] == 400
    assert site.reply_headers["sotto-node"] == str(NODE)
    assert site.post("/v1/fleet/get-run")[0] == 400
    assert "sotto-node" not in site.reply_headers


def test_the_gateway_says_who_one_is(site: Site) -> None:
    registration = ask_gateway(site.address, site.ca, site.key_file)
    assert (registration.organization, registration.node) == ("st-mary", NODE)
    assert abs(registration.clock_offset) < 60, "it is the same clock"
    assert site.behind.seen == []


def test_an_unknown_organization_is_told_so(site: Site, tmp_path: Path) -> None:
    make_keys(tmp_path, "st-mary")
    with pytest.raises(NotAccepted, match=r"does not know the key SHA256:\S+; give node.pub and"):
        ask_gateway(site.address, site.ca, tmp_path / "node.key")


def test_a_revoked_organization_is_shut_out_at_once_and_told_so(site: Site, tmp_path: Path) -> None:
    make_keys(tmp_path, "county")
    site.registry.register("county", tmp_path / "node.pub", tmp_path / "statement.pub")
    registration = ask_gateway(site.address, site.ca, tmp_path / "node.key")
    assert (registration.organization, registration.node) == ("county", 0)
    headers = NodeKey.read(tmp_path / "node.key").headers()
    assert site.post("/v1/fleet/get-run", headers=headers)[0] == 503, "the SuperLink does not know it yet"
    site.registry.set_node_id("county", 5)
    assert site.post("/v1/fleet/get-run", headers=headers)[0] == 200
    site.registry.revoke("county")
    assert site.post("/v1/fleet/get-run", headers=headers)[0] == 401
    with pytest.raises(NotAccepted, match="has revoked the key SHA256:"):
        ask_gateway(site.address, site.ca, tmp_path / "node.key")


def test_another_servers_certificate_is_not_believed(site: Site, tmp_path: Path) -> None:
    make_certificates(tmp_path, ["127.0.0.1"])
    with pytest.raises(InputError, match="its certificate is not valid for"):
        ask_gateway(site.address, tmp_path / "ca.pem", site.key_file)


def test_who_answers_without_tls_is_no_gateway(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="no TLS, or an incompatible version"):
            ask_gateway(Address("127.0.0.1", listening.getsockname()[1]), site.ca, site.key_file)
        thread.join()


def test_old_protocols_are_refused(site: Site) -> None:
    context = tls_context(site.ca)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((site.address.host, site.address.port)) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_plain_http_gets_nothing(site: Site) -> None:
    with socket.create_connection((site.address.host, site.address.port), timeout=60) as plain:
        plain.sendall(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" not in plain.recv(1000)


def test_connections_that_say_nothing_hold_up_nobody(site: Site) -> None:
    silent = [socket.create_connection((site.address.host, site.address.port)) for _ in range(100)]
    open_ended = [site.connect() for _ in range(20)]
    for connection in open_ended:
        connection.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\n")
    assert site.post("/v1/fleet/get-run")[0] == 200
    # After a while they are closed from the other side.
    for connection in open_ended:
        connection.settimeout(60)
        assert connection.recv(1000) == b""
        connection.close()
    for connection in silent:
        connection.close()


TARGETS = st.text(st.characters(codec="ascii", exclude_characters=" \r\n"), min_size=1, max_size=60)


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PATCH", "PRI"]),
    TARGETS | TARGETS.map("/v1/control/{}".format) | TARGETS.map("/v1/fleet/{}".format),
    st.booleans(),
)
@example("CONNECT", "127.0.0.1:8000", True)
@example("POST", "/v1/control/start-run", True)
def test_no_request_line_reaches_what_is_behind(site: Site, method: str, target: str, entered: bool) -> None:
    signed = "".join(f"{name}: {value}\r\n" for name, value in site.signed().items()) if entered else ""
    site.send(
        f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{signed}Content-Length: 0\r\n\r\n".encode()
    )
    assert {line for line, _, _ in site.behind.seen} <= {f"POST /v1/fleet/{call}" for call in FLEET}


@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(min_size=1, max_size=400))
def test_garbage_is_no_request(site: Site, raw: bytes) -> None:
    with site.connect() as connection:
        connection.sendall(raw)
    assert site.behind.seen == []


def test_the_gateway_still_answers_and_its_log_holds_no_header(site: Site) -> None:
    assert ask_gateway(site.address, site.ca, site.key_file).organization == "st-mary"
    log = (site.folder / "gateway.log").read_text()
    assert "Traceback" not in log
    assert site.signed()["flwr-public-key"][:60] not in log
