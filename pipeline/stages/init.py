"""init: a folder of images -> a DVC project around it."""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import MenteeError
from pipeline.files import write_text, written_whole
from pipeline.folders import Listing, Problems, list_images, look_at_all
from pipeline.params import PARAMS_FILE, load_params
from pipeline.prepared import NO_LABEL
from pipeline.progress import say, warn
from pipeline.stages.choices import Choice, Found, by_class, choose, warnings

STAGES_FILE = Path("dvc.yaml")
# This repository's own files, which a wheel holds too: a project begins as a copy of them.
TEMPLATES = files("pipeline") / "project"
KEPT_BY_DVC = "# What DVC keeps"  # where the part of .gitignore begins that holds anywhere


def init(project: Path, images: Path, skip_broken: bool) -> None:
    """Write dvc.yaml, params.yaml and .gitignore for `images` to the folder `project`.

    A MenteeError where a project is there already, or a file is broken and not to be skipped.
    """
    for name in (PARAMS_FILE, STAGES_FILE):
        if (project / name).exists():
            raise MenteeError(f"{project / name} is there already: name another folder")
    if "\n" in seen_from(project, images):
        raise MenteeError(f"{images}: its path has a line break: rename that file or folder")
    kind = "folder" if images.is_dir() else "csv"
    listing = list_images(f"{kind}:{images}")
    inputs = inputs_of(project, images, listing)
    found = survey(listing, skip_broken)
    say(f"{images}: {found.labelled} images of {len(found.counts)} classes "
        f"({by_class(found.counts)}), {found.unlabelled} unlabelled")  # fmt: skip
    for line in warnings(found):
        warn(f"warning: {line}")
    choices = [
        Choice("data.source", f"{kind}:{seen_from(project, images)}", "your images"),
        Choice("data.skip_broken", skip_broken, "files that cannot be read " + (
            "are named and left out" if skip_broken else "stop it")),
        *choose(found),
    ]  # fmt: skip
    for choice in choices:
        say(f"{choice.key}: {shown(choice.value)} ({choice.why})")

    project.mkdir(parents=True, exist_ok=True)
    start_repositories(project)  # takes longest: until it is done, init can be run again
    with written_whole(project / PARAMS_FILE) as partial:
        partial.write_text(fill_params(template("params.yaml"), choices), encoding="utf-8")
        load_params(partial)
    ignore(project, [seen_from(project, path) for path in inputs if path.is_dir()])
    seen = [seen_from(project, path) for path in inputs]
    write_text(project / STAGES_FILE, fill_stages(template("stages.yaml"), seen))
    commit(project)


def template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def survey(listing: Listing, skip_broken: bool) -> Found:
    """Read every image once; what is broken stops it, or is named and left out."""
    problems = Problems()
    counts = dict.fromkeys(listing.class_names, 0)
    unlabelled, sides = 0, []
    for sample, side in look_at_all(listing, problems, lambda picture: min(picture.size)):
        if sample.label == NO_LABEL:
            unlabelled += 1
        else:
            counts[listing.class_names[sample.label]] += 1
        sides.append(side)
    problems.settle(skip_broken)
    return Found(counts, unlabelled, tuple(sides))


def inputs_of(project: Path, images: Path, listing: Listing) -> list[Path]:
    """What DVC watches: the folder or the table, and the folders elsewhere that hold images."""
    if images.is_dir():  # of which DVC follows links to files alone
        links = (path for path in images.glob("[!.]*") if path.is_symlink() and path.is_dir())
        folders = {path.resolve() for path in links}
    else:
        here = (sample.path for sample in listing.samples if os.path.isfile(sample.path))
        folders = {path.resolve().parent for path in here}
    inputs = [images, *sorted(path for path in folders if not folders & set(path.parents))]
    for path in inputs:
        if path.is_dir() and project.resolve().is_relative_to(path.resolve()):
            raise MenteeError(
                f"{path} holds images and would hold the project {project}: put either into a "
                f"folder of its own"
            )
        for file in path.rglob("*"):
            if file.is_symlink() and not file.exists():
                raise MenteeError(f"{file} is a link to nothing: remove it, DVC cannot read it")
    return inputs


def seen_from(project: Path, path: Path) -> str:
    """Relative where the two lie side by side or within, as they move together; else absolute."""
    relative = Path(os.path.relpath(path.resolve(), project.resolve()))
    return (path.resolve() if relative.parts[:2] == ("..", "..") else relative).as_posix()


