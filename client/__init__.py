"""An organization: the vault, which has its records, the relay, which has the network, and its administrator."""

from pathlib import Path

import common

# A folder named `common` in the current directory would come first: foreign code beside private records.
if Path(common.__file__ or "").parent.parent != Path(__file__).parent.parent:
    raise ImportError(f"{common.__file__} is not Sotto's own; start Sotto from another directory")
