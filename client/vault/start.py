"""`sotto vault start`: opens one organization's records and answers on its socket until it is told to end."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from client.channel.framing import check_socket_path
from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.records.anonymize import check_fields
from client.vault.records.units import group_by_user, load_records
from client.vault.service import VaultServer, make_socket_folder
from client.vault.training.entropy import Entropy
from client.vault.vault import Vault
from common.errors import InputError
from common.keys.statement_key import StatementKey
from common.model.model import LoraModel
from common.protocol.statement import SAME_USER, SEPARATE_USERS
from common.records import Record
from common.system.lock import Held, exclusive

_POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


def serve_vault(organization: Organization, entropy: Entropy, ready: Callable[[str], None]) -> None:
    """Answer for an organization until SIGTERM or SIGINT; then end at once, also in the middle of a training.

    A training that is cut off has released nothing; it is made again under the same reservation.

    Args:
        organization: its file.
        entropy: where keystreams come from. Only tests pass anything but `SystemEntropy`.
        ready: told in one line when the vault answers.

    Raises:
        InputError: something that the organization's file names is not as it should be; nothing is spent.
    """
    # Not an event: a handler that sets one waits for ever if it interrupts its own thread inside `wait`. And not a
    # queue: a signal that comes between two looks at it is heard when the next one comes.
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda which, _: told.append(which))
    section = organization.vault
    socket = check_socket_path(organization.path(section.socket))
    ledger_path = organization.path(section.ledger)
    make_socket_folder(socket, section.group)
    with _held(ledger_path, "vault.ledger"), _held(socket, "vault.socket"):
        vault, held = _open_vault(organization, ledger_path, entropy)
        server = VaultServer(vault, socket, section.group)
        server.start()
        ready(f"{organization.name}: the vault answers at {socket} for {held}")
        while not told:
            time.sleep(_POLL_SECONDS)
        if not server.stop():
            _log.warning("a training is cut off; it was charged already and is made again when it is asked for")
            logging.shutdown()
            # The training thread cannot be interrupted, and nothing that it holds is worth keeping.
            os._exit(0)


def _open_vault(organization: Organization, ledger_path: Path, entropy: Entropy) -> tuple[Vault, str]:
    device = open_device(organization.vault.device)
    for name in organization.models:
        listed_folder(organization, name)
    records = [record for _, record in load_records(organization)]
    held = held_records(records, organization)
    check_fields(organization, records)
    ledger = Ledger(
        ledger_path,
        organization.name,
        organization.data.unit,
        StatementKey.read(organization.path(organization.vault.statement_key)),
        composition=organization.policy.composition,
    )
    boundary = SAME_USER if organization.vault.group is None else SEPARATE_USERS
    vault = Vault(
        organization, records, ledger, lambda folder, plan: LoraModel(folder, plan, device), entropy, boundary
    )
    return vault, held


def listed_folder(organization: Organization, name: str) -> Path:
    """The folder of a listed base model, if it looks like one.

    Raises:
        InputError: it does not.
    """
    folder = organization.path(organization.models[name])
    if not (folder / "config.json").is_file():
        raise InputError(
            f"models.{name!r} = {organization.models[name]!r}: it should be the folder of a model in Hugging Face "
            "format"
        )
    return folder


def held_records(records: list[Record], organization: Organization) -> str:
    """What is held, for the operator's own terminal. A misspelt field would otherwise train nobody, at full ε.

    Raises:
        InputError: no record has a user.
    """
    field = organization.data.user_field
    if field is None:
        return f"{len(records)} records"
    users = group_by_user(records, field)
    if not users:
        raise InputError(
            f"data.user_field = {field!r}: none of the {len(records)} records has such a field (a text or integer)"
        )
    nobody = len(records) - sum(map(len, users))
    return f"{len(records)} records of {len(users)} users" + (f" ({nobody} belong to no user)" if nobody else "")


@contextmanager
def _held(path: Path, key: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path))
        except Held as held:
            raise InputError(f"{key} = {path}: another vault, process {held.holder}, holds it") from None
        except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError
            raise InputError(f"{key} = {path}: cannot be made: {error}") from None
        # Outside of the `try`: an error of what is done meanwhile may hold a record.
        yield


def open_device(name: str) -> str:
    """The device, if this machine has it.

    Raises:
        InputError: it has not.
    """
    try:
        torch.zeros(1, device=name).item()  # `meta` is a device too, but holds no numbers
    except Exception as error:  # each kind of device that is missing raises its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"vault.device = {name!r}: it should be a device of this machine: {reason}") from None
    return name
