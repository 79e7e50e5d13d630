"""Whether a vault can create its socket, and its relay can reach it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from client.channel.framing import check_socket_path
from client.check.findings import Findings, Group
from client.vault.policy.organization import Organization
from client.vault.service import group_id
from common.errors import InputError

_GROUP = Group("connection")


def check_socket(organization: Organization) -> Findings[None]:
    """Check the socket's path, folder and group. Nothing is created."""
    yield from _GROUP.run("socket", _socket(organization))
    if organization.vault.group is not None:
        yield from _GROUP.run("socket's group", _group(organization, organization.vault.group))


def _socket(organization: Organization) -> Findings[None]:
    path = check_socket_path(organization.path(organization.vault.socket))
    folder = path.parent
    if not folder.exists():
        yield _GROUP.ok("socket", f"{path}; its folder does not exist yet, the vault creates it for its own user")
        return
    if path.exists() and not path.is_socket():
        raise InputError(f"vault.socket = {path}: exists and is not a socket; it should be a new path")
    status = folder.stat()
    if status.st_mode & 0o002:
        yield _GROUP.wrong(
            "socket", f"every user can write to {folder} and place a socket there; run: chmod o-w {folder}"
        )
    elif status.st_mode & 0o020 and status.st_gid != _primary_group(status.st_uid):
        yield _GROUP.warning(
            "socket", f"a whole group can write to {folder} and place a socket there; run: chmod g-w {folder}"
        )
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield _GROUP.wrong("socket", f"this user cannot write to {folder}, but the vault must")
    else:
        yield _GROUP.ok("socket", str(path))


def _primary_group(user: int) -> int | None:
    """The user's primary group, which on many systems has no other member."""
    try:
        return pwd.getpwuid(user).pw_gid
    except KeyError:
        return None


def _group(organization: Organization, name: str) -> Findings[None]:
    group = group_id(name)
    if os.geteuid() != 0 and group not in (os.getegid(), *os.getgroups()):
        yield _GROUP.wrong(
            "socket's group",
            f"this user is not in the group {name!r} and cannot give it access; add the user to the group",
        )
        return
    folder = organization.path(organization.vault.socket).parent
    if folder.exists() and not _can_enter(folder, group):
        yield _GROUP.wrong(
            "socket's group",
            f"the group {name!r} cannot enter {folder}; run: chgrp {name} {folder} && chmod g+x {folder}",
        )
        return
    yield _GROUP.ok("socket's group", f"{name!r} can connect")


def _can_enter(folder: Path, group: int | None) -> bool:
    status = folder.stat()
    return bool(status.st_mode & (0o010 if status.st_gid == group else 0o001))
