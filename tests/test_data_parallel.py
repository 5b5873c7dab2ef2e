"""A student trained by several processes is the one that a single process trains.

Real torchrun, gloo on the CPU, scikit-learn's digits and the cache of a small teacher with random
weights.
"""

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killing import prepare_small, set_params
from machines import Machine, networked
from projects import refusal
from stage_one import enter_copy, run_stage_one
from torchrun import ranks_of, started, torchrun, until

from pipeline.checkpoints import FOLDER, STATE
from pipeline.data_parallel import refuse_too_many
from pipeline.mentoring.distances import DISTANCES
from pipeline.mentoring.losses import SOFT_TARGET_DISTANCES
from pipeline.params import Params, load_params
from pipeline.ranks import Ranks
from pipeline.results import read_curve
from pipeline.students import WEIGHTS_FILE, load_student
from pipeline.variants import Variant

SMALL: dict[str, Any] = {
    "data": {"labelled_per_class": 4, "unlabelled": 30, "validation": 21, "test": 20},
    "cache": {"rows_per_shard": 30},
    "head": {"inverse_regularisation": [0.01]},
    "student": {"width": 8, "input_size": 16},
    # A batch that two do not share evenly, and no Adam, which magnifies the rounding of what is
    # next to nothing.
    "training": {"steps": 4, "warmup": 0.5, "batch_size": 15, "validations": 4, "optimizer": "sgd",
                 "learning_rate": 0.01},
    "modes": {"tried": {"alpha": [[0, 0.5]], "beta": [[0, 1.0]], "gamma": [[0, 1.0]]}},
    "settings": {"mixed": {"unlabelled": 0.5}, "stopped": {"early_stopping": 2, "l1": 1.0e-4}},
}  # fmt: skip
MATCHES = {"channels": "projection", "grid": "none", "nothing": "none", "negatives": "none"}


def probes(*needs: str) -> dict[str, Any]:
    """A probe with every distance that needs one of these."""
    return {"probes": [
        {"teacher": "middle", "student": "conv4", "distance": name, "match": MATCHES[one.needs]}
        for name, one in DISTANCES.items() if one.needs in needs
    ]}  # fmt: skip


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "distances of channels": (probes("channels"), "mixed"),
    "distances of places and samples": (probes("grid", "nothing"), "mixed"),
    "contrast": (probes("negatives"), "mixed"),
    **{
        f"soft targets by {name}": ({"soft_targets": {"distance": name, "temperature": 3.0}}, mixed)
        for name, mixed in zip(SOFT_TARGET_DISTANCES, 5 * ["mixed"], strict=True)
    },
    "labels alone, with a penalty, stopped early": (
        {"modes": {"tried": {"alpha": [[0, 1.0]], "beta": [[0, 0.0]], "gamma": [[0, 0.0]]}}},
        "stopped",
    ),
    "the teacher's features first": (
        {"modes": {"tried": {"alpha": [[0, 0.0], [0.4, 0.0], [0.5, 1.0]],
                             "beta": [[0, 1.0], [0.4, 1.0], [0.5, 0.0]], "gamma": [[0, 0.0]]}},
         "training": {"optimizer": "adamw", "learning_rate": 1.0e-3}},
        "plain",
    ),
}  # fmt: skip


def small_params() -> Params:
    prepare_small(Path())
    set_params(Path(), **SMALL)
    return load_params()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), small_params)


@pytest.fixture(scope="module")
def compared(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By case: a student trained by two processes, and by one."""
    folder = tmp_path_factory.mktemp("compared")
    cases, answers = folder / "cases.json", folder / "answers.json"
    cases.write_text(json.dumps(CASES))
    script = Path(__file__).with_name("learn_in_ranks.py")
    done = torchrun(2, str(script), str(cases), str(answers), cwd=finished)
    assert done.returncode == 0, done.stdout
    assert "Warning" not in done.stdout
    return json.loads(answers.read_text())


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_trains(compared: dict[str, Any], case: str) -> None:
    """Up to rounding, which grows from step to step: a ReLU at 0 falls to the other side."""
    found = compared[case]
    for shared, alone in zip(found["shared"], found["alone"], strict=True):
        assert shared == pytest.approx(alone, rel=1e-3, abs=1e-6)
    (shared_norm, alone_norm), *_ = found["norms"]
    assert found["shared"][0] == pytest.approx(found["alone"][0], rel=1e-5, abs=1e-7)
    assert shared_norm == pytest.approx(alone_norm, rel=1e-4)
    assert found["apart"] < 0.01


def test_a_training_of_which_a_process_is_killed_goes_on_to_the_same_student(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun starts both again, and they begin where the last state was kept."""
    project = enter_copy(finished, tmp_path / "project", monkeypatch)
    longer = {"steps": 100, "validations": 20}
    set_params(project, **{**SMALL, "training": SMALL["training"] | longer})
    command = ("-m", "pipeline", "train", "tried", "--settings", "mixed")
    with started(2, "--max-restarts", "1", *command, cwd=project) as process:
        until((project / FOLDER / "tried-mixed-0" / STATE).exists)
        os.kill(ranks_of(process)[1], signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    (step,) = re.findall(r"going on after step (\d+)", output)
    assert 0 < int(step) < 100
    assert len(re.findall("validation accuracy", output)) == 1, "one tells the story"
    assert [path.name for path in Path("students").iterdir()] == ["tried-mixed-0"]
    assert not (FOLDER / "tried-mixed-0").exists()
    student, curve = Path("students/tried-mixed-0"), read_curve(Variant("tried", "mixed", 0))
    weights = (student / WEIGHTS_FILE).read_bytes()
    shutil.rmtree(student)
    assert torchrun(2, *command, cwd=project).returncode == 0
    assert (student / WEIGHTS_FILE).read_bytes() == weights
    assert read_curve(Variant("tried", "mixed", 0)) == curve


def test_two_machines_train_together(
    finished: Path, tmp_path: Path, two_machines: list[Machine]
) -> None:
    """Each has its own network and its own folder; only the caches and images are the same."""
    command = ("-m", "pipeline", "train", "tried", "--settings", "mixed")
    projects = [Path(shutil.copytree(finished, tmp_path / one.name)) for one in two_machines]
    running = [
        one.start(number, two_machines[0].address, *command, cwd=project)
        for number, (one, project) in enumerate(zip(two_machines, projects, strict=True))
    ]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    assert "2 processes" in outputs[0]
    assert "2 processes" not in outputs[1], "one tells the story"
    assert load_student(projects[0] / "students/tried-mixed-0")
    assert not (projects[1] / "students").exists(), "and keeps what comes of it"


@pytest.fixture
def two_machines() -> Iterator[list[Machine]]:
    with networked() as machines:
        yield machines


@pytest.mark.parametrize("block", ["training", "data"])
def test_more_processes_than_rows_are_refused(block: str) -> None:
    rows = {"training": (3, 9), "data": (9, 3)}[block]
    text = refusal(lambda: refuse_too_many(Ranks(0, 4), *rows))
    assert text.startswith(f"{block}.")
    assert "3 is too few for 4 processes: start at most 3" in text
    refuse_too_many(Ranks(0, 3), *rows)