def shown(value: Any) -> str:
    """A value as YAML spells it."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = True, 4096
    yaml.dump(value, text)
    return text.getvalue().removesuffix("...\n").strip()


def params_yaml() -> YAML:
    """A reader and writer that keeps comments, order and the look of params.yaml."""
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def fill_params(text: str, choices: list[Choice]) -> str:
    yaml = params_yaml()
    content = yaml.load(text)
    for choice in choices:
        *blocks, key = choice.key.split(".")
        block = content
        for name in blocks:
            block = block[name]
        if isinstance(choice.value, list):  # in the flow style of the list that is there
            block[key][:] = choice.value
        else:
            block[key] = choice.value
    filled = io.StringIO()
    yaml.dump(content, filled)
    return filled.getvalue()


def fill_stages(text: str, inputs: list[str]) -> str:
    """Our own dvc.yaml with the images' paths, and without the code, which is installed."""
    code = "|".join(re.findall(r"- &(\w+) pipeline/", text))
    text = re.sub(rf"^ +- ((&\w+ )?pipeline/.*|\*({code}))\n", "", text, flags=re.M)
    escaped = (path.replace("${", r"\${") for path in inputs)  # DVC would fill it in
    quoted = "".join(f"      - {shown(path)}\n" for path in escaped)
    head = "    cmd: mentee prepare\n    deps:\n"
    text = text.replace(head, head + quoted)
    return re.sub(r"^    deps:\n(?!      )", "", text, flags=re.M)


def ignore(project: Path, folders: list[str]) -> None:
    """What DVC keeps is not git's, nor are images inside the project."""
    own = template("gitignore")
    lines = ["/.venv/", "/.work/", *own[own.index(KEPT_BY_DVC) :].splitlines()]
    lines += [f"/{folder}/" for folder in folders if not folder.startswith(("/", ".."))]
    path = project / ".gitignore"
    there = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    write_text(path, "\n".join([*there, *(line for line in lines if line not in there)]) + "\n")


def start_repositories(project: Path) -> None:
    """A git and a DVC repository, each only where the project lies in none."""
    if not asks_git(project, "rev-parse", "--git-dir"):
        run(project, "git", "init", "--quiet")
    dvc = (sys.executable, "-m", "dvc")
    root = subprocess.run((*dvc, "root"), cwd=project, capture_output=True, text=True)
    if root.returncode:
        subfolder = asks_git(project, "rev-parse", "--show-prefix")
        ours = not (project / ".dvc").exists()  # or DVC could not read it
        try:
            run(project, *dvc, "init", "--quiet", *(["--subdir"] if subfolder else []))
            write_text(project / ".dvc/config", template("dvc-config"))
        except BaseException:  # Ctrl-C too: half of it would pass for a repository of the user's
            if ours:
                shutil.rmtree(project / ".dvc", ignore_errors=True)
            raise
    plots = project / (root.stdout.strip() or ".") / ".dvc/plots/networks.json"
    if not plots.exists():
        write_text(plots, template("networks.json"))


def commit(project: Path) -> None:
    """The first commit of a new repository, which training asks for; else it is the user's."""
    enter = f"cd {shlex.quote(str(project))}"
    then = f"{enter} && dvc repro"
    if asks_git(project, "rev-parse", "--verify", "--quiet", "HEAD"):
        say(f"{project} is ready: commit its files when you like, then: {then}")
        return
    names = (PARAMS_FILE, STAGES_FILE, ".gitignore", ".dvc", ".dvcignore")
    run(project, "git", "add", *map(str, names))
    done = subprocess.run(
        ("git", "commit", "--quiet", "-m", "A Mentee project"), cwd=project, capture_output=True
    )
    if done.returncode:  # git does not know whose name to write
        then = f"{enter} && git commit -m 'A Mentee project' && dvc repro"
    say(f"{project} is ready: {then}")


def asks_git(project: Path, *arguments: str) -> str:
    """What git answers, or nothing where it refuses."""
    done = subprocess.run(("git", *arguments), cwd=project, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def run(project: Path, *command: str) -> None:
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or f"ended with {done.returncode}").splitlines()[-1]
        raise MenteeError(f"{' '.join(command)} in {project}: {said}")
