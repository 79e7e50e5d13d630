"""`sotto privacy raise-cap`: raise the lifetime cap in the ledger to the values of organization.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from client.vault.ledger.cap import is_higher
from client.vault.ledger.ledger import Ledger
from client.vault.policy.organization import Organization
from client.vault.policy.policy import lifetime_cap
from common.errors import InputError
from common.keys.statement_key import StatementKey
from common.privacy.privacy_filter import Cap
from common.system.lock import Held, exclusive


@dataclass(frozen=True)
class CapRaise:
    """A raise of the lifetime cap.

    Attributes:
        current: the cap in the ledger.
        wanted: the cap of organization.toml.
        spent: ε of all runs so far, at the δ of `wanted`.
        raised: how many times the cap was raised before.
    """

    current: Cap
    wanted: Cap
    spent: float
    raised: int


def raise_cap(organization: Organization, confirm: Callable[[CapRaise], bool]) -> bool:
    """Raise the lifetime cap in the ledger, signed with the statement key.

    Args:
        organization: the organization's settings, with the new cap.
        confirm: asked before anything is written.

    Returns:
        Whether the cap was raised.

    Raises:
        InputError: the vault is running, there is no ledger or no key, or the settings' cap is not higher.
        LedgerError: an entry of the ledger was changed or removed.
    """
    wanted = lifetime_cap(organization)
    with _locked_ledger(organization) as ledger:
        current = ledger.cap.current
        if current is None:
            raise InputError(f"{ledger.path}: the ledger has no cap yet; the vault sets it when it starts")
        if not is_higher(wanted, current):
            raise InputError(
                f"policy.max_epsilon = {wanted.epsilon}, policy.max_delta = {wanted.delta}: the cap in "
                f"{ledger.path} is ε = {current.epsilon}, δ = {current.delta}; first set higher values in "
                "organization.toml (lower values need no command: the vault takes them over when it starts)"
            )
        if not confirm(CapRaise(current, wanted, wanted.spent(ledger.spent()), ledger.cap.raised)):
            return False
        ledger.cap.raise_to(wanted)
    return True


@contextmanager
def _locked_ledger(organization: Organization) -> Iterator[Ledger]:
    """The ledger, writable, under the lock that a running vault holds."""
    path = organization.path(organization.vault.ledger)
    if not path.exists():
        raise InputError(
            f"{path}: no such ledger; the vault creates it when it starts, with the cap of organization.toml"
        )
    key = StatementKey.read(organization.path(organization.vault.statement_key))
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(path))
        except Held as held:
            raise InputError(
                f"vault.ledger = {path}: in use by the vault, process {held.holder}; stop it before you raise "
                "the cap"
            ) from None
        except (OSError, RuntimeError) as error:  # a symlink loop is a RuntimeError
            raise InputError(f"vault.ledger = {path}: cannot be locked: {error}") from None
        ledger = Ledger(
            path, organization.name, organization.data.unit, key, composition=organization.policy.composition
        )
        stack.callback(ledger.close)
        # Outside the `try`: an answer of Ctrl-C is a RuntimeError, too.
        yield ledger
