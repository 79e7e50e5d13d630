"""What users install, made as they make it: wheel and source archive, an environment per image, the images."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.federation.harness import Federation, Program, texts, wait_until
from tests.test_deploy import stages

pytestmark = pytest.mark.slow
IMAGES = {"vault": "build-vault", "supernode": "build-supernode", "coordinator": "build-coordinator"}


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run a program; what it printed, if it ended well."""
    # Nothing of the checkout may be found: what is installed has to do.
    names = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**names, **environment},
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
    return ended.stdout


def context(folder: Path) -> Path:
    """What .dockerignore lets into an image."""
    folder.mkdir()
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line.startswith("!"):
            source = ROOT / line[1:]
            if source.is_dir():
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder)
    return folder


def files(wheel: Path) -> dict[str, int]:
    """The files of a wheel, each with its checksum; not the list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist() if not one.filename.endswith("/RECORD")}


def test_wheel_and_source_archive_are_equal_and_run_the_demo_in_an_empty_environment(tmp_path: Path) -> None:
    source, dist = context(tmp_path / "source"), tmp_path / "dist"
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, dist, cwd=source)
    (archive,) = dist.glob("*.tar.gz")
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    run(*wheel, dist, source, cwd=tmp_path)
    run(*wheel, tmp_path / "again", archive, cwd=tmp_path)
    (made,), (again,) = dist.glob("*.whl"), (tmp_path / "again").glob("*.whl")
    assert files(made) == files(again)
    for path in ("simulations/demo/base/model.safetensors", "common/report/page.html", "client/check/socket.py"):
        assert path in files(made)
    with tarfile.open(archive) as inside:
        assert {"README.md", "LICENSE"} <= {name.partition("/")[2] for name in inside.getnames()}

    home = tmp_path / "environment"
    sets = ("server", "vault", "relay")
    run(sys.executable, ROOT / "locks" / "install.py", home, *sets, "--no-project", cwd=tmp_path)
    run(home / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-index", made, cwd=tmp_path)
    assert "No broken requirements" in run(home / "bin" / "python", "-m", "pip", "check", cwd=tmp_path)
    run(home / "bin" / "sotto", "simulate", "--out", tmp_path / "run", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    report = json.loads((tmp_path / "run" / "privacy" / "report.json").read_bytes())
    assert len(report["organizations"]) == 4
    assert all(one["epsilon"] <= 8.0 for one in report["organizations"])


class Image:
    """An environment made and used as the Dockerfile says, in folders of this machine.

    Args:
        part: the image's stage.
        folder: for what the image holds.
        elsewhere: paths of the image and what stands for them.
    """

    def __init__(self, part: str, folder: Path, elsewhere: dict[str, Path]) -> None:
        self.folder, self.elsewhere = folder, {"/opt/sotto": folder / "opt", **elsewhere}
        self.lines = stages()[part]
        built = [self.here(line) for line in stages()[IMAGES[part]]]
        (copied,) = [number for number, line in enumerate(built) if line == "COPY . ."]
        folder.mkdir()
        source = context(folder / "build")
        for line in built[copied + 1 :]:
            if line.startswith("RUN "):
                command = re.sub(r"^python ", f"{sys.executable} ", line.removeprefix("RUN "))
                run("sh", "-c", command, cwd=source, TORCH_INDEX="")
        shutil.rmtree(source)
        words = " ".join(line.removeprefix("ENV ") for line in self.lines if line.startswith("ENV "))
        self.environment = dict(word.split("=", 1) for word in shlex.split(self.here(words)))
        path = self.environment["PATH"].replace("$PATH", os.environ["PATH"])
        self.environment |= {"PATH": path, "PYTHONPATH": ""}

    def here(self, text: str) -> str:
        for path, stands in self.elsewhere.items():
            text = text.replace(path, str(stands))
        return text

    def words(self, instruction: str) -> list[str]:
        (line,) = (line for line in self.lines if re.match(rf"{instruction}\b", line))
        return [str(word) for word in json.loads(self.here(line[line.index("[") :]))]

    def program(self, name: str) -> str:
        found = shutil.which(name, path=self.environment["PATH"])
        assert found is not None
        assert Path(found).parent == self.folder / "opt" / "bin"
        return found

    def start(self) -> Program:
        """What the image runs."""
        entry, *words = [*self.words("ENTRYPOINT"), *self.words("CMD")]
        return self.call(self.program(entry), *words)

    def call(self, *command: object) -> Program:
        log = self.folder / f"{len(list(self.folder.glob('*.log')))}.log"
        return Program(command, log, **self.environment)

    def problem(self) -> str:
        """What the image's health check says; nothing where all is well."""
        name, *words = self.words("HEALTHCHECK")
        ended = self.call(self.program(name), *words)
        code = ended.wait()
        assert code == (1 if ended.text else 0), ended.text
        return ended.text.strip()

    def installed(self) -> set[str]:
        (site,) = (self.folder / "opt" / "lib").glob("python*/site-packages")
        return {str(one.metadata["Name"]).lower() for one in metadata.distributions(path=[str(site)])}


