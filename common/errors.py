"""The errors that a user can meet, graded by what they mean for the exit code.

Anything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class SottoError(Exception):
    """Something that was asked for could not be done. Exit code 1."""

    exit_code = 1


class InputError(SottoError):
    """What was given is wrong: the text names it, its value, and what would be right. Exit code 2."""

    exit_code = 2


class Refused(SottoError):
    """A vault does not do what a request asks.

    Attributes:
        code: one of `common.protocol.protocol.REASONS`. It leaves the vault.
        detail: a sentence made of public numbers only: the plan, the policy, never a record.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
