"""The privacy report: its data, verification and page."""
