"""`sotto vault start`: opens one organization's records and answers on its socket until it is terminated."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from client.channel.framing import check_socket_path
from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization, VaultSection
from client.vault.records.anonymize import check_fields
from client.vault.records.store import RecordStore
from client.vault.records.units import group_by_user, iterate_organization
from client.vault.service import VaultServer, make_socket_folder
from client.vault.training.entropy import Entropy
from client.vault.training.exact import MOST_UNITS
from client.vault.vault import Vault
from client.vault.workers.compute import Compute
from common.errors import InputError
from common.keys.statement_key import StatementKey
from common.model.model import LoraModel
from common.model.precision import device_kind
from common.plan.plan import Plan
from common.protocol.statement import SAME_USER, SEPARATE_USERS
from common.records import Record
from common.system.lock import Held, exclusive

_POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


def serve_vault(organization: Organization, entropy: Entropy, report: Callable[[str], None]) -> None:
    """Answer for an organization until SIGTERM or SIGINT; then exit at once, even during training.

    Interrupted training has released nothing; it is repeated under the same reservation.

    Args:
        organization: the organization's settings.
        entropy: the source of keystreams. Only tests pass anything but `SystemEntropy`.
        report: called with one line when the vault is ready.

    Raises:
        InputError: a setting of the organization is wrong; nothing is spent.
    """
    # A list, polled below. A threading.Event could deadlock: `set` in a signal handler blocks for ever if the
    # handler interrupted its own thread inside `wait`. A blocking queue could miss a signal until the next one.
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: signals.append(received))
    section = organization.vault
    socket = check_socket_path(organization.path(section.socket))
    ledger_path = organization.path(section.ledger)
    make_socket_folder(socket, section.group)
    compute = Compute(section.workers, open_devices(section))
    with _locked(ledger_path, "vault.ledger"), _locked(socket, "vault.socket"), compute:
        vault, summary = _open_vault(organization, ledger_path, entropy, compute)
        server = VaultServer(vault, socket, section.group)
        server.start()
        report(f"{organization.name}: the vault answers at {socket} for {summary}")
        while not signals:
            time.sleep(_POLL_SECONDS)
        if not server.stop():
            _log.warning("training is interrupted; it is already charged, and is repeated at the next request")
            logging.shutdown()
            # The training thread cannot be interrupted, and holds nothing that must be kept.
            os._exit(0)


def _open_vault(
    organization: Organization, ledger_path: Path, entropy: Entropy, compute: Compute
) -> tuple[Vault, str]:
    for name in organization.models:
        base_model_folder(organization, name)
    records = RecordStore(
        (record for _, record in iterate_organization(organization)), ledger_path.with_name("records.arrow")
    )
    summary = record_summary(records, organization)
    check_fields(organization, records)
    check_count(records, organization)
    ledger = Ledger(
        ledger_path,
        organization.name,
        organization.data.unit,
        StatementKey.read(organization.path(organization.vault.statement_key)),
        composition=organization.policy.composition,
    )
    boundary = SAME_USER if organization.vault.group is None else SEPARATE_USERS

    def load(folder: str, plan: Plan) -> LoraModel:
        model = LoraModel(folder, plan, compute.main_device)
        if compute.in_processes:
            model.release_base()
        return model

    vault = Vault(
        organization,
        records,
        ledger,
        load,
        entropy,
        boundary,
        compute,
    )
    return vault, summary


def base_model_folder(organization: Organization, name: str) -> Path:
    """The folder of a listed base model.

    Raises:
        InputError: it does not contain a model.
    """
    folder = organization.path(organization.models[name])
    if not (folder / "config.json").is_file():
        raise InputError(
            f"models.{name!r} = {organization.models[name]!r}: it should be the folder of a model in Hugging Face "
            "format"
        )
    return folder


def check_count(records: Sequence[Record], organization: Organization) -> None:
    """Refuse more units than a sum of 64-bit integers can hold.

    Raises:
        InputError: there are more.
    """
    field = organization.data.user_field
    if len(records) <= MOST_UNITS:
        return
    count = len(records) if field is None else len(group_by_user(records, field))
    if count > MOST_UNITS:
        raise InputError(
            f"data.train = {organization.data.train!r}: {count} {organization.data.unit}s; a vault takes at most "
            f"{MOST_UNITS}"
        )


def record_summary(records: Sequence[Record], organization: Organization) -> str:
    """Describe the number of records and users, for the operator's own terminal.

    A misspelt field is an error: otherwise every run would train on no record, at its full cost in ε.

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
    without_user = len(records) - sum(map(len, users))
    return f"{len(records)} records of {len(users)} users" + (
        f" ({without_user} belong to no user)" if without_user else ""
    )


@contextmanager
def _locked(path: Path, key: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path))
        except Held as held:
            raise InputError(f"{key} = {path}: in use by another vault, process {held.holder}") from None
        except (OSError, RuntimeError) as error:  # a symlink loop is a RuntimeError
            raise InputError(f"{key} = {path}: cannot be created: {error}") from None
        # Outside the `try`: the text of an error in the body may contain a record.
        yield


def open_devices(section: VaultSection) -> list[str]:
    """Return the devices to train on if they are available on this machine.

    Raises:
        InputError: one is not available, or they are not of one kind: the last bits of gradients would differ.
    """
    key = "vault.device" if section.devices is None else "vault.devices"
    kinds = set()
    for name in section.training_devices:
        try:
            torch.zeros(1, device=name).item()  # `item` also rejects the device `meta`, which stores no data
            kinds.add(device_kind(torch.device(name)))
        except Exception as error:  # the type of the error depends on the kind of device
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{key} = {name!r}: it should be a device of this machine: {reason}") from None
    if len(kinds) > 1:
        raise InputError(
            f"{key} = {section.devices}: they should be of one kind; they are {', '.join(sorted(kinds))}"
        )
    return section.training_devices
