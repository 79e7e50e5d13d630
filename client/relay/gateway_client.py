"""The coordinator's gateway as an organization meets it: is it there, is it the right one, and may we enter?"""

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

_LONGEST_ANSWER = 4096
_TRY_SECONDS = 5.0
# A SuperNode keeps asking for messages and is told soon that it may not enter any more; this is beside that.
_WATCH_SECONDS = 30.0


@dataclass(frozen=True)
class Welcome:
    """What the gateway says to whom it knows.

    Attributes:
        organization: the name under which the coordinator registered the key.
        node: the SuperLink's number of the organization's node; 0 as long as it has none.
        clock: seconds by which the server's clock is ahead of this machine's.
    """

    organization: str
    node: int
    clock: float


class NotAccepted(InputError):
    """The gateway knows this organization's key not, or not any more, or cannot believe its clock."""


class Unreachable(SottoError):
    """Nobody answers at the server's address now, or not as a gateway does."""


def ask_gateway(address: Address, ca: Path, key: Path, timeout: float = 10.0) -> Welcome:
    """Ask the server who it takes us for.

    Args:
        address: of the server.
        ca: the certification authority that it must have its certificate from.
        key: the organization's node key.
        timeout: seconds for each step.

    Raises:
        NotAccepted: the key is unknown or revoked, or the clocks differ.
        InputError: a file is no certificate or key, or the server's certificate does not hold.
        Unreachable: no server answers.
    """
    trusted, own = trust(ca), NodeKey.read(key)
    sent = datetime.now(UTC)
    try:
        with httpx.Client(verify=trusted, timeout=timeout, trust_env=False) as client:
            reply = client.get(f"https://{address}/who", headers=own.headers())
    except httpx.HTTPError as error:
        raise _not_reached(address, ca, error) from None
    received = datetime.now(UTC)
    try:
        values = reply.json() if len(reply.content) <= _LONGEST_ANSWER else {}
        if reply.status_code == httpx.codes.OK:
            middle = sent + (received - sent) / 2
            ahead = (datetime.fromisoformat(values["time"]) - middle).total_seconds()
            return Welcome(str(values["organization"]), int(values["node"]), ahead)
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            raise NotAccepted(_why(str(values["reason"]), key, own, address))
    except (ValueError, KeyError, TypeError):
        pass
    raise Unreachable(f"{address}: answers with status {reply.status_code}, not as a Sotto server does")


class Gateway:
    """The gateway as a relay watches it as long as it runs.

    Args:
        address: of the server.
        ca: the certification authority that it must have its certificate from.
        key: the organization's node key.
        organization: the name that the key should be registered for.

    Attributes:
        closed: why the gateway could not be asked when it was asked last; empty if it could.
    """

    def __init__(self, address: Address, ca: Path, key: Path, organization: str) -> None:
        self._address = address
        self._ca = ca
        self._key = key
        self._organization = organization
        self.closed = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="gateway")
        self._asked: Future[bool] | None = None
        self._ask_at = time.monotonic() + _WATCH_SECONDS

    def is_open(self) -> bool:
        """Whether the server answers and lets us in.

        Raises:
            InputError: it never will: it does not take our key, or we not its certificate.
        """
        try:
            welcome = ask_gateway(self._address, self._ca, self._key, _TRY_SECONDS)
        except Unreachable as error:
            self.closed = str(error)
            return False
        if welcome.organization != self._organization:
            raise NotAccepted(
                f"{self._key}: the server at {self._address} knows this key as {welcome.organization!r}; name = "
                f"{self._organization!r} in the relay's file"
            )
        self.closed = ""
        return True

    def ask_now(self) -> None:
        """Let `watch` ask at its next call."""
        self._ask_at = time.monotonic()

    def watch(self) -> None:
        """Ask now and then, in the background.

        Raises:
            InputError: the server does not let us in any more.
        """
        if self._asked is not None and self._asked.done():
            asked, self._asked = self._asked, None
            asked.result()
        if self._asked is None and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _WATCH_SECONDS
            self._asked = self._thread.submit(self.is_open)


def trust(ca: Path) -> ssl.SSLContext:
    """TLS that trusts one certification authority alone.

    Raises:
        InputError: the file is not there or holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=ca.read_text(encoding="ascii"))
    except FileNotFoundError:
        raise InputError(f"ca = {ca}: there is no such file; the coordinator has it: ca.pem") from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(f"ca = {ca}: not a certificate in PEM format: {error}") from None
    return context


def _not_reached(address: Address, ca: Path, error: httpx.HTTPError) -> SottoError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = cause.verify_message
            return InputError(f"server = {address}: its certificate does not hold for {ca}: {reason}")
        if isinstance(cause, ssl.SSLError):
            return Unreachable(f"{address}: speaks no TLS, or not the same: {cause.reason or cause}")
        cause = cause.__cause__ or cause.__context__
    return Unreachable(f"no server answers at {address} ({error or type(error).__name__})")


def _why(reason: str, path: Path, key: NodeKey, address: Address) -> str:
    shown = f"{path}: the server at {address}"
    fingerprint = key.public.fingerprint
    match reason:
        case "unknown-key":
            return (
                f"{shown} does not know the key {fingerprint}; "
                "give node.pub and statement.pub to the coordinator, who runs: sotto server register"
            )
        case "revoked-key":
            return f"{shown} has revoked the key {fingerprint}; ask the coordinator why"
        case "clock":
            return f"{shown} takes our time for wrong: the clock here or there is minutes off; set it"
    return f"{shown} cannot verify our signature with the key {fingerprint}"
