"""Flower's command line towards one SuperLink: submit the app, stop a run, ask how a run ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w

from common.errors import SottoError
from common.fab import write_app
from common.network import Address
from common.processes import FLOWER_ENVIRONMENT
from server.superlink import is_ready

_SECONDS = 120.0


class Flower:
    """Runs `flwr` with a home of its own.

    Args:
        address: of the SuperLink.
        folder: an empty folder for the home and the app.
    """

    def __init__(self, address: Address, folder: Path) -> None:
        self._environment = {**os.environ, **FLOWER_ENVIRONMENT, "FLWR_HOME": str(folder)}
        connection = {"address": str(address), "insecure": True}
        (folder / "config.toml").write_text(
            tomli_w.dumps({"superlink": {"default": "sotto", "sotto": connection}}), encoding="utf-8"
        )
        self._address = address
        self._folder = folder
        self._app = write_app(folder)

    def submit(self, run_directory: Path) -> str:
        """Start the rounds of a run directory.

        Returns:
            Flower's id of the run; a resumed run gets a new one.
        """
        # In a file: on its command line Flower would take some characters of a path for its own.
        config = self._folder / "run.toml"
        config.write_text(tomli_w.dumps({"run-directory": str(run_directory)}), encoding="utf-8")
        answer = self._call("run", str(self._app), "sotto", "--run-config", str(config))
        return str(answer["run-id"])

    def stop(self, run: str) -> None:
        """Stop a run, also one whose ServerApp died. If the SuperLink is gone, its runs are over anyway."""
        if is_ready(self._address):
            self._call("stop", run, "sotto")

    def state(self, run: str) -> tuple[str, str]:
        """Flower's status of a run, for instance "running" or "finished:failed", and the details that it gives."""
        (values,) = self._call("list", "sotto", "--run-id", run)["runs"]
        return str(values["status"]), str(values.get("status-details", ""))

    def _call(self, *arguments: str) -> dict[str, Any]:
        program = str(Path(sys.executable).parent / "flwr")
        done = subprocess.run(  # noqa: S603
            [program, *arguments, "--format", "json"],
            env=self._environment,
            cwd=self._app,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        try:
            answer: dict[str, Any] = json.loads(done.stdout)
            if not answer["success"]:
                raise SottoError(f"flwr {arguments[0]}: {answer.get('error-message', 'failed')}")
        except (ValueError, KeyError, TypeError):
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise SottoError(f"flwr {arguments[0]}: {lines[-1] if lines else 'failed'}") from None
        return answer
