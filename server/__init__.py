"""The coordinator: server, runs, rounds and aggregation. It never sees private records."""

from pathlib import Path

import common

# A folder named `common` in the current directory would be imported instead.
if Path(common.__file__ or "").parent.parent != Path(__file__).parent.parent:
    raise ImportError(f"{common.__file__} is not Sotto's own; start Sotto from another directory")
