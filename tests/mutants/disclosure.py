"""Bugs by which more leaves than is listed, or a statement is believed that nobody signed."""

from __future__ import annotations

from typing import Any

import client.vault.preparation
import common.flower.codec
import common.report.verification
from common.errors import Refused
from tests.mutants.mutant import replace_everywhere


def loss_in_the_reply() -> None:
    """The training loss travels with the release."""
    original = common.flower.codec.pack_release

    def pack_release(release: Any) -> Any:
        content = original(release)
        content["sotto"]["loss"] = 2.345
        return content

    replace_everywhere(original, pack_release)


def refusal_depends_on_a_record() -> None:
    """A record that cannot be used stops the training."""
    original = client.vault.preparation.encode

    def encode(*arguments: Any) -> Any:
        encoded = original(*arguments)
        if encoded.unusable:
            raise Refused("training-failed", f"{encoded.unusable} records cannot be used")
        return encoded

    replace_everywhere(original, encode)


def embedded_key() -> None:
    """A statement checked with the key that stands inside it."""
    original = common.report.verification.signature_state

    def signature_state(statement: Any, run: str, keys: Any) -> str:
        return original(statement, run, {statement.organization: statement.key})

    replace_everywhere(original, signature_state)
