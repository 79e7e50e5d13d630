"""Every seeded bug is caught by the test that is said to catch it, which passes in the suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from tests.conftest import ROOT
from tests.mutants.mutants import MUTANTS, Mutant


def run_test(test: str, mutate: Callable[[], None]) -> int:
    """Exit code of a test in a forked process with a change; never returns there."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status)
    code = 99
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silence, stream)
        # The test modules are read again, so that they see the change.
        for module in [module for module in sys.modules if module.startswith("tests.")]:
            del sys.modules[module]
        mutate()
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"]
        code = int(pytest.main([*options, str(ROOT / "tests" / test)]))
    finally:
        os._exit(code)


# The tests that catch these take seconds each.
SLOW = {
    "cap-of-the-file",
    "fresh-accountant",
    "no-grid",
    "refusal-depends-on-a-record",
    "rounded-before-noise",
    "runs-not-added-up",
    "same-noise-in-two-rounds",
    "windows-by-themselves",
    "workers-not-compared",
}
CASES = [pytest.param(one, id=one.name, marks=[pytest.mark.slow] * (one.name in SLOW)) for one in MUTANTS]


@pytest.mark.parametrize("mutant", CASES)
def test_a_seeded_bug_is_caught(mutant: Mutant) -> None:
    assert run_test(mutant.caught_by, mutant.apply) == pytest.ExitCode.TESTS_FAILED


def test_the_documentation_lists_every_bug() -> None:
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = text[text.index("## Seeded bugs") :].splitlines()
    assert [row for row in rows if row.startswith("| ")][1:] == [mutant.row for mutant in MUTANTS]
