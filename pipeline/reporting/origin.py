"""Where a page comes from: revision, locked data and versions, as far as this folder tells.

No stage depends on these: they change with every commit, the results do not.
"""

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from pipeline.files import digest_file

LOCK = Path("dvc.lock")
LIBRARIES = ("torch", "numpy")


@dataclass(frozen=True)
class Origin:
    """revision: of git, and whether files differ from it; lock: SHA-256 of dvc.lock; None: none."""

    revision: str | None
    changed: bool
    lock: str | None
    versions: dict[str, str]


def find_origin() -> Origin:
    # dvc.lock changes while the stages run, and is told by its digest.
    changes = _git("status", "--porcelain", "--", ".", f":!{LOCK}")
    return Origin(
        revision=_git("rev-parse", "HEAD"),
        changed=bool(changes),
        lock=digest_file(LOCK) if LOCK.exists() else None,
        versions={"Python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES},
    )


def _git(*arguments: str) -> str | None:
    """What git says, or None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(("git", *arguments), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
