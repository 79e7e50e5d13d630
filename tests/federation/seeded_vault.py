"""`sotto vault start` with repeatable noise, which no option of the real one can give: ORGANIZATION SEED."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from client.vault.policy.organization import Organization
from client.vault.start import serve_vault
from simulations.entropy import SeededEntropy

if __name__ == "__main__":
    organization, seed = sys.argv[1:]
    serve_vault(
        Organization.read(Path(organization)), SeededEntropy(int(seed)), functools.partial(print, flush=True)
    )
