"""`sotto client keys`: an organization's keys, made at home. Private halves never leave it.

The statement key is the vault's: it signs ledger and statements. The node key is the relay's: it opens the
coordinator's gateway. Whoever has the node key alone can sign nothing, and read no record.
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
    """A key that was made.

    Attributes:
        public: the file of its public half.
        line: what that file holds.
        fingerprint: of the public half, as `ssh-keygen -lf` prints it.
    """

    public: Path
    line: str
    fingerprint: str


def make_keys(folder: Path, name: str) -> list[NewKey]:
    """Make the node key and the statement key, as far as the folder lacks them; nothing is ever overwritten.

    Args:
        folder: gets `node.key` and `statement.key`, readable by their owner alone, and `node.pub` and
            `statement.pub`, which the coordinator registers.
        name: of the organization, as the public halves' comment.

    Returns:
        The keys that were made.

    Raises:
        InputError: there are both keys already, or the folder cannot be written.
    """
    made = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / NODE_KEY).exists():
            node = NodeKey.generate()
            node.write(folder / NODE_KEY)
            made.append(_publish(folder / "node.pub", node.public.line(name), node.public.fingerprint))
        if not (folder / STATEMENT_KEY).exists():
            key = StatementKey.generate()
            key.write(folder / STATEMENT_KEY)
            line = public_line(key.public, name)
            made.append(_publish(folder / "statement.pub", line, key_fingerprint(key.public)))
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error}") from None
    if not made:
        raise InputError(
            f"{folder / STATEMENT_KEY}: exists already, and {NODE_KEY} too; a ledger is bound to its key, so it "
            "is not replaced"
        )
    return made


def _publish(path: Path, line: str, fingerprint: str) -> NewKey:
    # The public half of an earlier key, which was moved away, is of no use to anybody.
    path.unlink(missing_ok=True)
    write_new(path, line.encode("ascii"), 0o644)
    return NewKey(path, line, fingerprint)
