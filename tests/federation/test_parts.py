"""Each part runs with the libraries of its own extra alone: the relay without torch, the vault without Flower."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.federation.harness import Federation, texts

# As if they were not installed: also for those who only look whether they are.
BLOCKER = """
import sys

class Without:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {names} else self._finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
TRAINING = {"torch", "transformers", "peft", "opacus", "tokenizers", "matplotlib", "jinja2", "tensorboardX"}
# httpx stays: transformers needs it.
FLOWER = {"flwr", "starlette", "uvicorn", "fastapi", "sqlalchemy", "matplotlib", "tensorboardX"}


def without(folder: Path, names: set[str]) -> str:
    """A path with which a Python finds our code, and those libraries not."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=sorted(names)))
    return os.pathsep.join([str(folder), str(ROOT)])


def run_python(code: str, path: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.parametrize(
    ("names", "modules"),
    [
        (TRAINING, ["client.supernode", "client.runtime", "client.app", "client.health"]),
        (FLOWER, ["client.start", "client.keys", "client.approval", "client.price", "client.budget"]),
        (TRAINING, ["server.superlink", "server.door", "server.control", "server.app", "server.health"]),
    ],
)
def test_a_part_is_imported_without_the_others_libraries(
    names: set[str], modules: list[str], tmp_path: Path
) -> None:
    for module in modules:
        run_python(f"import {module}", without(tmp_path / module, names))


def test_a_run_with_a_relay_without_torch_and_a_vault_without_flower(tiny_base: Path, tmp_path: Path) -> None:
    relay, vault = without(tmp_path / "relay", TRAINING), without(tmp_path / "vault", FLOWER)
    with pytest.raises(subprocess.CalledProcessError):
        run_python("import torch", relay)
    with Federation(tmp_path, tiny_base) as federation:
        home = federation.write_organization("a", texts(40))
        federation.start_server()
        federation.start("vault", "vault", "start", home / "organization.toml", PYTHONPATH=vault)
        node = federation.start("node", "supernode", "start", home / "relay.toml", PYTHONPATH=relay)
        node.wait_for("relays between")
        code, said = federation.run(federation.write_plan(), tmp_path / "run")
        assert code == 0, said
        assert "is trained" in federation.programs["vault"].text
