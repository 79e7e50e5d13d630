"""Install Sotto into a virtual environment, with the packages of the lock files and no others.

    python3 locks/install.py FOLDER SET...          sets: server, vault, relay, quantization, anonymize, dev

pip checks the hash of every package but PyTorch. That comes after the others, which hold all that it needs but
CUDA libraries, and from an index of its own if --torch-index names one.

An old Python must get as far as the line that says that it is too old: hence the quotes around types.
"""

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
SETS = ("server", "vault", "relay", "quantization", "anonymize", "dev")
WITHOUT_TORCH = ("relay", "anonymize")
OLDEST = (3, 11)
# Imports all that there is, and so makes its bytecode; what another set would bring may be missing.
IMPORT_ALL = """
import importlib, pkgutil
for name in ("client", "common", "server", "simulations"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        try:
            importlib.import_module(module.name)
        except ImportError:
            pass
"""
# pip tells of a broken connection only where it tries again.
RETRIES = ["--retries", "5"]
UNREACHABLE = re.compile("connection broken by|40[137] Client Error|5[0-9]{2} Server Error")


def explain(said: "str") -> "str | None":
    """What pip's output means, in one line; None if it is nothing that we know."""
    altered = re.search(r"DO NOT MATCH THE HASHES[\s\S]*?\n\s+([\w.-]+(?:==[\w.+!-]+)?)", said)
    if altered:
        return (
            f"{altered.group(1)}: the index gave a file whose hash is not in the lock files, and it was not "
            "installed; take another index with PIP_INDEX_URL, or empty pip's cache"
        )
    missing = re.search(r"No matching distribution found for ([^\s;]+)", said)
    what = missing.group(1) if missing else "a package"
    if UNREACHABLE.search(said):
        return (
            f"{what}: the package index cannot be reached; check network and proxy, or name another index with "
            "PIP_INDEX_URL, and run the same again"
        )
    if missing:
        where = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
        return (
            f"{what}: the index has no file of it for {where}; the lock files are for Python 3.11 to 3.13 on Linux"
            " and macOS, with an index that holds all of their packages"
        )
    if "ResolutionImpossible" in said or "conflicting dependencies" in said:
        return "this PyTorch needs other versions than the lock files hold; name another index with TORCH_INDEX"
    if "No space left on device" in said:
        return "the disk is full; make room, or set TORCH_INDEX to an index of PyTorch wheels for the CPU alone"
    return None


def fail(text: "str") -> "None":
    """End with one line."""
    sys.stderr.write("error: " + " ".join(text.split()) + "\n")
    sys.exit(2)


def pip(folder: "Path", arguments: "list[str]") -> "None":
    """Run the environment's pip; what it says is told only where it fails, in one line."""
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode == 0:
        return
    log = folder / "pip.log"
    log.write_text(ended.stdout, encoding="utf-8")
    errors = [line[len("ERROR: ") :] for line in ended.stdout.splitlines() if line.startswith("ERROR: ")]
    last = errors[-1] if errors else f"exit code {ended.returncode}"
    fail(explain(ended.stdout) or f"pip: {last}; all that it said is in {log}")


def make_environment(folder: "Path") -> "None":
    """Make the virtual environment unless there is one."""
    if (folder / "bin" / "python").exists():
        return
    command = [sys.executable, "-m", "venv", str(folder)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode != 0:
        said = ended.stdout.strip().splitlines() or ["it did not say why"]
        fail(f"{folder}: no virtual environment can be made there: {said[-1]}; on Debian, python3-venv is needed")


def pins(name: "str") -> "list[str]":
    """The packages of a lock file without their hashes."""
    lines = (LOCKS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.rstrip("\\ ") for line in lines if re.match("[a-z0-9]", line)]


def install_torch(folder: "Path", sets: "list[str]", index: "str", options: "list[str]") -> "None":
    """Install PyTorch beside the packages of those sets; none of them may move.

    Args:
        folder: the environment's.
        sets: what is installed already.
        index: of PyTorch wheels; empty for pip's own, whose CUDA libraries are those of the lock file.
        options: of pip.
    """
    torch, *cuda = pins("torch")
    fixed = [line for name in sets for line in pins(name)] + ([] if index else cuda)
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("\n".join(fixed) + "\n", encoding="utf-8")
        pip(folder, [*options, *(["--index-url", index] if index else []), "-c", str(constraints), torch])


def compile_used(folder: "Path") -> "None":
    """Make the bytecode of what Sotto imports: much less than all that is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [str(folder / "bin" / "python"), "-P", "-W", "ignore", "-c", IMPORT_ALL]
    # Bytecode only saves time: what is wrong here shows itself where it is used.
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def install(folder: "Path", sets: "list[str]", project: "list[str]", lean: "bool", torch_index: "str") -> "None":
    """Install the sets, and Sotto.

    Args:
        folder: the environment's, made if there is none.
        sets: names of lock files.
        project: pip's arguments that install Sotto; none if it is there already.
        lean: whether bytecode is made of what Sotto imports alone.
        torch_index: an index of PyTorch wheels, or nothing.
    """
    make_environment(folder)
    sys.stdout.write(f"installing {', '.join(sets)} into {folder}\n")
    sys.stdout.flush()
    options = ["--quiet", *RETRIES, *(["--no-compile"] if lean else [])]
    # What comes as source is built with the setuptools of the lock, too.
    built = ["--no-deps", "--no-build-isolation", "--use-pep517"]
    pip(folder, [*options, *built, "--require-hashes", "-r", str(LOCKS / "build.txt")])
    files = [word for name in sets for word in ("-r", str(LOCKS / f"{name}.txt"))]
    pip(folder, [*options, *built, "--require-hashes", *files])
    if not set(sets) <= set(WITHOUT_TORCH):
        install_torch(folder, sets, torch_index, options)
    if project:
        pip(folder, [*options, *built, *project])
    if lean:
        compile_used(folder)


def main() -> "None":
    """Read the command line."""
    if sys.version_info < OLDEST:
        found = platform.python_version()
        fail(f"Python {found} is too old: Sotto needs 3.11 or newer; name another one, as in PYTHON=python3.11")
    parser = argparse.ArgumentParser(description="Install Sotto with the packages of the lock files.")
    parser.add_argument("folder", type=Path, help="a virtual environment; made if missing")
    parser.add_argument("sets", nargs="+", choices=SETS, metavar="SET", help=", ".join(SETS))
    parser.add_argument("--editable", action="store_true", help="run Sotto from this folder, not from a copy")
    parser.add_argument("--no-project", action="store_true", help="the packages alone: Sotto is there already")
    parser.add_argument("--lean", action="store_true", help="make bytecode of what Sotto imports alone")
    parser.add_argument("--torch-index", default="", help="the address of an index of PyTorch wheels")
    given = parser.parse_args()
    where = str(LOCKS.parent)
    project = [] if given.no_project else ["--editable", where] if given.editable else [where]
    install(given.folder, given.sets, project, given.lean, given.torch_index)


if __name__ == "__main__":
    main()
