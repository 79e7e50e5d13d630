"""`sotto … --help`: every command, argument and option has a help text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

import sotto
from tests.conftest import Cli


def tree(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group, with the words that name it."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from tree(inner, (*words, name))


def test_every_command_argument_and_option_has_a_help_and_prints_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    commands = list(tree(typer.main.get_command(sotto.app)))
    assert len(commands) >= 30
    arguments = 0
    for words, command in commands:
        code, printed, _ = cli(*words, "--help")
        text = " ".join(re.sub("[│╭╮╰╯─]", " ", printed).split())
        assert (code, words, bool(command.help)) == (0, words, True)
        for said in (command.help, *(parameter.help for parameter in command.params)):
            assert said, (words, [parameter.name for parameter in command.params if not parameter.help])
            assert " ".join(said.split()) in text, (words, said)
        for name, inner in getattr(command, "commands", {}).items():
            first = inner.help.split(". ")[0].rstrip(".")
            assert f"{name} {first}" in text, (words, name)
        arguments += sum(parameter.param_type_name == "argument" for parameter in command.params)
    assert arguments >= 20
