"""How much memory this process may use."""

from pathlib import Path

import psutil

_GROUPS = Path("/sys/fs/cgroup")


def memory_bytes() -> int:
    """Physical memory, or what the control groups of a container or a batch job leave of it."""
    limits = [psutil.virtual_memory().total]
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:  # version 2
            limits += _limits(_GROUPS, path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(_GROUPS / "memory", path, "memory.limit_in_bytes")
    return min(limits)


def _limits(root: Path, path: str, name: str) -> list[int]:
    """The limits of a group and of every group around it; `max` is none."""
    group = root / path.lstrip("/")
    files = [folder / name for folder in (group, *group.parents) if folder.is_relative_to(root)]
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdecimal()]
