"""The lock files: what they hold, that this is what is installed, and what is said where they cannot be."""

from __future__ import annotations

import ast
import functools
import hashlib
import http.server
import importlib.util
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.lock_files import LOCKS, pins

EXTRAS = ("server", "vault", "relay", "quantization", "anonymize", "dev")
HASHED = (*EXTRAS, "build")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCES = {"server": ("server", "common"), "vault": ("client", "common"), "relay": ("client", "common")}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"locks_{name}", LOCKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(extra: str) -> list[Requirement]:
    """What an extra asks for, with those that it is made of."""
    found = []
    for text in PROJECT["optional-dependencies"][extra]:
        one = Requirement(text)
        found += [more for inner in one.extras for more in requirements(inner)] if one.name == "sotto" else [one]
    return found


def test_each_extra_has_a_lock_and_both_programs_know_it() -> None:
    composed = {"client", "simulation"}
    assert set(PROJECT["optional-dependencies"]) - composed == set(EXTRAS)
    assert set(script("install").SETS) == set(script("write").SETS) == set(EXTRAS)
    assert {path.stem for path in LOCKS.glob("*.txt")} == {*HASHED, "torch"}


@pytest.mark.parametrize("name", HASHED)
def test_every_package_has_a_version_and_hashes_and_none_is_of_torch(name: str) -> None:
    lines = (LOCKS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[^=*\s]+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), (
            line
        )
        if line.startswith("    "):
            assert line.endswith("\\") == after.startswith("    "), line
        elif not line.startswith("#"):
            assert after.startswith("    --hash"), line
    assert not [one for one in pins(name) if re.match(r"torch$|triton|nvidia-|cuda-", one)]


def test_no_file_names_an_index() -> None:
    for path in (*LOCKS.iterdir(), ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "deploy" / "Dockerfile"):
        if path.is_file():
            assert "://" not in path.read_text(encoding="utf-8"), path
            assert "index-url" not in path.read_text(encoding="utf-8").replace('"--index-url", index', "").replace(
                "emit-index-url = false", ""
            )


def test_a_package_has_one_version_in_all_files() -> None:
    everything = pins("dev")
    for name in HASHED:
        for package, pin in pins(name).items():
            assert pin.specifier == everything[package].specifier, (name, package)
    hashes = {}
    for name in HASHED:
        for block in script("write").packages((LOCKS / f"{name}.txt").read_text(encoding="utf-8")):
            line, *own = block.split("\n")
            assert hashes.setdefault(line.split()[0], set(own)) == set(own)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_lock_holds_what_its_extra_asks_for(extra: str) -> None:
    locked = {**pins(extra), **pins("torch")}
    asked = [*map(Requirement, PROJECT["dependencies"]), *requirements(extra)]
    for one in asked:
        (version,) = locked[canonicalize_name(one.name)].specifier
        assert one.specifier.contains(version.version), one
    with_torch = "torch" in {one.name for one in asked} or extra == "quantization"
    assert with_torch == (extra not in script("install").WITHOUT_TORCH)
    if with_torch:
        needed = [Requirement(text) for text in metadata.requires("torch") or []]
        of_every_wheel = [one for one in needed if one.marker is None]
        assert len(of_every_wheel) >= 5
        for one in of_every_wheel:
            assert canonicalize_name(one.name) in pins(extra), one


def test_what_is_installed_is_what_the_locks_say() -> None:
    for name, pin in pins("dev").items():
        if pin.marker is None or pin.marker.evaluate():
            assert pin.specifier.contains(metadata.version(name), prereleases=True), name
    (torch,) = pins("torch")["torch"].specifier
    assert metadata.version("torch").split("+")[0] == torch.version


