"""Ctrl-C ends a command wherever it falls."""

import sys

from projects import REPOSITORY, shell

DROPPED = """
import signal, time
from pipeline.cli import main

class Held:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

@main.command()
def wait():
    Held()
    for _ in range(60):
        time.sleep(0.1)

signal.signal(signal.SIGINT, signal.default_int_handler)
main(["wait"])
"""


def test_ctrl_c_that_python_drops_in_a_destructor_ends_the_command_all_the_same() -> None:
    """As it does in those of h5py: a merge said that it was interrupted, and went on."""
    done = shell(sys.executable, "-c", DROPPED, cwd=REPOSITORY)
    assert done.returncode == 130
    assert done.stdout == "error: interrupted; run it again, a dump goes on where it was\n"
