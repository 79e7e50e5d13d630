"""Where nobody's records are: the rounds, aggregation, and what the result is for."""

from pathlib import Path

import common

# A folder named `common` in the current directory would come first.
if Path(common.__file__ or "").parent.parent != Path(__file__).parent.parent:
    raise ImportError(f"{common.__file__} is not Sotto's own; start Sotto from another directory")
