"""Flower's runs on a SuperLink: submitting the app, stopping a run, and its state.

Uses the Control API in this process: Flower's command line takes 1.5 s of CPU time for each of these calls.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StopRunRequest
from flwr.supercore.fab import Fab

from common.errors import SottoError
from common.flower.fab import APP_FILES
from common.system.network import Address
from server.superlink.nodes import control_client
from server.superlink.settings import is_ready


class FlowerRuns:
    """The runs of a SuperLink.

    Args:
        address: of the SuperLink.
    """

    def __init__(self, address: Address) -> None:
        self._address = address

    def submit(self, run_directory: Path) -> str:
        """Start a Flower run for the rounds of a run directory.

        Returns:
            Flower's id of the run; a resumed run gets a new one.

        Raises:
            SottoError: the SuperLink does not answer, or rejects the run.
        """
        app, _ = build_fab_from_files(APP_FILES)
        request = StartRunRequest(
            fab=fab_to_proto(Fab(sha256(app).hexdigest(), app, {})),
            override_config=user_config_to_proto({"run-directory": str(run_directory)}),
        )
        with control_client(self._address) as client:
            answer = client.StartRun(request)
        if not answer.HasField("run_id"):
            raise SottoError(f"the SuperLink does not start the run: {answer.note or 'it gives no reason'}")
        return str(answer.run_id)

    def stop(self, run: str) -> None:
        """Stop a run, even if its ServerApp has died. Does nothing if the SuperLink is down: its runs have ended.

        Args:
            run: Flower's id; empty for a run that was never submitted.

        Raises:
            SottoError: the SuperLink does not stop the run; it may have ended.
        """
        if run and is_ready(self._address):
            with control_client(self._address) as client:
                client.StopRun(StopRunRequest(run_id=int(run)))

    def state(self, run: str) -> tuple[str, str]:
        """Return Flower's status of a run, such as "running" or "finished:failed", and its details.

        Raises:
            SottoError: the SuperLink does not answer, or does not know the run.
        """
        with control_client(self._address) as client:
            runs = client.ListRuns(ListRunsRequest(run_id=int(run))).run_dict
        if int(run) not in runs:
            raise SottoError(f"the SuperLink does not know the run {run}")
        status = runs[int(run)].status
        return ":".join(filter(None, (status.status, status.sub_status))), status.details
