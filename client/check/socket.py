"""Whether a vault can open its socket, and its relay reach it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from client.channel.framing import check_socket_path
from client.check.findings import Checks, Group
from client.vault.policy.organization import Organization
from client.vault.service import group_number
from common.errors import InputError

_GROUP = Group("connection")


def check_socket(organization: Organization) -> Checks[None]:
    """Look at the socket's path, folder and group. Nothing is made."""
    yield from _GROUP.look("socket", _socket(organization))
    if organization.vault.group is not None:
        yield from _GROUP.look("socket's group", _group(organization, organization.vault.group))


def _socket(organization: Organization) -> Checks[None]:
    path = check_socket_path(organization.path(organization.vault.socket))
    folder = path.parent
    if not folder.exists():
        yield _GROUP.ok("socket", f"{path}; its folder is not there yet, the vault makes it for its own user")
        return
    if path.exists() and not path.is_socket():
        raise InputError(f"vault.socket = {path}: is a file; it should be a new path")
    status = folder.stat()
    if status.st_mode & 0o002:
        yield _GROUP.wrong(
            "socket", f"every user may write {folder} and put a socket there; run: chmod o-w {folder}"
        )
    elif status.st_mode & 0o020 and status.st_gid != _own_group(status.st_uid):
        yield _GROUP.warning(
            "socket", f"a whole group may write {folder} and put a socket there; run: chmod g-w {folder}"
        )
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield _GROUP.wrong("socket", f"this user may not write {folder}; the vault has to")
    else:
        yield _GROUP.ok("socket", str(path))


def _own_group(user: int) -> int | None:
    """The group that many systems give to each user alone."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return None


def _group(organization: Organization, name: str) -> Checks[None]:
    number = group_number(name)
    if os.geteuid() != 0 and number not in (os.getegid(), *os.getgroups()):
        yield _GROUP.wrong(
            "socket's group", f"this user is not in the group {name!r} and cannot let it in; add the user to it"
        )
        return
    folder = organization.path(organization.vault.socket).parent
    if folder.exists() and not _may_pass(folder, number):
        yield _GROUP.wrong(
            "socket's group",
            f"the group {name!r} may not pass through {folder}; run: chgrp {name} {folder} && chmod g+x {folder}",
        )
        return
    yield _GROUP.ok("socket's group", f"{name!r} may connect")


def _may_pass(folder: Path, group: int | None) -> bool:
    status = folder.stat()
    return bool(status.st_mode & (0o010 if status.st_gid == group else 0o001))
