"""docs/deploy.md, followed to the letter on one machine, by two organizations: its commands, and what it says to
write into the files that `sotto init` made.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.federation.harness import Program, report, texts

PAGE = ROOT / "docs" / "deploy.md"
PLACEHOLDER = "st-mary"
SAID = {"server": "is ready", "vault": "the vault answers", "supernode": "relays between"}


@dataclass(frozen=True)
class Step:
    """A step of the page: (language, text) of each of its blocks."""

    number: int
    title: str
    blocks: list[tuple[str, str]]


def steps() -> list[Step]:
    page = PAGE.read_text(encoding="utf-8").split("## As services")[0]
    parts = re.split(r"(?m)^### (\d+)\. (.+)$", page)[1:]
    return [
        Step(int(number), title, re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", text))
        for number, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


class Newcomer:
    """Does what the page says, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs: dict[str, Program] = {}

    def do(self, step: Step, name: str, only: str | None = None) -> None:
        """Follow a step for one organization; of its blocks, those that name `only`, if that is given."""
        for language, text in step.blocks:
            if only is not None and only not in text:
                continue
            mine = text.replace(PLACEHOLDER, name)
            if language == "bash":
                self.type(mine)
            else:
                self.write(mine)

    def type(self, text: str) -> None:
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "sotto", line
            # Programs run in their log's folder, as in a terminal that was opened there.
            log = self.folder / f"terminal-{len(self.programs)}.log"
            program = Program([sys.executable, "-P", "-m", *words], log)
            self.programs[line] = program
            if words[2] == "start":
                program.wait_for(SAID[words[1]])
            else:
                assert program.wait() == 0, program.text

    def write(self, text: str) -> None:
        """Give keys other values: where they stand, in the section in which they stand."""
        first, *lines = text.splitlines()
        path = self.folder / first.removeprefix("# ")
        section = ""
        for line in lines:
            if line.startswith("["):
                section = line
                continue
            path.write_text(replaced(path.read_text(encoding="utf-8"), section, line), encoding="utf-8")


def replaced(text: str, section: str, line: str) -> str:
    """A TOML file with one line of a section changed; for a quoted key, as of a model, the first quoted line."""
    key = line.split(" = ")[0]
    head, mark, rest = text.partition(f"\n{section}\n") if section else ("", "", text)
    assert section == "" or mark, f"no section {section}"
    body, after = re.split(r"(?m)^(?=\[)", rest, maxsplit=1) if re.search(r"(?m)^\[", rest) else (rest, "")
    pattern = r'(?m)^".*" = .*$' if key.startswith('"') else rf"(?m)^{re.escape(key)} = .*$"
    changed, count = re.subn(pattern, lambda _: line, body, count=1)
    assert count == 1, f"no {key} in {section or 'the file'}"
    return head + mark + changed + after


@pytest.fixture(scope="module")
def newcomer(tiny_base: Path) -> Iterator[Newcomer]:
    # A short path: the socket lies below.
    folder = Path(tempfile.mkdtemp(prefix="sotto-steps-"))
    shutil.copytree(tiny_base, folder / "models" / "base")
    for name in (PLACEHOLDER, "county"):
        (folder / name).mkdir()
        lines = [json.dumps(record) + "\n" for record in texts(300, name)]
        (folder / name / "records.jsonl").write_text("".join(lines), encoding="utf-8")
    one = Newcomer(folder)
    try:
        yield one
    finally:
        for program in one.programs.values():
            program.kill_family()
        shutil.rmtree(folder)


def test_the_page_has_twelve_steps_in_order() -> None:
    assert [step.number for step in steps()] == list(range(1, 13))


@pytest.mark.slow
def test_the_twelve_steps_lead_to_a_first_run(newcomer: Newcomer) -> None:
    began = time.monotonic()
    by_number = {step.number: step for step in steps()}
    assert "make .venv/ready" in by_number[1].blocks[0][1]
    assert (ROOT / "Makefile").read_text().count(".venv/ready") > 1
    for number in (2, 3, 4):
        newcomer.do(by_number[number], PLACEHOLDER)
    for number in (6, 7, 8):
        for name in (PLACEHOLDER, "county"):
            newcomer.do(by_number[number], name)
    newcomer.do(by_number[9], PLACEHOLDER)
    newcomer.do(by_number[9], "county", only="client approve")
    for number in (10, 11):
        for name in (PLACEHOLDER, "county"):
            newcomer.do(by_number[number], name)
    newcomer.do(by_number[12], PLACEHOLDER)
    seconds = time.monotonic() - began

    out = newcomer.folder / "runs" / "first"
    organizations = report(out)["organizations"]
    assert [(one["name"], one["signature"]) for one in organizations] == [
        ("county", "valid"),
        ("st-mary", "valid"),
    ]
    assert all(one["epsilon"] <= 4.0 for one in organizations)
    assert (newcomer.folder / "report.html").stat().st_size > 10_000
    checked = [program.text for line, program in newcomer.programs.items() if "client check" in line]
    assert len(checked) == 2
    assert not [line for text in checked for line in text.splitlines() if line.startswith("wrong")], checked
    # A newcomer reads and types; the machine itself takes a small part of a quarter of an hour.
    assert seconds < 600
    for line, program in newcomer.programs.items():
        if " start " in line:
            assert program.end() == 0, program.text
