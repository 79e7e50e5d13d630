"""Runs commands and imports modules in one process, and writes what came of it as JSON; `test_parts.py` starts it
where the libraries of other parts cannot be found.

Standard input: {"folders": [...], "commands": [["--help"], ...]}.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import pkgutil
import sys


def missing(folders: list[str]) -> dict[str, str]:
    """The modules that cannot be imported, each with the library that it lacks."""
    found = {}
    for folder in folders:
        package = importlib.import_module(folder)
        for module in pkgutil.walk_packages(package.__path__, f"{folder}."):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                found[module.name] = str(error.name)
    return found


def run(command: list[str]) -> tuple[int, str]:
    """The exit code of `sotto …`, and what it printed."""
    import sotto

    sys.argv = ["sotto", *command]
    code: object = 0
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            sotto.main()
        except SystemExit as end:
            code = end.code
    return int(str(code or 0)), printed.getvalue()


def main() -> None:
    asked = json.load(sys.stdin)
    # Commands first: they must find by themselves what they need.
    ran = [run(command) for command in asked["commands"]]
    json.dump({"ran": ran, "missing": missing(asked["folders"])}, sys.stdout)


if __name__ == "__main__":
    main()
