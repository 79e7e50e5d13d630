"""Addresses: on this machine alone, and everything else is one line."""

from __future__ import annotations

import ipaddress
import socket
import threading

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import InputError
from common.system.network import Address, any_address, free_port, loopback_address

V4 = st.ip_addresses(v=4)
PORTS = st.integers(1, 65535)
WHY = "it stays on this machine"


@given(st.ip_addresses(v=4, network="127.0.0.0/8"), PORTS)
def test_every_loopback_address_is_taken(host: ipaddress.IPv4Address, port: int) -> None:
    assert loopback_address(f"{host}:{port}", "server", WHY) == Address(str(host), port)
    assert str(Address(str(host), port)) == f"{host}:{port}"


def test_localhost_is_127_0_0_1() -> None:
    assert loopback_address("localhost:8000", "server", WHY) == Address("127.0.0.1", 8000)


@given(V4.filter(lambda host: not host.is_loopback), PORTS)
@example(ipaddress.IPv4Address("0.0.0.0"), 8000)
def test_an_address_off_this_machine_is_refused(host: ipaddress.IPv4Address, port: int) -> None:
    with pytest.raises(InputError, match=r"server = .* it should be 127\.0\.0\.1:\d+; it stays on this machine"):
        loopback_address(f"{host}:{port}", "server", WHY)


@pytest.mark.parametrize(
    "host", ["::1", "[::1]", "::", "[::ffff:127.0.0.1]", "example.org", "localhost.", "127.1"]
)
def test_other_names_and_version_6_are_refused(host: str) -> None:
    with pytest.raises(InputError, match=r"it should be (127\.0\.0\.1:8000|host:port)"):
        loopback_address(f"{host}:8000", "server", WHY)


@pytest.mark.parametrize(
    "port", ["", "0", "-1", "65536", "8000 ", "+80", "8_0", "٨٠", "²", "x", "9" * 5000, "1e3", "http"]
)
def test_a_port_is_a_number_up_to_65535(port: str) -> None:
    with pytest.raises(InputError, match="it should be host:port"):
        loopback_address(f"127.0.0.1:{port}", "server", WHY)


@given(st.text() | st.builds("{}:{}".format, st.text(), st.text("0123456789", max_size=6000)))
@example(":8000")
@example("127.0.0.1")
@example("")
def test_any_text_is_an_address_of_this_machine_or_an_input_error(text: str) -> None:
    try:
        address = loopback_address(text, "server", WHY)
    except InputError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert ipaddress.ip_address(address.host).is_loopback
        assert 1 <= address.port <= 65535


@given(st.ip_addresses(), PORTS)
def test_any_address_of_the_network_is_taken_and_written_as_it_was(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    text = f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
    address = any_address(text, "address")
    assert (address.host, address.port, str(address)) == (str(host), port, text)
    assert address.is_loopback == host.is_loopback


def test_a_name_of_the_network_is_taken() -> None:
    assert any_address("coordinator.example:8443", "server") == Address("coordinator.example", 8443)
    assert not Address("coordinator.example", 8443).is_loopback
    assert Address("localhost", 8443).is_loopback


@pytest.mark.parametrize(
    "text",
    [
        "host",
        ":8443",
        "a b:1",
        "::1:8443",
        "[127.0.0.1]:1",
        "[]:1",
        "a/b:1",
        "http://a:1",
        "-a:1",
        "a@b:1",
        "ä:1",
        "a:0",
    ],
)
def test_what_is_no_address_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"address = .*: it should be host:port"):
        any_address(text, "address")


def test_an_address_is_open_while_somebody_listens() -> None:
    address = Address("127.0.0.1", free_port())
    assert not address.is_open()
    assert not address.wait_until_open(0.0)
    with socket.create_server((address.host, address.port)):
        assert address.is_open()
    assert not address.is_open()


def test_one_waits_until_somebody_listens() -> None:
    address = Address("127.0.0.1", free_port())
    servers: list[socket.socket] = []
    timer = threading.Timer(0.2, lambda: servers.append(socket.create_server((address.host, address.port))))
    timer.start()
    try:
        assert address.wait_until_open(60)
    finally:
        timer.join()
        servers[0].close()


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
