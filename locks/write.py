"""Write the lock files: `make lock`, or `make upgrade` for the newest versions that pyproject.toml allows.

uv resolves for every Python and machine at once, from metadata alone. A set of packages is an extra of
pyproject.toml; `dev` holds all of them and is resolved first, so that a package has one version in all files.
PyTorch and the CUDA libraries that only its wheels need go into torch.txt without hashes: each index has its own.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

LOCKS = Path(__file__).resolve().parent
PROJECT = LOCKS.parent / "pyproject.toml"
EVERYTHING = "dev"
SETS = (EVERYTHING, "server", "vault", "relay", "quantization", "anonymize")
TORCH = "torch.txt"
_OF_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
_HEADER = "# Written by `make lock` from pyproject.toml; not to be edited.\n"
_TORCH_HEADER = """\
# PyTorch, and the CUDA libraries of its ordinary wheels for Linux; other wheels bring others, or none. To move
# PyTorch, edit its line and run `make lock`, which writes the rest.
"""


def packages(text: str) -> list[str]:
    """The packages of a lock, each with the lines of its hashes."""
    return [one for one in re.split(r"(?m)^(?=[a-z0-9])", text) if re.match(r"[a-z0-9]", one)]


def without_hashes(package: str) -> str:
    """The line of a package alone."""
    return package.splitlines()[0].removesuffix("\\").strip() + "\n"


def resolve(requirements: list[str], constraints: list[str], known: list[str], upgrade: bool) -> list[str]:
    """The packages that some requirements need.

    Args:
        requirements: arguments of `uv pip compile`.
        constraints: packages whose versions are fixed.
        known: packages whose versions stay unless they no longer fit.
        upgrade: whether to take the newest versions instead.
    """
    with tempfile.TemporaryDirectory() as folder:
        fixed, out = Path(folder, "constraints.txt"), Path(folder, "lock.txt")
        fixed.write_text("".join(constraints), encoding="utf-8")
        out.write_text("".join(known), encoding="utf-8")
        command = [_uv(), "pip", "compile", "--quiet", *requirements, "--constraint", str(fixed)]
        command += ["--output-file", str(out), *(["--upgrade"] if upgrade else [])]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            sys.exit("error: nothing was written; uv has said above why the packages cannot be resolved")
        return packages(out.read_text(encoding="utf-8"))


def write(name: str, header: str, lines: list[str]) -> None:
    """Write a file of this folder."""
    (LOCKS / name).write_text(header + "".join(lines), encoding="utf-8")


def main() -> None:
    """Resolve all sets, then write all files."""
    parser = argparse.ArgumentParser(description="Write the lock files.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that are allowed")
    upgrade = parser.parse_args().upgrade
    cuda = packages((LOCKS / TORCH).read_text(encoding="utf-8"))
    torch = [one for one in cuda if one.startswith("torch==")]
    if len(torch) != 1:
        sys.exit(f"error: {LOCKS / TORCH}: has {len(torch)} lines of torch; it should have one, torch==VERSION")
    before = LOCKS / f"{EVERYTHING}.txt"
    known = packages(before.read_text(encoding="utf-8")) if before.exists() else []
    everything = resolve([str(PROJECT), "--extra", EVERYTHING], torch, known + cuda, upgrade)
    fixed = [without_hashes(one) for one in everything]
    made = {
        name: resolve([str(PROJECT), "--extra", name], fixed, [], upgrade=False)
        for name in SETS
        if name != EVERYTHING
    }
    for name, found in {EVERYTHING: everything, **made}.items():
        write(f"{name}.txt", _HEADER, [one for one in found if not _OF_TORCH.match(one)])
    # What builds the packages that come as source alone, and Sotto itself.
    write("build.txt", _HEADER, [one for one in everything if one.startswith("setuptools==")])
    of_torch = [without_hashes(one) for one in everything if _OF_TORCH.match(one)]
    write(TORCH, _TORCH_HEADER, sorted(of_torch, key=lambda one: not one.startswith("torch==")))


def _uv() -> str:
    """The uv of this environment, not another one of the machine."""
    found = shutil.which("uv", path=sysconfig.get_path("scripts"))
    if found is None:
        sys.exit("error: uv is not installed beside this Python; run: make lock")
    return found


if __name__ == "__main__":
    main()
