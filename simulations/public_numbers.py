"""The public numbers for a calibration: from given sizes, organizations' files, or the plan's simulation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.vault.policy.organization import Organization
from client.vault.policy.policy import check_plan_fits
from common.errors import InputError
from common.plan.plan import Plan
from common.privacy.calibration import PublicNumbers


def public_numbers(plan: Plan, sizes: Sequence[int], files: Sequence[Path]) -> list[PublicNumbers]:
    """The public numbers to calibrate a plan for.

    Args:
        plan: the plan; if neither sizes nor files are given, its simulated organizations are used.
        sizes: public sizes of organizations without a name.
        files: organization.toml of each organization.

    Raises:
        InputError: both sizes and files are given, or neither and no simulation; two organizations have the same
            name; or a policy refuses the plan.
    """
    if sizes and files:
        raise InputError("--public-size and --organization cannot be given together")
    if sizes:
        return [PublicNumbers(f"org-{number}", size) for number, size in enumerate(sizes, start=1)]
    if files:
        organizations = [Organization.read(file) for file in files]
    elif plan.simulation.data is not None:
        # A simulation needs both extras; sizes and files do not.
        from simulations.simulate import count_units, organizations_of, simulated_organization

        parts = organizations_of(plan)
        organizations = [
            simulated_organization(name, plan, count_units(plan, records)) for name, records in parts.items()
        ]
    else:
        raise InputError("give --public-size or --organization: the plan has no [simulation] to take them from")
    names = [organization.name for organization in organizations]
    if len(set(names)) < len(names):
        raise InputError(f"--organization: two have the name {max(names, key=names.count)!r}")
    for organization in organizations:
        check_plan_fits(plan, organization)
    return [
        PublicNumbers(item.name, item.data.public_size, item.policy.min_noise_multiplier) for item in organizations
    ]