@pytest.mark.parametrize("extra", SOURCES)
def test_what_an_extra_asks_for_is_imported_by_its_part(extra: str) -> None:
    imported: set[str] = set()
    for path in (file for folder in SOURCES[extra] for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
    owners = metadata.packages_distributions()
    used = {canonicalize_name(owner) for name in imported for owner in owners.get(name, [])}
    assert {canonicalize_name(one.name) for one in requirements(extra)} <= used


# What is said where it cannot be installed: by the real program, with a real pip.


def write_wheel(folder: Path) -> Path:
    """A package of one empty module, in version 1.0."""
    name = folder.name
    folder.mkdir(parents=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return wheel


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a lock of one package, and an index that has another file for that version."""
    made = tmp_path_factory.mktemp("project")
    (made / "locks").mkdir()
    shutil.copy(LOCKS / "install.py", made / "locks")
    first = write_wheel(made / "index" / "first")
    write_wheel(made / "index" / "tiny")
    (made / "locks" / "build.txt").write_text(f"{first.as_uri()} --hash=sha256:{sha256(first)}\n")
    venv.create(made / ".venv", with_pip=True)
    return made


def install(folder: Path, version: str = "1.0", digest: str = "0" * 64, **environment: str) -> str:
    """Install a lock that asks for one package; what is said of it, in one line."""
    (folder / "locks" / "relay.txt").write_text(
        f"tiny=={version}" + (digest and f" --hash=sha256:{digest}") + "\n"
    )
    ended = subprocess.run(
        [sys.executable, "locks/install.py", ".venv", "relay", "--no-project"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null", "HOME": str(folder), **environment},
    )
    assert (ended.returncode, ended.stdout) == (2, "installing relay into .venv\n")
    (line,) = ended.stderr.splitlines()
    return line.removeprefix("error: ")


def test_a_package_that_the_index_lacks(folder: Path) -> None:
    said = install(folder, "1.1", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(folder / "index" / "tiny"))
    assert said.startswith(f"tiny==1.1: the index has no file of it for Python {sys.version.split()[0]} on ")
    said = install(folder, PIP_NO_INDEX="1")
    assert said.startswith("tiny==1.0: the index has no file of it for ")


def test_a_file_that_the_lock_does_not_know(folder: Path) -> None:
    here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder / "index" / "tiny")}
    said = install(folder, **here)
    assert said.startswith("tiny==1.0: the index gave a file whose hash is not in the lock files, and it was not ")
    # Not even where the lock has no hash at all.
    assert install(folder, digest="", **here).startswith("pip: Hashes are required in --require-hashes mode")
    assert not list((folder / ".venv").rglob("tiny.py"))


@pytest.fixture
def index(folder: Path) -> Iterator[str]:
    """The address of a package index on this machine."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder / "index"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_index_without_network(folder: Path, index: str) -> None:
    here = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    assert "whose hash is not in the lock files" in install(folder, PIP_INDEX_URL=index, **here)
    gone = f"{index.rpartition(':')[0]}:9"
    said = install(folder, PIP_INDEX_URL=gone, **here)
    assert said.startswith("tiny==1.0: the package index cannot be reached; check network and proxy, or name ")


def test_pip_says_something_else(folder: Path) -> None:
    said = install(folder, PIP_NO_INDEX="1", PIP_CERT="/nowhere", PIP_TIMEOUT="soon")
    assert said.startswith("pip: ")
    assert said.endswith(f"; all that it said is in {Path('.venv', 'pip.log')}")
    assert (folder / ".venv" / "pip.log").stat().st_size > 0


def test_a_folder_that_cannot_hold_an_environment(folder: Path) -> None:
    (folder / "file").touch()
    ended = subprocess.run(
        [sys.executable, "locks/install.py", "file", "relay"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: file: no virtual environment can be made there: ")


def test_an_old_python_is_told_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    program = script("install")
    monkeypatch.setattr(program.sys, "version_info", (3, 10, 12))
    monkeypatch.setattr(program.platform, "python_version", lambda: "3.10.12")
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: Python 3.10.12 is too old: Sotto needs 3.11 or newer; name another one, as in PYTHON=python3.11\n"
    )
    # It gets that far: nothing in the file is newer than 3.7, and types are not evaluated.
    tree = ast.parse((LOCKS / "install.py").read_text(encoding="utf-8"), feature_version=(3, 7))
    for node in ast.walk(tree):
        for given in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            assert given is None or isinstance(given, ast.Constant)


def test_a_torch_that_does_not_fit_and_a_full_disk_are_explained() -> None:
    explain = script("install").explain
    assert "TORCH_INDEX" in explain("ERROR: Cannot install torch because these have conflicting dependencies.")
    assert "disk is full" in explain("ERROR: Could not install packages: [Errno 28] No space left on device")
    assert explain("Collecting tiny\n") is None
