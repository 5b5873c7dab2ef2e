"""Helpers: two machines and a cable, made up: network namespaces of Linux."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PORT = 29500


@dataclass(frozen=True)
class Machine:
    name: str
    address: str
    interface: str

    def start(self, number: int, meet: str, *command: str, cwd: Path) -> subprocess.Popen[str]:
        """One process by torchrun here, which meets that of the other machine at an address."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run",
             "--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1",
             "--master-addr", meet, "--master-port", str(PORT), *command],
            cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "GLOO_SOCKET_IFNAME": self.interface},
        )  # fmt: skip


@contextmanager
def networked() -> Iterator[list[Machine]]:
    """Two machines on one network; the test is skipped where none can be made."""
    own = os.getpid()
    machines = [Machine(f"mentee-{own}-{n}", f"10.11.12.{n + 1}", f"me{own}-{n}") for n in range(2)]
    one, other = machines
    with ExitStack() as made:
        for machine in machines:
            run("netns", "add", machine.name)
            made.callback(run, "netns", "del", machine.name)
        run("link", "add", one.interface, "netns", one.name, "type", "veth", "peer", "name",
            other.interface, "netns", other.name)  # fmt: skip
        for machine in machines:
            inside = ("-n", machine.name)
            run(*inside, "addr", "add", f"{machine.address}/24", "dev", machine.interface)
            run(*inside, "link", "set", machine.interface, "up")
            run(*inside, "link", "set", "lo", "up")
        yield machines


def run(*command: str) -> None:
    try:
        done = subprocess.run(["ip", *command], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no ip command")
    if done.returncode:
        pytest.skip(f"ip {' '.join(command)}: {done.stderr.strip()}")
