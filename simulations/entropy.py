"""Reproducible randomness, for simulations and tests only: anyone who knows the seed can remove the noise."""

from __future__ import annotations

import hashlib

from client.vault.training.entropy import Keystream


class SeededEntropy:
    """The same keystream for the same seed, organization and round.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def stream(self, organization: str, run: str, round_number: int) -> Keystream:  # noqa: ARG002 - new in each run
        """A keystream that depends on seed, organization and round alone."""
        text = f"{self._seed}/vault/{organization}/{round_number}"
        return Keystream(hashlib.sha256(text.encode()).digest())
