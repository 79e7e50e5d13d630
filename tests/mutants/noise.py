"""Bugs by which noise is missing, repeated, predictable, or not all that hides a sum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import client.vault.training.dp_sgd
import client.vault.training.entropy
import common.adapter.adapter
from client.vault.training.entropy import Keystream
from tests.mutants.mutant import replace_everywhere


def _system_stream(make: Callable[[str, str, int], bytes]) -> None:
    def stream(self: Any, organization: str, run: str, round_number: int) -> Keystream:
        return Keystream(make(organization, run, round_number))

    client.vault.training.entropy.SystemEntropy.stream = stream  # type: ignore[method-assign]


def constant_seed() -> None:
    """One key for all noise."""
    _system_stream(lambda *_: bytes(32))


def short_seed() -> None:
    """A key of 64 random bits: a CPU generator keeps 32 of its seed."""
    _system_stream(lambda *_: hashlib.sha256(os.urandom(8)).digest())


def same_noise_in_two_rounds() -> None:
    """A key for each run, not for each round."""
    keys: dict[str, bytes] = {}
    _system_stream(lambda _organization, run, _round: keys.setdefault(run, os.urandom(32)))


def forgotten_noise() -> None:
    """Clipped, but not noised."""
    replace_everywhere(
        client.vault.training.dp_sgd.add_noise, lambda total, multiplier, stream: total.double() * 2.0**-40
    )


def rounded_before_noise() -> None:
    """The scale of the rounding is that of the sum before it was noised."""
    largest: dict[str, float] = {}
    noise, wire = client.vault.training.dp_sgd.add_noise, common.adapter.adapter.to_wire

    def add_noise(total: Any, deviation: float, stream: Keystream) -> Any:
        largest["sum"] = float(total.abs().max()) * 2.0**-40
        return noise(total, deviation, stream)

    def to_wire(adapter: Any, number_format: Any, rounding: Any) -> bytes:
        # What is beyond the last step of a scale becomes that step.
        if number_format != "float32" and largest:
            adapter = {name: tensor.clip(-largest["sum"], largest["sum"]) for name, tensor in adapter.items()}
        return wire(adapter, number_format, rounding)

    replace_everywhere(noise, add_noise)
    replace_everywhere(wire, to_wire)