@pytest.fixture(scope="module")
def images(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Federation, dict[str, Image]]]:
    folder = tmp_path_factory.mktemp("i")
    with Federation(folder, tiny_base) as federation:
        home = federation.write_organization("a", texts(40))
        elsewhere = {
            "/etc/sotto/organization.toml": home / "organization.toml",
            "/etc/sotto/relay.toml": home / "relay.toml",
            "/etc/sotto/server.toml": folder / "server.toml",
            "/run/sotto/vault.sock": home / "vault.sock",
        }
        yield federation, {part: Image(part, folder / part, elsewhere) for part in IMAGES}


def test_each_images_environment_holds_its_part_alone(images: tuple[Federation, dict[str, Image]]) -> None:
    held = {part: image.installed() for part, image in images[1].items()}
    assert all("sotto" in names for names in held.values())
    assert "torch" in held["vault"] & held["coordinator"]
    assert "flwr" in held["supernode"] & held["coordinator"]
    assert not {"flwr", "httpx", "uvicorn", "pytest"} & held["vault"]
    assert not {"torch", "transformers", "opacus", "pytest"} & held["supernode"]
    for image in images[1].values():
        assert "No broken requirements" in run(image.program("python"), "-m", "pip", "check", cwd=image.folder)


def test_the_images_commands_and_health_checks_run_in_their_environments(
    images: tuple[Federation, dict[str, Image]], tmp_path: Path
) -> None:
    federation, parts = images
    socket = federation.folder / "a" / "vault.sock"
    assert parts["vault"].problem() == f"no vault answers at {socket}: UNAVAILABLE"
    assert parts["supernode"].problem() == "the relay is not running"
    assert parts["coordinator"].problem().startswith("no SuperLink answers at ")
    for part, said in {
        "coordinator": "is ready",
        "vault": "the vault answers",
        "supernode": "relays between",
    }.items():
        federation.programs[part] = parts[part].start().wait_for(said)
    wait_until(lambda: not any(image.problem() for image in parts.values()), "all parts are well")
    # What the coordinator runs by hand, with `docker compose exec`.
    words = federation.run_arguments(federation.write_plan(), tmp_path / "run")
    ended = parts["coordinator"].call(parts["coordinator"].program("sotto"), *words)
    assert ended.wait() == 0, ended.text
    for part in IMAGES:
        assert federation.programs[part].end() == 0


@pytest.mark.parametrize("part", IMAGES)
def test_an_image_is_built_and_starts(part: str) -> None:
    engine = shutil.which("docker")
    if engine is None or subprocess.run([engine, "info"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no container engine runs here: `docker info` fails")
    name = f"sotto-{part}:test"
    build = [engine, "build", "--file", ROOT / "deploy" / "Dockerfile", "--target", part, "--tag", name]
    run(*build, *("--build-arg", f"TORCH_INDEX={os.environ.get('TORCH_INDEX', '')}"), ".", cwd=ROOT)
    alone = [engine, "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"]
    assert "supernode" in run(*alone, name, "--help", cwd=ROOT)
    started = subprocess.run([*alone, name], capture_output=True, text=True, check=False)
    assert (started.returncode, started.stderr.count("\n")) == (2, 1)
    assert "there is no such file" in started.stderr
    (health,) = (line for line in stages()[part] if line.startswith("HEALTHCHECK"))
    program, *words = json.loads(health[health.index("[") :])
    checked = subprocess.run([*alone, "--entrypoint", program, name, *words], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr.count("\n")) == (1, 1)
