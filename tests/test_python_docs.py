"""The session of docs/python.md runs as it stands there."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest

import sotto
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
SESSION = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))


def test_the_session_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, object] = {}
    exec(compile(SESSION, "docs/python.md", "exec"), names)  # the project's own page
    printed = capsys.readouterr().out
    assert "privacy.epsilon = -1" in printed
    assert "differentially private" in printed
    assert printed.count("noise_multiplier") >= 2


def test_every_name_that_is_offered_is_there_and_the_page_calls_every_function() -> None:
    functions = {name for name in sotto.__all__ if name.islower() and not name.startswith("_")}
    assert functions == set(re.findall(r"sotto\.([a-z]+)\(", PAGE))
    assert all(getattr(sotto, name) for name in sotto.__all__)


def test_what_is_not_offered_is_said_as_for_any_module() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = sotto.train
