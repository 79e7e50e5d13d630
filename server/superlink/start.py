"""`sotto server start`: Flower's SuperLink on loopback and the gateway before it, kept running."""

from __future__ import annotations

import os
import secrets
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import InputError, SottoError
from common.keys.files import write_new
from common.system.bell import Bell
from common.system.lock import Held, exclusive
from common.system.logs import warn
from common.system.processes import FLOWER_ENVIRONMENT, Supervisor
from server.superlink.database import Watch
from server.superlink.settings import Server, is_ready, local

_READY_SECONDS = 60.0


def serve(server: Server, report: Callable[[str], None]) -> None:
    """Keep a SuperLink and its gateway running until SIGTERM or SIGINT.

    Args:
        server: where and with what.
        report: told in one line when they are ready.

    Raises:
        InputError: the port or the folder is in use, or the certificate is none.
        SottoError: it does not start.
    """
    superlink, gateway, folder = server.superlink_at, server.listens_at, server.path(server.folder)
    if not server.insecure:
        _check_certificate(server.path(server.certificate), server.path(server.key))
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with exclusive(folder / "superlink"), Supervisor(warn) as supervisor:
            for key, address in {"superlink": superlink, "address": gateway}.items():
                if local(address).is_open():
                    raise InputError(f"{key} = {address}: another program listens there; choose another port")
            watch = Watch(server.database, [Bell.hang(path) for path in server.bells])
            log = folder / "superlink.log"
            _start_superlink(server, supervisor, log)
            _wait(supervisor, lambda: is_ready(superlink), "SuperLink", log)
            if not server.insecure and not supervisor.told_to_end:
                _open_gateway(server, supervisor, folder / "gateway.log")
            if not supervisor.told_to_end:
                report(f"the server is ready at {gateway}; its logs are in {folder}")
            supervisor.run(watch)
    except Held as held:
        raise InputError(f"folder = {folder}: another server, process {held.holder}, uses it") from None


def _start_superlink(server: Server, supervisor: Supervisor, log: Path) -> None:
    """Start the SuperLink, and the SuperExec that starts a ServerApp for each run.

    Flower would start the SuperExec itself, and not again when it dies. It shares a secret with the SuperLink, so
    that no other program of this machine is given a ServerApp's part.
    """
    address, folder = server.superlink_at, server.path(server.folder)
    secret = folder / "superexec.secret"
    secret.unlink(missing_ok=True)
    write_new(secret, secrets.token_hex(32).encode(), 0o600)
    shared = ["--insecure", "--superexec-auth-secret-file", str(secret)]
    environment = _environment(folder)
    link = [str(Path(sys.executable).parent / "flower-superlink"), *shared, "--isolation", "process"]
    link += ["--host", address.host, "--port", str(address.port), "--database", str(server.database)]
    supervisor.start("SuperLink", link, environment, log, takes_along="SuperExec")
    executor = [*_program("superexec"), str(server.database), str(server.bells[1]), *shared]
    executor += ["--runtime-api-address", str(address)]
    supervisor.start("SuperExec", executor, environment, log)


def _program(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", f"server.superlink.{name}"]


def _open_gateway(server: Server, supervisor: Supervisor, log: Path) -> None:
    # Flower takes a second to load: the mistakes that can be made are told before.
    from server.superlink.nodes import synchronize

    synchronize(server.organizations(), server.superlink_at)
    arguments = [server.listens_at, server.path(server.certificate), server.path(server.key)]
    arguments += [server.superlink_at, server.registry, server.database, server.bells[0]]
    supervisor.start("gateway", [*_program("gateway"), *map(str, arguments)], FLOWER_ENVIRONMENT, log)
    _wait(supervisor, local(server.listens_at).is_open, "gateway", log)


def _wait(supervisor: Supervisor, ready: Callable[[], bool], name: str, log: Path) -> None:
    if not supervisor.wait_for(ready, _READY_SECONDS) and not supervisor.told_to_end:
        raise SottoError(f"the {name} is not ready in time; see {log}")


def _check_certificate(certificate: Path, key: Path) -> None:
    """Raise an `InputError` unless these are a certificate and its key."""
    for path in (certificate, key):
        if not path.is_file():
            raise InputError(
                f"{path}: there is no such file; make it with: sotto server certs {certificate.parent} "
                "--host NAME, or try things out on this machine alone with --insecure"
            )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror
        raise InputError(f"{certificate} and {key}: not a certificate and its key: {reason}") from None
    if key.stat().st_mode & 0o007:
        raise InputError(f"{key}: everybody may read or write it; run: chmod 600 {key}")


def apply_registry(server: Server) -> None:
    """Tell the SuperLink who is registered, if it runs; otherwise it learns it when it starts.

    Raises:
        SottoError: it runs and refuses.
    """
    if not server.insecure and is_ready(server.superlink_at):
        from server.superlink.nodes import synchronize

        synchronize(server.organizations(), server.superlink_at)


def _environment(folder: Path) -> dict[str, str]:
    # Flower starts its own programs by name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**FLOWER_ENVIRONMENT, "FLWR_HOME": str(folder / "home"), "PATH": path}
