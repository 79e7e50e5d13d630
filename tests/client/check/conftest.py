"""Fixtures for the tests of `sotto client check`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.client.vaults import write_organization


@pytest.fixture
def path(tmp_path: Path, tiny_base: Path) -> Path:
    return write_organization(tmp_path / "st-mary", tiny_base)
