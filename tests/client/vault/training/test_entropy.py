"""Randomness: the cipher is ChaCha20, the numbers have their distribution, and nothing is used twice."""

from __future__ import annotations

import copy
import io
import os
import pickle

import numpy as np
import pytest
from scipy import stats

from client.vault.training.entropy import Keystream, SystemEntropy
from simulations.entropy import SeededEntropy

# RFC 8439, appendix A.1, test vector 1: key and nonce zero, block counter zero.
RFC_8439_BLOCK = bytes.fromhex(
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)


def test_uniforms_are_the_top_53_bits_of_the_chacha20_keystream() -> None:
    expected = []
    for start in range(0, 64, 8):
        word = int.from_bytes(RFC_8439_BLOCK[start : start + 8], "little")
        expected.append(((word >> 11) + 0.5) / 2**53)
    assert Keystream(bytes(32)).uniforms(8).tolist() == expected


def test_the_stream_goes_on_where_it_stopped() -> None:
    whole, parts = Keystream(bytes(32)), Keystream(bytes(32))
    assert whole.uniforms(10).tolist() == [*parts.uniforms(3), *parts.uniforms(0), *parts.uniforms(7)]


def test_uniforms_are_uniform_and_never_zero_or_one() -> None:
    numbers = Keystream(b"u" * 32).uniforms(200_000)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-4


def test_a_keystream_is_never_serialized_or_copied() -> None:
    stream = Keystream(bytes(32))
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never serialized"):
            attempt(stream)


def test_a_keystream_ends_before_its_block_counter_repeats() -> None:
    stream = Keystream(bytes(32))
    stream._used = 2**38 - 8
    stream.uniforms(1)
    with pytest.raises(OverflowError):
        stream.uniforms(1)


@pytest.mark.parametrize("used", [0, 1, 1000])
def test_a_stream_goes_on_the_same_whatever_its_branch_is_used_for(used: int) -> None:
    stream, reference = Keystream(bytes(32)), Keystream(bytes(32))
    branch = stream.branch()
    numbers = branch.uniforms(used)
    words = np.frombuffer(RFC_8439_BLOCK[:32], dtype="<u8")
    assert reference.uniforms(4).tolist() == (((words >> np.uint64(11)) + 0.5) / 2**53).tolist()
    assert stream.uniforms(8).tolist() == reference.uniforms(8).tolist()
    assert numbers.tolist() == Keystream(RFC_8439_BLOCK[:32]).uniforms(used).tolist()


def test_a_keystream_that_is_used_up_has_no_branch() -> None:
    stream = Keystream(bytes(32))
    stream._used = 2**38 - 31
    with pytest.raises(OverflowError):
        stream.branch()


def test_the_system_never_gives_the_same_stream_twice() -> None:
    entropy = SystemEntropy()
    first = {entropy.stream("a", "run", 1).uniforms(1)[0] for _ in range(50)}
    assert len(first) == 50


def test_each_stream_has_a_key_of_256_bits_from_the_system_and_every_bit_matters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A short secret that is hashed to the size of a key looks like one, but can be guessed."""
    asked: list[int] = []

    def given(tape: bytes) -> tuple[float, ...]:
        """The beginning of a stream; a tape stands in for what the system would give."""
        left = io.BytesIO(tape)

        def urandom(size: int) -> bytes:
            asked.append(size)
            return left.read(size).ljust(size, b"\0")

        monkeypatch.setattr(os, "urandom", urandom)
        entropy = SystemEntropy()
        asked.clear()
        stream = entropy.stream("a", "run", 1)
        assert sum(asked) >= 32
        entropy.stream("a", "run", 1)
        assert sum(asked) >= 64, "a second stream has a key of its own"
        return tuple(stream.uniforms(4).tolist())

    usual = bytes(range(7, 7 + 64))
    streams = {given(usual)}
    for bit in range(256):
        flipped = bytearray(usual)
        flipped[bit // 8] ^= 1 << bit % 8
        streams.add(given(bytes(flipped)))
    assert len(streams) == 257
    assert given(usual) in streams, "the same bits give the same stream: nothing else is in the key"


def test_the_seeded_stream_repeats_and_differs_by_seed_organization_and_round() -> None:
    def draw(seed: int, organization: str, round_number: int) -> float:
        return float(SeededEntropy(seed).stream(organization, "any", round_number).uniforms(1)[0])

    assert draw(1, "a", 1) == draw(1, "a", 1)
    assert len({draw(s, o, r) for s in (1, 2) for o in ("a", "b") for r in (1, 2)}) == 8
