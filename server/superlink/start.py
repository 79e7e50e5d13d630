"""`sotto server start`: runs Flower's SuperLink on loopback and the gateway in front of it."""

from __future__ import annotations

import os
import secrets
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError, SottoError
from common.keys.files import write_new
from common.system.lock import Held, exclusive
from common.system.logs import warn
from common.system.processes import FLOWER_ENVIRONMENT, Supervisor
from common.system.wakeup import Wakeup
from server.superlink.database import ChangeWatcher
from server.superlink.settings import Server, is_ready, local

_READY_SECONDS = 60.0


def serve(server: Server, report: Callable[[str], None]) -> None:
    """Run a SuperLink and its gateway until SIGTERM or SIGINT; a process that dies is restarted.

    Args:
        server: the settings.
        report: called with one line when the server is ready.

    Raises:
        InputError: the port or the folder is in use, or the certificate is invalid.
        SottoError: the server does not start.
    """
    superlink, gateway, folder = server.superlink_address, server.public_address, server.path(server.folder)
    if not server.insecure:
        _check_certificate(server.path(server.certificate), server.path(server.key))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with exclusive(folder / "superlink"), Supervisor(warn) as supervisor:
            for key, address in {"superlink": superlink, "address": gateway}.items():
                if local(address).is_open():
                    raise InputError(f"{key} = {address}: another program listens there; choose another port")
            watch = ChangeWatcher(server.database, [Wakeup.create(path) for path in server.wakeups])
            log = folder / "superlink.log"
            _start_superlink(server, supervisor, log)
            _wait(supervisor, lambda: is_ready(superlink), "SuperLink", log)
            if not server.insecure and not supervisor.stop_requested:
                _open_gateway(server, supervisor, folder / "gateway.log")
            if not supervisor.stop_requested:
                report(f"the server is ready at {gateway}; its logs are in {folder}")
            supervisor.run(watch)
    except Held as held:
        raise InputError(f"folder = {folder}: another server, process {held.holder}, uses it") from None


def _start_superlink(server: Server, supervisor: Supervisor, log: Path) -> None:
    """Start the SuperLink, and the SuperExec that starts a ServerApp for each run.

    Flower would start the SuperExec itself, but not restart it. The SuperExec shares a secret with the SuperLink,
    so that no other program on this machine can act as a ServerApp.
    """
    address, folder = server.superlink_address, server.path(server.folder)
    secret = folder / "superexec.secret"
    secret.unlink(missing_ok=True)
    write_new(secret, secrets.token_hex(32).encode(), 0o600)
    shared = ["--insecure", "--superexec-auth-secret-file", str(secret)]
    environment = _environment(folder)
    link = [str(Path(sys.executable).parent / "flower-superlink"), *shared, "--isolation", "process"]
    link += ["--host", address.host, "--port", str(address.port), "--database", str(server.database)]
    supervisor.start("SuperLink", link, environment, log, takes_along="SuperExec")
    executor = [*_program("superexec"), str(server.database), str(server.wakeups[1]), *shared]
    executor += ["--runtime-api-address", str(address)]
    supervisor.start("SuperExec", executor, environment, log)


def _program(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", f"server.superlink.{name}"]


def _open_gateway(server: Server, supervisor: Supervisor, log: Path) -> None:
    # Flower takes a second to load: imported after the checks that do not need it.
    from server.superlink.nodes import synchronize

    synchronize(server.organizations(), server.superlink_address)
    arguments = [server.public_address, server.path(server.certificate), server.path(server.key)]
    arguments += [server.superlink_address, server.registry, server.database, server.wakeups[0]]
    supervisor.start("gateway", [*_program("gateway"), *map(str, arguments)], FLOWER_ENVIRONMENT, log)
    _wait(supervisor, local(server.public_address).is_open, "gateway", log)


def _wait(supervisor: Supervisor, ready: Callable[[], bool], name: str, log: Path) -> None:
    if not supervisor.wait_for(ready, _READY_SECONDS) and not supervisor.stop_requested:
        raise SottoError(f"the {name} is not ready after {_READY_SECONDS:.0f} s; see {log}")


def _check_certificate(certificate: Path, key: Path) -> None:
    """Raise an `InputError` unless the files are a certificate and its private key."""
    for path in (certificate, key):
        if not path.is_file():
            raise InputError(
                f"{path}: there is no such file; create it with: sotto server certs {certificate.parent} "
                "--host NAME, or use --insecure for tests on this machine"
            )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # includes ssl.SSLError
        reason = getattr(error, "reason", None) or error.strerror
        raise InputError(f"{certificate} and {key}: not a certificate and its key: {reason}") from None
    if key.stat().st_mode & 0o007:
        raise InputError(f"{key}: other users may read or write it; run: chmod 600 {key}")


def apply_registry(server: Server) -> None:
    """Synchronize a running SuperLink with the registry. Otherwise this happens when it starts.

    Raises:
        SottoError: the SuperLink refuses.
    """
    if not server.insecure and is_ready(server.superlink_address):
        from server.superlink.nodes import synchronize

        synchronize(server.organizations(), server.superlink_address)


def _environment(folder: Path) -> dict[str, str]:
    # Flower finds its own programs in PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**FLOWER_ENVIRONMENT, "FLWR_HOME": str(folder / "home"), "PATH": path}
