"""The privacy report of a run: data, verification, charts, page."""
