"""What the pages say is true: their commands run, their links lead somewhere, the site is built."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import click
import pytest
from pages import PAGES, Block, blocks, prose, run, sections, shell_lines
from PIL import Image
from projects import REPOSITORY, shell
from sklearn.datasets import load_digits

from pipeline.cli import main

# Commands that are not run here, by how they begin: who runs them, or what they need. A page's own
# marks say the same where nothing else does.
ELSEWHERE = {
    "sharing.md": {"": "test_sharing.py"},
    "extending.md": {"": "test_extending.py"},
    "results.md": {"python benchmarks/": "hours"},
    "benchmarks.md": {"python benchmarks/": "hours, alone", "pip install": "a network"},
    "scaling.md": {
        "torchrun ": "eight processes; two run in test_ranks_dump.py and test_data_parallel.py",
        "dvc exp ": "test_queue.py",
        "dvc queue ": "test_queue.py",
    },
}


def lines_of(page: Path) -> list[str]:
    """What a shell is told to run a page."""
    elsewhere = ELSEWHERE.get(page.name, {})
    console = [block for block in blocks(page, "console") if shell_lines(block, elsewhere)]
    told = blocks(page, "console", "python") if console else []
    return [line for block in told for line in shell_lines(block, elsewhere)]


HERE = [page for page in PAGES if lines_of(page)]


@pytest.fixture(scope="module")
def place(finished: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project, and beside its files the images that the pages speak of."""
    folder = tmp_path_factory.mktemp("pages") / "project"
    shutil.copytree(finished[0], folder, symlinks=True)
    digits = load_digits()
    for number, image in enumerate(digits.images[:60]):
        picture = Image.fromarray((image * 15).astype("uint8"))
        kind = "defective" if digits.target[number] % 2 else "functional"
        for path in (f"path/to/images/{kind}/{number}.png", f"cells/images/cell{number:04}.png",
                     f"more-photos/{number}.png", "photo.jpg"):  # fmt: skip
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / path)
    rows = [f"images/cell{n:04}.png,{('functional', 'defective')[n % 2]}" for n in range(60)]
    (folder / "cells/labels.csv").write_text("\n".join(["path,label", *rows]))
    return folder


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("# why\nmake demo  # needs a network\nmentee report  # the page\n",
         ["mentee report  # the page"]),
        ("mentee report\n# needs a GPU: it is slow\nmentee dump\nmentee head\n", ["mentee report"]),
        ("$ mentee report\nreports/index.html\n# needs hours\n$ mentee dump\n", ["mentee report"]),
    ],
)  # fmt: skip
def test_all_commands_of_a_block_are_run_but_those_that_say_what_they_need(
    text: str, commands: list[str]
) -> None:
    assert Block(Path("page.md"), 1, "console", text).commands() == commands


def test_a_command_that_fails_stops_a_page(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="block of line 7"):
        run(shell_lines(Block(Path("page.md"), 7, "console", "false\ntrue\n")), tmp_path)


@pytest.mark.parametrize("page", HERE, ids=lambda page: page.name)
def test_a_pages_commands_run_as_they_stand(
    page: Path, place: Path, finished: tuple[Path, set[str]]
) -> None:
    """What `mentee init` begins is at once replaced by a project that DVC finds finished."""
    lines = []
    for line in lines_of(page):
        lines.append(line)
        if begun := re.match(r"mentee init (\S+)", line):
            lines.append(f"rm -rf {begun[1]} && cp -a {finished[0]} {begun[1]}")
            lines.append(f"cp -r photo.jpg more-photos {begun[1]}")
    run(lines, place)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_who_is_said_to_run_a_pages_commands_is_there(name: str) -> None:
    for file in re.findall(r"\w+\.py", " ".join(ELSEWHERE[name].values())):
        assert list((REPOSITORY / "tests").rglob(file)), f"{file} is gone"


def test_every_section_of_sharing_that_has_commands_is_run_by_its_own_tests() -> None:
    tests = (REPOSITORY / "tests/test_sharing.py").read_text()
    for title, text in sections(REPOSITORY / "docs/sharing.md").items():
        assert "```console" not in text or f'"{title}"' in tests, title


def named_commands(page: Path) -> list[list[str]]:
    """All that a page says of `mentee`, in blocks or in a sentence, as words."""
    code = [line.removeprefix("$ ") for block in blocks(page, "console")
            for line in block.text.splitlines()]  # fmt: skip
    code += re.findall(r"`([^`\n]+)`", prose(page))
    found = []
    for text in code:
        for part in re.split(r"&&|[|;#]", text.replace("-m pipeline ", "; mentee ")):
            words = part.split()
            if words[:1] == ["mentee"] and "COMMAND" not in words:  # that stands for any
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    for words in named_commands(page):
        said, command = f"mentee {shlex.join(words)}", main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, said
            command = command.commands[words[0]]
            words = words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            option = word.strip("[]").partition("=")[0]
            assert not option.startswith("-") or option in known | {"--help"}, said


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and the site make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize(
    "page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_every_link_and_picture_of_a_page_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not re.match(r"https?://|mailto:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path) if path else page
            assert target.exists(), link
            headings = re.findall(r"^#+ (.+)$", prose(target), re.MULTILINE) if anchor else []
            assert not anchor or anchor in map(slug, headings), link


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    pytest.importorskip("mkdocs")
    done = shell(sys.executable, "-m", "mkdocs", "build", "--strict",
                 "--site-dir", str(tmp_path), cwd=REPOSITORY)  # fmt: skip
    assert done.returncode == 0, done.stdout
    pages = list(tmp_path.glob("*.html"))
    assert len(pages) > 10
    loads = r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
    for page in pages:
        assert re.findall(loads, page.read_text(encoding="utf-8")) == []
