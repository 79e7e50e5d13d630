"""Measure the server's peak memory with 10, 100 and 1,000 organizations that each send an update of 50 MB.

    python benchmarks/server_memory.py [--senders N …] [--megabytes N] [--no-screen] [--folder DIR]

Each number of senders is measured in a separate process, which runs one round in the round loop of a real run. The
result is the largest resident set size. Senders generate their update on request, so that none is kept; one update
at a time is included in the result, equally in every row. With the screen, the default of a plan, all updates of a
round stay on disk: 1,000 of 50 MB need 50 GB in DIR, which are removed at the end. Without it an update is added
and deleted as soon as it arrives.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A and B of one layer: 16 × 8,192 numbers each, 1 MiB together.
_RANK, _WIDTH = 16, 8192


def one(senders: int, layers: int, screen: bool, folder: Path) -> None:
    """Run one round in this process; print the measurement as JSON."""
    import numpy as np

    from common.adapter.adapter import to_bytes
    from common.errors import Refused
    from common.plan.aggregation import Aggregation
    from common.plan.lora import Lora
    from common.plan.plan import Federation, Model, Plan, Privacy, Training
    from common.protocol.protocol import Description, Release, TrainRequest
    from common.protocol.statement import Statement
    from server.rounds.rounds import run_rounds
    from server.run_directory.run_directory import RunDirectory, RunInfo
    from server.tracking.observer import Observer
    from simulations.local_grid import LocalGrid

    names = [f"layer-{layer:03d}.lora" for layer in range(layers)]
    shapes: dict[str, tuple[int, ...]] = {f"{name}_A.weight": (_RANK, _WIDTH) for name in names}
    shapes |= {f"{name}_B.weight": (_WIDTH, _RANK) for name in names}
    noise = np.random.default_rng(0).normal(0, 1e-3, _RANK * _WIDTH).astype(np.float32)

    class Sender:
        """Answers with noise that starts at a different offset for each tensor and sender."""

        def __init__(self, number: int) -> None:
            self._number = number

        def describe(self) -> Description:
            return Description(f"org-{self._number:05d}", "example", 1000)

        def train(self, _: TrainRequest) -> Release:
            update = {
                name: np.roll(noise, 31 * self._number + 7 * place).reshape(shape)
                for place, (name, shape) in enumerate(shapes.items())
            }
            return Release(to_bytes(update))

        def statement(self, run: str) -> Statement:
            raise Refused("malformed-request", run)

    plan = Plan(
        name="memory",
        model=Model(base="base"),
        lora=Lora(rank=_RANK),
        training=Training(rounds=1, batch_size=8),
        federation=Federation(min_organizations=senders, round_timeout=1e5),
        aggregation=Aggregation(method="fedavg", screen=screen),
        privacy=Privacy(epsilon=8.0, delta=1e-5),
    )
    info = RunInfo("memory-2026-01-01-00000000", plan.digest(), "base", "ab" * 32, shapes, private=True)
    start = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    directory = RunDirectory.create(folder / "run", info, plan, start)
    begin = time.monotonic()
    grid = LocalGrid({number: Sender(number) for number in range(1, senders + 1)})
    run_rounds(grid, directory, None, Observer())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = directory.rounds()[1:]
    assert len(line.organizations["answered"]) == senders
    print(json.dumps({"peak": peak, "seconds": time.monotonic() - begin, "sent": line.bytes_up / senders / 1e6}))


def main() -> None:
    """Measure each number of senders, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--senders", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--no-screen", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.senders[0], options.megabytes, not options.no_screen, options.folder)
        return
    needed = 0 if options.no_screen else max(options.senders) * options.megabytes * 2**20
    free = shutil.disk_usage(options.folder).free
    if free < 1.2 * needed:
        sys.exit(
            f"{options.folder}: {free / 1e9:.0f} GB are free, {needed / 1e9:.0f} GB are needed; see --no-screen"
        )
    print("| organizations | MB from each | peak memory of the server, MB | seconds |")
    print("|---|---|---|---|")
    for senders in options.senders:
        with tempfile.TemporaryDirectory(prefix="sotto-memory-", dir=options.folder) as folder:
            # Run as a module, so that packages are importable from any working directory.
            arguments = ["--one", "--senders", str(senders), "--megabytes", str(options.megabytes)]
            arguments += ["--folder", folder, *(["--no-screen"] if options.no_screen else [])]
            command = [sys.executable, __file__, *arguments]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        got = json.loads(done.stdout.splitlines()[-1])
        print(f"| {senders} | {got['sent']:.1f} | {got['peak']:.0f} | {got['seconds']:.0f} |", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
