"""`sotto client keys`: create an organization's keys on its own machine. Private keys never leave it.

The statement key belongs to the vault and signs the ledger and the statements. The node key belongs to the relay
and authenticates it to the coordinator's gateway. The node key alone can sign no statement and read no record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from common.keys.files import write_new
from common.keys.node_key import NodeKey
from common.keys.statement_key import StatementKey, key_fingerprint, public_line

STATEMENT_KEY = "statement.key"
NODE_KEY = "node.key"


@dataclass(frozen=True)
class NewKey:
    """A newly created key.

    Attributes:
        public: the file that holds the public key.
        line: the content of that file.
        fingerprint: fingerprint of the public key, as `ssh-keygen -lf` prints it.
    """

    public: Path
    line: str
    fingerprint: str


def make_keys(folder: Path, name: str) -> list[NewKey]:
    """Create the node key and the statement key if they are missing; an existing key is never overwritten.

    Args:
        folder: where to write `node.key` and `statement.key`, readable by their owner only, and `node.pub` and
            `statement.pub`, which the coordinator registers.
        name: the organization's name, stored as the comment of the public keys.

    Returns:
        The keys that were created.

    Raises:
        InputError: both keys exist already, or the folder cannot be written.
    """
    created = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / NODE_KEY).exists():
            node = NodeKey.generate()
            node.write(folder / NODE_KEY)
            created.append(_publish(folder / "node.pub", node.public.line(name), node.public.fingerprint))
        if not (folder / STATEMENT_KEY).exists():
            key = StatementKey.generate()
            key.write(folder / STATEMENT_KEY)
            line = public_line(key.public, name)
            created.append(_publish(folder / "statement.pub", line, key_fingerprint(key.public)))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    if not created:
        raise InputError(
            f"{folder / STATEMENT_KEY}: exists already, and so does {NODE_KEY}; keys are not replaced, because a "
            "ledger is bound to its statement key"
        )
    return created


def _publish(path: Path, line: str, fingerprint: str) -> NewKey:
    # A public key left over from a private key that was moved away is useless.
    path.unlink(missing_ok=True)
    write_new(path, line.encode("ascii"), 0o644)
    return NewKey(path, line, fingerprint)
