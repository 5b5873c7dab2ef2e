"""What other systems lack: no module of ours needs it to be there."""

import ast
from pathlib import Path

import pipeline

PACKAGE = Path(pipeline.__file__).parent
# Of the standard library, on Linux and macOS alone.
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def modules_imported(source: Path) -> set[str]:
    """The top names of all that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_nothing_imports_what_windows_does_not_have() -> None:
    needed = {path.name: modules_imported(path) & POSIX_ONLY for path in PACKAGE.rglob("*.py")}
    assert len(needed) > 90
    assert {name: modules for name, modules in needed.items() if modules} == {}
