"""What docstrings show is so."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("common", "client", "server", "simulations")
PATHS = [ROOT / "sotto.py", *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
SHOWING = [path.relative_to(ROOT) for path in PATHS if ">>>" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", SHOWING, ids=str)
def test_what_a_docstring_shows_is_so(path: Path) -> None:
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    tried = doctest.testmod(module)
    assert tried.attempted > 0
    assert tried.failed == 0
