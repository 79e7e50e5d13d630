"""Beside the private records: the vault, its ledger, its policy, and differentially private training."""

from pathlib import Path

import common

# A folder named `common` in the current directory would come first: foreign code beside private records.
if Path(common.__file__ or "").parent.parent != Path(__file__).parent.parent:
    raise ImportError(f"{common.__file__} is not Sotto's own; start Sotto from another directory")
