"""Randomness that nobody can guess: who gets a unit drawn, and the noise.

A ChaCha20 keystream under a 256-bit key becomes 53-bit words; `exact.py` makes the noise of them.

`torch.Generator` on the CPU keeps 32 bits of its seed and is never used here.
"""

from __future__ import annotations

import os
from typing import NoReturn, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Floats = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

# Bytes of a keystream: the block counter of ChaCha20 has 32 bits, and a block 64 bytes.
STREAM_LIMIT = 2**38
KEY_SIZE = 32


def as_uniforms(words: Words) -> Floats:
    """Integers below 2⁵³ as the odd multiples of 2⁻⁵⁴ in whose middle they lie; the last is rounded to 1.

    >>> as_uniforms(np.array([0, 2**52], np.uint64)).tolist() == [2.0**-54, 0.5 + 2.0**-54]
    True
    """
    numbers: Floats = (words.astype(np.float64) + 0.5) * 2.0**-53
    return numbers


class Keystream:
    """Numbers from one key. A key serves one attempt at one round and is then forgotten.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._used = 0

    def __reduce__(self) -> NoReturn:
        raise TypeError("a keystream is never serialized: a copy would repeat the noise")

    def words(self, count: int) -> Words:
        """Integers below 2⁵³, all equally likely."""
        return np.frombuffer(self.bytes(8 * count), dtype="<u8") >> np.uint64(11)

    def uniforms(self, count: int) -> Floats:
        """Float64 numbers in (0, 1]: odd multiples of 2⁻⁵⁴, all equally likely; the last is rounded to 1."""
        return as_uniforms(self.words(count))

    def branch(self) -> Keystream:
        """Another keystream, under a key from this one. However it is used, this one goes on the same."""
        return type(self)(self.bytes(KEY_SIZE))

    def bytes(self, size: int) -> bytes:
        """The next bytes of the stream.

        Raises:
            OverflowError: it has no more.
        """
        self._used += size
        if self._used > STREAM_LIMIT:
            raise OverflowError("the keystream of this round is used up")
        return self._encryptor.update(bytes(size))


class Entropy(Protocol):
    """Where the keystream of each attempt comes from."""

    def stream(self, organization: str, run: str, round_number: int) -> Keystream:
        """A keystream for one attempt at one round."""


class SystemEntropy:
    """A new 256-bit key from the operating system for every attempt; what it is for does not matter."""

    def stream(self, organization: str, run: str, round_number: int) -> Keystream:  # noqa: ARG002
        """A keystream that was never used and never will be again."""
        return Keystream(os.urandom(32))
