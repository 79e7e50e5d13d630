"""Partition the records of one file among simulated organizations."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.vault.records.units import user_of
from common.errors import InputError
from common.plan.coordinator import Simulation
from common.records import Record


def partition(records: Sequence[Record], simulation: Simulation) -> dict[str, list[Record]]:
    """Assign every record to exactly one organization; with `user_field`, all records of a user to the same one.

    Args:
        records: all records of the simulation's file.
        simulation: the plan's section with the settings.

    Returns:
        Organization name → its records, in the order of the file.

    Raises:
        InputError: a field is missing, a user would have two organizations, or an organization would have no
            records.
    """
    if simulation.user_field is not None:
        _check_users(records, simulation.user_field)
    if simulation.partition == "field":
        return _by_field(records, simulation)
    random = np.random.default_rng(simulation.seed)
    units = _units(records, simulation)
    if simulation.partition == "iid":
        owners = random.permutation(np.arange(len(units)) % simulation.organizations)
    else:
        values = _values(records, simulation)
        owners = _dirichlet([values[unit[0]] for unit in units], simulation, random)
    names = [f"organization-{index + 1}" for index in range(simulation.organizations)]
    name_of = {place: names[int(owner)] for unit, owner in zip(units, owners, strict=True) for place in unit}
    parts: dict[str, list[Record]] = {name: [] for name in names}
    for place, record in enumerate(records):
        parts[name_of[place]].append(record)
    for name, part in parts.items():
        if not part:
            raise InputError(
                f"simulation.organizations = {simulation.organizations}: {name} would have no records"
            )
    return parts


def _check_users(records: Sequence[Record], user_field: str) -> None:
    for number, record in enumerate(records, start=1):
        if user_of(record, user_field) is None:
            raise InputError(
                f"simulation.user_field = {user_field!r}: record {number} has no such field (a text or integer)"
            )


def _units(records: Sequence[Record], simulation: Simulation) -> list[list[int]]:
    """Groups of record indices that must stay together."""
    if simulation.user_field is None:
        return [[place] for place in range(len(records))]
    places: dict[str | int | None, list[int]] = {}
    for place, record in enumerate(records):
        places.setdefault(user_of(record, simulation.user_field), []).append(place)
    return list(places.values())


def _by_field(records: Sequence[Record], simulation: Simulation) -> dict[str, list[Record]]:
    values = _values(records, simulation)
    names = {value: _name(value) for value in sorted(set(values))}
    if len(set(names.values())) < len(names):
        raise InputError(
            f"simulation.field = {simulation.field!r}: two of its values give the same organization name"
        )
    parts: dict[str, list[Record]] = {name: [] for name in names.values()}
    for record, value in zip(records, values, strict=True):
        parts[names[value]].append(record)
    if simulation.user_field is not None:
        _check_users_have_one_organization(parts, simulation.user_field)
    return parts


def _check_users_have_one_organization(parts: dict[str, list[Record]], user_field: str) -> None:
    owner: dict[str | int | None, str] = {}
    for name, part in parts.items():
        for user in (user_of(record, user_field) for record in part):
            if owner.setdefault(user, name) != name:
                raise InputError(
                    f"simulation.user_field = {user_field!r}: {str(user)[:80]!r} has records at {owner[user]} and "
                    f"at {name}; all records of a user should be at one organization"
                )


def _dirichlet(values: list[str], simulation: Simulation, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the shares of each value of the field from a symmetric Dirichlet distribution.

    As Hsu, Qi and Brown 2019, https://arxiv.org/abs/1909.06335, do with labels.
    """
    owners = np.zeros(len(values), dtype=np.int64)
    column = np.asarray(values)
    for value in sorted(set(values)):
        rows = random.permutation(np.flatnonzero(column == value))
        shares = random.dirichlet(np.full(simulation.organizations, simulation.alpha))
        ends = np.round(np.cumsum(shares) * len(rows)).astype(np.int64)
        for owner, part in enumerate(np.split(rows, ends[:-1])):
            owners[part] = owner
    return owners


def _values(records: Sequence[Record], simulation: Simulation) -> list[str]:
    field = simulation.field
    assert field is not None, "the plan was validated"
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get(field), str | int):
            raise InputError(
                f"simulation.field = {field!r}: record {number} has no such field (a text or integer)"
            )
    return [str(record[field]) for record in records]


def _name(value: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
    if not name:
        raise InputError(
            f"simulation.field: its value {value[:80]!r} gives no organization name; it should contain a-z or 0-9"
        )
    return (name if name[0].isalpha() else f"organization-{name}")[:40].strip("-")
