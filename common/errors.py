"""The errors that a user can meet, graded by what they mean for the exit code.

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from typing import Literal, TypeGuard, get_args

RefusalCode = Literal[
    "malformed-request",
    "model-not-allowed",
    "model-differs",
    "plan-changed",
    "policy",
    "budget",
    "ledger-behind",
    "plan-not-approved",
    "round-conflict",
    "not-trainable",
    "training-failed",
    "busy",
    "vault-unavailable",
    "app-not-allowed",
]


class SottoError(Exception):
    """Something that was asked for could not be done. Exit code 1."""

    exit_code = 1


class InputError(SottoError):
    """What was given is wrong: the text names it, its value, and what would be right. Exit code 2."""

    exit_code = 2


class Refused(SottoError):
    """A vault or its relay refuses a request.

    Attributes:
        code: the reason code, explained in `common.protocol.protocol.REASONS`. It leaves the vault.
        detail: a sentence made of public numbers only: the plan, the policy, never a record.
    """

    def __init__(self, code: RefusalCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def is_refusal_code(code: str) -> TypeGuard[RefusalCode]:
    """Whether a received code is one of the protocol's."""
    return code in get_args(RefusalCode)
