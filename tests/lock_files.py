"""The lock files, as tests read them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

LOCKS = ROOT / "locks"


def pins(name: str) -> dict[str, Requirement]:
    """The packages of a lock by their names."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^[a-z0-9].*$", text)
    found = [Requirement(line.removesuffix("\\").strip()) for line in lines]
    assert len({one.name for one in found}) == len(found)
    return {canonicalize_name(one.name): one for one in found}


def beyond(extras: Iterable[str], torch: bool) -> set[str]:
    """What can be imported where everything is installed, and not where those extras alone are.

    Args:
        extras: names of locks.
        torch: whether they bring PyTorch.
    """
    with_torch = set(pins("torch"))
    allowed = set().union(*(pins(extra) for extra in extras), with_torch if torch else ())
    others = (set(pins("dev")) | with_torch) - allowed
    names = metadata.packages_distributions().items()
    return {name for name, owners in names if {canonicalize_name(owner) for owner in owners} <= others}
