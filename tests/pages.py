"""Helpers: what the pages say, block by block, and their commands run as one would type them."""

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from projects import REPOSITORY

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NEEDS = "# needs "  # how a command says why no test runs it: see CONTRIBUTING.md


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. line: the number of its first line."""

    page: Path
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """The commands of a console block that do not say what they need.

        Where some lines begin with a prompt, the others are what was printed. A mark at the end of
        a command is about that command, one in a line of its own about all that follow.
        """
        lines = self.text.splitlines()
        prompted = any(line.startswith("$ ") for line in lines)
        found = []
        for line in lines:
            if line.startswith(NEEDS):
                break
            is_command = line.startswith("$ ") if prompted else line and not line.startswith("#")
            if is_command and NEEDS not in line:
                found.append(line.removeprefix("$ "))
        return found


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of some languages, in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start(2)].count("\n") + 1, found[1], found[2])
        for found in FENCED.finditer(text)
        if found[1] in languages
    ]


def sections(page: Path) -> dict[str, str]:
    """What stands under each heading of the second level."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def run(lines: list[str], folder: Path, code: Path = REPOSITORY) -> None:
    """Run lines in one shell, with the package in `code`; the first that fails is shown."""
    script = "\n".join(["set -euo pipefail", *lines])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=os.environ | {"PYTHONPATH": str(code)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def shell_lines(block: Block, elsewhere: Iterable[str] = ()) -> list[str]:
    """What a shell is told to run a block; each command says its place before.

    elsewhere: how commands begin that are left out.
    """
    if block.language == "python":
        return [] if block.text.startswith(NEEDS) else [f"python - <<'END'\n{block.text}END"]
    told = []
    for command in block.commands():
        if command.startswith(tuple(elsewhere)):
            continue
        told += [f"echo '{block.page.name}, block of line {block.line}:'", command]
    return told


def apply(diff: str, root: Path) -> None:
    """Change files as a diff without line numbers says: every context must be there just once."""
    for part in re.split(r"^--- a/.*\n\+\+\+ b/", diff, flags=re.MULTILINE)[1:]:
        name, _, hunks = part.partition("\n")
        text = (root / name).read_text(encoding="utf-8")
        for hunk in hunks.split("@@\n")[1:]:
            lines = hunk.splitlines()
            before = "\n".join(line[1:] for line in lines if line[:1] != "+")
            after = "\n".join(line[1:] for line in lines if line[:1] != "-")
            assert text.count(before) == 1, f"{name} has this {text.count(before)} times:\n{before}"
            text = text.replace(before, after)
        (root / name).write_text(text, encoding="utf-8")
