"""Client of the coordinator's gateway: is it reachable, is its certificate valid, does it accept our node key?"""

from __future__ import annotations

import ssl
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

from common.errors import InputError, SottoError
from common.keys.node_key import NodeKey
from common.system.network import Address

_MAX_REPLY_BYTES = 4096
_REQUEST_SECONDS = 5.0
# A revoked key is usually noticed earlier, when the gateway rejects a SuperNode's request for messages.
_POLL_SECONDS = 30.0


@dataclass(frozen=True)
class Registration:
    """The gateway's answer to a registered node key.

    Attributes:
        organization: the name under which the coordinator registered the key.
        node: the SuperLink's id of the organization's node; 0 if it has none yet.
        clock_offset: seconds by which the server's clock is ahead of this machine's.
    """

    organization: str
    node: int
    clock_offset: float


class NotAccepted(InputError):
    """The gateway rejects this organization: its key is unknown or revoked, or its clock is too far off."""


class Unreachable(SottoError):
    """The server is currently unreachable, or not a Sotto gateway."""


def ask_gateway(address: Address, ca: Path, key: Path, timeout: float = 10.0) -> Registration:
    """Ask the gateway which organization our node key is registered for.

    Args:
        address: the server's address.
        ca: file of the certification authority that must have issued the server's certificate.
        key: file of the organization's node key.
        timeout: seconds for each network operation.

    Raises:
        NotAccepted: the key is unknown or revoked, or the clocks differ.
        InputError: a file is not a certificate or key, or the server's certificate is not valid.
        Unreachable: the server is unreachable, or not a Sotto gateway.
    """
    tls, node_key = tls_context(ca), NodeKey.read(key)
    sent = datetime.now(UTC)
    try:
        with httpx.Client(verify=tls, timeout=timeout, trust_env=False) as client:
            reply = client.get(f"https://{address}/who", headers=node_key.headers())
    except httpx.HTTPError as error:
        raise _connection_error(address, ca, error) from None
    received = datetime.now(UTC)
    try:
        values = reply.json() if len(reply.content) <= _MAX_REPLY_BYTES else {}
        if reply.status_code == httpx.codes.OK:
            middle = sent + (received - sent) / 2
            ahead = (datetime.fromisoformat(values["time"]) - middle).total_seconds()
            return Registration(str(values["organization"]), int(values["node"]), ahead)
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            raise NotAccepted(_rejection_message(str(values["reason"]), key, node_key, address))
    except (ValueError, KeyError, TypeError):
        pass
    raise Unreachable(f"{address}: not a Sotto gateway (HTTP status {reply.status_code})")


class GatewayMonitor:
    """Checks periodically, while a relay runs, that the gateway accepts its node key.

    Args:
        address: the server's address.
        ca: file of the certification authority that must have issued the server's certificate.
        key: file of the organization's node key.
        organization: the name that the key should be registered for.

    Attributes:
        last_error: why the gateway was unreachable at the last request; empty if it was reachable.
    """

    def __init__(self, address: Address, ca: Path, key: Path, organization: str) -> None:
        self._address = address
        self._ca = ca
        self._key = key
        self._organization = organization
        self.last_error = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway")
        self._request: Future[bool] | None = None
        self._next_request = time.monotonic() + _POLL_SECONDS

    def accepts_us(self) -> bool:
        """Whether the server is reachable and accepts our node key.

        Raises:
            InputError: a permanent error: the server rejects our key, or its certificate is not valid.
        """
        try:
            registration = ask_gateway(self._address, self._ca, self._key, _REQUEST_SECONDS)
        except Unreachable as error:
            self.last_error = str(error)
            return False
        if registration.organization != self._organization:
            raise NotAccepted(
                f"{self._key}: this key is registered at {self._address} as {registration.organization!r}; it "
                f"should be {self._organization!r}, the name in the relay's file"
            )
        self.last_error = ""
        return True

    def ask_now(self) -> None:
        """Make the next call of `poll` send a request."""
        self._next_request = time.monotonic()

    def poll(self) -> None:
        """Send a request in the background if one is due. Never blocks.

        Raises:
            InputError: the last request failed permanently, for example because the key has been revoked.
        """
        if self._request is not None and self._request.done():
            request, self._request = self._request, None
            request.result()
        if self._request is None and time.monotonic() >= self._next_request:
            self._next_request = time.monotonic() + _POLL_SECONDS
            self._request = self._thread.submit(self.accepts_us)


def tls_context(ca: Path) -> ssl.SSLContext:
    """A TLS context that trusts a single certification authority.

    Raises:
        InputError: the file is missing or contains no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise InputError(f"ca = {ca}: no such file; the coordinator provides it as ca.pem") from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(f"ca = {ca}: not a certificate in PEM format: {error}") from None
    return context


def _connection_error(address: Address, ca: Path, error: httpx.HTTPError) -> SottoError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            return InputError(f"server = {address}: its certificate is not valid for {ca}: {reason}")
        if isinstance(cause, ssl.SSLError):
            return Unreachable(f"{address}: no TLS, or an incompatible version: {cause.reason or cause}")
        cause = cause.__cause__ or cause.__context__
    return Unreachable(f"no server answers at {address} ({error or type(error).__name__})")


def _rejection_message(reason: str, path: Path, key: NodeKey, address: Address) -> str:
    server = f"{path}: the server at {address}"
    fingerprint = key.public.fingerprint
    match reason:
        case "unknown-key":
            return (
                f"{server} does not know the key {fingerprint}; "
                "give node.pub and statement.pub to the coordinator, who runs: sotto server register"
            )
        case "revoked-key":
            return f"{server} has revoked the key {fingerprint}; ask the coordinator why"
        case "clock":
            return f"{server} rejects our clock: one of the two is minutes off; set it"
    return f"{server} cannot verify our signature with the key {fingerprint}"
