"""The examples of docs/extending.md, made in a copy of the code as the page says, and run."""

import shutil
from pathlib import Path

import pytest
from pages import apply, blocks, run, sections, shell_lines
from PIL import Image
from projects import REPOSITORY, edit_params
from ruamel.yaml import YAML

PAGE = REPOSITORY / "docs/extending.md"


@pytest.mark.parametrize("title", sections(PAGE))
def test_an_example_of_the_page_works(title: str, project: Path, tmp_path: Path) -> None:
    section = tmp_path / PAGE.name
    section.write_text(sections(PAGE)[title])
    Image.new("L", (8, 8)).save(project / "photo.jpg")
    shutil.rmtree(project / "students/obedient-plain-0")
    for block in blocks(section, "diff", "yaml", "python", "console"):
        if block.language == "diff":
            apply(block.text, project)
        elif block.language == "yaml":
            edit_params(project / "params.yaml", YAML(typ="safe").load(block.text))
        else:
            run(shell_lines(block), project, code=project)


@pytest.mark.parametrize("title", sections(PAGE))
def test_an_example_is_short(title: str, tmp_path: Path) -> None:
    section = tmp_path / PAGE.name
    section.write_text(sections(PAGE)[title])
    code = blocks(section, "diff", "python")
    lines = "".join(block.text for block in code).splitlines()
    written = [line for line in lines if line and not line.startswith(("---", "+++", "@@"))]
    assert 0 < len(written) < 30
