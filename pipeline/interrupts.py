"""Ctrl-C that Python would drop."""

import _thread
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupts_heard() -> Iterator[None]:
    """Ctrl-C ends a command also where Python drops it: in callbacks of C code, as in h5py."""
    before = sys.unraisablehook

    def hear(dropped: Any) -> None:
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(interrupt_again, ())
        else:
            before(dropped)

    def interrupt_again() -> None:
        time.sleep(0.01)  # in the callback it would be dropped again
        if sys.unraisablehook is hear:
            _thread.interrupt_main()

    sys.unraisablehook = hear
    try:
        yield
    finally:
        sys.unraisablehook = before
