"""Measure the CPU time of an idle federation, for each type of process, in % of one core.

    .venv/bin/python benchmarks/idle.py [--organizations 3] [--seconds 60] [--insecure] [--json]

Real processes as `sotto` starts them, on loopback: a server with TLS and node keys (without them with
`--insecure`), and for each organization a vault and a relay. There is no run. They are measured with all their
descendants, after each has finished its first poll. The vaults are shown, but in no sum: their idle cost does not
depend on the network side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import psutil
import tomli_w

sys.path.insert(1, str(Path(__file__).parent))

from round_overhead import BASE, QUIET, running, wait_for

from client.admin.keys import make_keys
from common.system.network import free_port
from server.superlink.certificates import make_certificates

SERVER, RELAY_SIDE, VAULT = "server", "relay side", "vault"
SETTLE_SECONDS = 20.0
SOTTO = [sys.executable, "-P", "-m", "sotto"]

# The first entry whose words are all in a process's command line is its type.
KINDS = [
    (("flower-superlink",), SERVER, "SuperLink"),
    (("flower-superexec",), SERVER, "SuperExec"),
    (("server.superlink.superexec",), SERVER, "SuperExec"),
    (("server.superlink.gateway",), SERVER, "gateway"),
    (("sotto", "server", "start"), SERVER, "sotto server start"),
    (("client.relay.runtime", "supernode"), RELAY_SIDE, "SuperNode"),
    (("client.relay.runtime", "relay"), RELAY_SIDE, "relay"),
    (("sotto", "supernode", "start"), RELAY_SIDE, "sotto supernode start"),
    (("sotto", "vault", "start"), VAULT, "sotto vault start"),
]


def kind_of(process: psutil.Process) -> tuple[str, str]:
    """The side that a process belongs to, and its type."""
    words = {Path(word).name for word in process.cmdline()}
    for marks, side, name in KINDS:
        if words.issuperset(marks):
            return side, name
    return "other", " ".join(sorted(words))


def write_organization(folder: Path, name: str, address: str, insecure: bool) -> Path:
    """Write an organization's folder: a few records, its keys and its two files."""
    home = folder / name
    home.mkdir()
    records = "".join(json.dumps({"text": f"letter number {n}"}) + "\n" for n in range(64))
    (home / "records.jsonl").write_text(records, encoding="utf-8")
    organization = {
        "name": name,
        "data": {"train": "records.jsonl", "public_size": 64},
        "models": {str(BASE): str(BASE)},
        "policy": {
            "max_epsilon": 8.0,
            "max_epsilon_per_run": 8.0,
            "max_delta": 1e-5,
            "plans": "any-within-policy",
        },
    }
    make_keys(home / "keys", name)
    (home / "organization.toml").write_text(tomli_w.dumps(organization), encoding="utf-8")
    relay = {"name": name, "server": address, "insecure": insecure, "ca": str(folder / "certs" / "ca.pem")}
    (home / "relay.toml").write_text(tomli_w.dumps(relay), encoding="utf-8")
    return home


def start(stack: ExitStack, folder: Path, organizations: int, insecure: bool) -> None:
    """Start a server and organizations, and wait until they are connected."""
    address = f"127.0.0.1:{free_port()}"
    settings = {"address": address, "superlink": f"127.0.0.1:{free_port()}", "insecure": insecure}
    server = folder / "server.toml"
    server.write_text(tomli_w.dumps(settings), encoding="utf-8")
    make_certificates(folder / "certs", ["127.0.0.1"])
    stack.enter_context(running([*SOTTO, "server", "start", str(server)], QUIET, folder / "server.log"))
    wait_for("is ready", folder / "server.log")
    homes = [write_organization(folder, f"org-{n}", address, insecure) for n in range(organizations)]
    for home in homes:
        keys = [str(home / "keys" / key) for key in ("node.pub", "statement.pub")]
        register = [*SOTTO, "server", "register", home.name, *keys, "--server", str(server)]
        subprocess.run(register, env=QUIET, check=True, stdout=subprocess.DEVNULL)
        for side, file, said in (("vault", "organization", "answers"), ("supernode", "relay", "relays between")):
            log = home / f"{side}.log"
            command = [*SOTTO, side, "start", str(home / f"{file}.toml")]
            stack.enter_context(running(command, QUIET, log))
            wait_for(said, log)


def measure(seconds: float) -> dict[tuple[str, str], tuple[int, float]]:
    """For each type of descendant process: their number, and their total % of a core."""

    def spent(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)

    processes = psutil.Process().children(recursive=True)
    begin, before = time.monotonic(), {process: spent(process) for process in processes}
    time.sleep(seconds)
    found: dict[tuple[str, str], tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for process in processes:
        # If a process ended meanwhile, the measurement is not valid: this raises.
        share = 100 * (spent(process) - before[process]) / (time.monotonic() - begin)
        count, total = found[kind_of(process)]
        found[kind_of(process)] = count + 1, total + share
    return dict(found)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--organizations", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hold", action="store_true", help="keep them running until Enter, for inspection")
    arguments = parser.parse_args()
    # A socket's path must be short, like that of the system's temporary folder.
    with tempfile.TemporaryDirectory(prefix="idle-") as folder, ExitStack() as stack:
        start(stack, Path(folder), arguments.organizations, arguments.insecure)
        time.sleep(SETTLE_SECONDS)
        found = measure(arguments.seconds)
        if arguments.hold:
            print(f"process {os.getpid()}, files in {folder}", file=sys.stderr)
            input()
    sides = {
        side: sum(total for (of, _), (_, total) in found.items() if of == side) for side in (SERVER, RELAY_SIDE)
    }
    totals = {"server": sides[SERVER], "one relay side": sides[RELAY_SIDE] / arguments.organizations}
    rows = sorted((side, name, count, total) for (side, name), (count, total) in found.items())
    if arguments.json:
        columns = ("side", "process", "count", "percent")
        processes = [dict(zip(columns, row, strict=True)) for row in rows]
        print(json.dumps({"organizations": arguments.organizations, "processes": processes, "totals": totals}))
        return
    print(f"{arguments.organizations} organizations, {arguments.seconds:g} s; % of one core")
    print(f"{'':12}{'':24}{'count':>6}{'all':>8}{'each':>8}")
    for side, name, count, total in rows:
        print(f"{side:12}{name:24}{count:6}{total:8.2f}{total / count:8.2f}")
    for name, total in totals.items():
        print(f"{name:36}{'':6}{total:8.2f}")


if __name__ == "__main__":
    main()
