"""The DAG with real DVC, real git and the real stages: which edit runs what."""

import re
import shutil
from pathlib import Path

import pytest
from projects import REPOSITORY, edit_params, repro, shell, stages_run
from ruamel.yaml import YAML

# The whole run that these tests start from is made once, by one test process.
pytestmark = pytest.mark.xdist_group("whole run")

STUDENTS = {
    "labels@independent-plain-0",
    "logits@soft-plain-0",
    "features@obedient-plain-0",
    "unlabelled@obedient-unlabelled-0",
}
MENTORED = STUDENTS - {"labels@independent-plain-0"}
PROBING = MENTORED - {"logits@soft-plain-0"}


def stages_of(students: set[str]) -> set[str]:
    """What has to run when these students change."""
    stages = ("train", "evaluate", "examine")
    return {f"{stage}-{student}" for stage in stages for student in students} | {"report"}


def test_a_fresh_clone_runs_every_stage_once(finished: tuple[Path, set[str]]) -> None:
    _, ran = finished
    first = {"prepare", "finetune", "dump", "head", "evaluate-teacher", "targets"}
    assert ran == first | {"examine-teacher", "examine-untrained@0"} | stages_of(STUDENTS)


def test_a_second_repro_and_a_runtime_setting_run_nothing(project: Path) -> None:
    assert repro(project) == set()
    edit_params(project / "params.yaml", {"runtime": {"device": "cpu", "threads": 1}})
    assert repro(project) == set()


def test_compiled_modules_change_nothing_but_the_code_of_training_changes_every_student(
    project: Path,
) -> None:
    compiled = project / "pipeline/mentoring/__pycache__/losses.other-python.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"of another Python")
    assert "up to date" in shell("dvc", "status", cwd=project).stdout
    for code in ("lessons.py", "views.py", "mentoring/objective.py"):
        with open(project / "pipeline" / code, "a") as file:
            file.write("# changed\n")
        status = shell("dvc", "status", cwd=project).stdout
        for student in STUDENTS:
            assert f"train-{student}:" in status
        assert shell("git", "checkout", "pipeline", cwd=project).returncode == 0


def test_the_learning_rate_runs_students_only_and_a_sweep_trains_them_at_once(
    project: Path,
) -> None:
    edit_params(project / "params.yaml", {"training": {"learning_rate": 0.002}})
    done = shell("mentee", "sweep", "--jobs", "2", cwd=project)
    assert done.returncode == 0, done.stdout
    assert "4 students to train, 2 at a time" in done.stdout
    assert done.stdout.count("going on after step 12") == 4, "DVC finds all of them trained"
    # The untrained one's layers may be kept and the others trained.
    assert stages_run(done.stdout) == stages_of(STUDENTS) | {"examine-untrained@0"}
    assert "4 students" not in shell("mentee", "sweep", cwd=project).stdout


def test_the_temperature_runs_only_students_with_soft_targets(project: Path) -> None:
    edit_params(project / "params.yaml", {"soft_targets": {"temperature": 2.0}})
    assert repro(project) == stages_of(MENTORED)


def test_another_tap_runs_the_dump_and_the_students_that_probe(project: Path) -> None:
    early = {"module": "blocks.2", "grid": 1}
    edit_params(project / "params.yaml", {"teacher": {"taps": {"early": early}}})
    ran = repro(project)
    trained = {f"train-{student}" for student in PROBING}
    # The dump tells anew how fast the teacher is, which the report shows; all students are compared
    # with the new tap.
    compared = {f"evaluate-{student}" for student in STUDENTS}
    expected = trained | compared | {"dump", "evaluate-teacher", "examine-teacher", "report"}
    # They probe the old tap still; one that comes out the same is not examined again.
    assert expected <= ran <= expected | stages_of(PROBING)


def test_a_teacher_that_is_tuned_runs_the_dump_and_all_that_listens_to_it(project: Path) -> None:
    edit_params(project / "params.yaml", {"finetune": {"steps": 3, "batch_size": 4}})
    assert repro(project) == {"finetune"}, "nothing is tuned, so nothing changes"
    first = {"finetune", "dump", "head", "evaluate-teacher", "examine-teacher"}
    compared = {f"evaluate-{student}" for student in STUDENTS}
    mentored = first | compared | stages_of(MENTORED)
    edit_params(project / "params.yaml", {"finetune": {"layers": ["blocks.6"]}})
    assert repro(project) == mentored
    edit_params(project / "params.yaml", {"finetune": {"steps": 4}})
    assert repro(project) == mentored


def test_other_draws_and_targets_examine_every_network_and_train_none(project: Path) -> None:
    examined = {f"examine-{name}" for name in ("teacher", "untrained@0", *STUDENTS)} | {"report"}
    edit_params(project / "params.yaml", {"examine": {"per_class": [1]}})
    assert repro(project) == examined
    edit_params(project / "params.yaml", {"examine": {"targets": {"again": "digits"}}})
    assert repro(project) == examined | {"targets"}


def test_a_mode_runs_only_the_students_of_that_mode(project: Path) -> None:
    edit_params(project / "params.yaml", {"modes": {"soft": {"gamma": [[0, 0.5]]}}})
    assert repro(project) == stages_of({"logits@soft-plain-0"})


def test_another_teachers_cache_runs_only_the_students_that_listen_to_it(project: Path) -> None:
    shutil.copytree(project / "data/cache", project / "data/caches/twin")
    assert repro(project) == set()
    both = {"settings": {"both": {"teachers": ["here", "twin"]}},
            "sweep": {"teachers": {"modes": ["obedient"], "settings": ["both"]}}}  # fmt: skip
    edit_params(project / "params.yaml", both)
    listening = stages_of({"teachers@obedient-both-0"})
    assert repro(project) == listening
    assert repro(project) == set()
    shutil.copytree(project / "data/cache/test", project / "data/caches/third/test")
    assert "train-teachers@obedient-both-0:" in shell("dvc", "status", cwd=project).stdout


def test_a_student_that_is_dropped_runs_the_report_only(project: Path) -> None:
    edit_params(project / "params.yaml", {"sweep": {"logits": {"modes": []}}})
    assert repro(project) == {"report"}
    assert "soft" not in (project / "reports/results.txt").read_text()


def test_params_that_are_turned_back_restore_old_results_without_running(project: Path) -> None:
    before = (project / "metrics/soft-plain-0.json").read_bytes()
    edit_params(project / "params.yaml", {"modes": {"soft": {"gamma": [[0, 0.5]]}}})
    repro(project)
    assert shell("git", "checkout", "params.yaml", cwd=project).returncode == 0
    assert repro(project) == set()
    assert (project / "metrics/soft-plain-0.json").read_bytes() == before


def params_of(stage: str) -> set[str]:
    """What of params.yaml a stage of dvc.yaml depends on."""
    content = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")
    return set(content["stages"][stage]["params"])


def test_params_have_every_key_that_dvc_asks_for() -> None:
    """Where it is missing, DVC stops: of the matrices at once, of a stage when its turn comes."""
    content = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")
    asked = set().union(*(stage.get("params", []) for stage in content["stages"].values()))
    asked |= set(re.findall(r"\$\{(.*?)\}", (REPOSITORY / "dvc.yaml").read_text()))
    for name in {name.partition(".${item")[0] for name in asked if not name.startswith("item.")}:
        part = YAML(typ="safe", pure=True).load(REPOSITORY / "params.yaml")
        for key in name.split("."):
            assert key in part, name
            part = part[key]


def test_whether_broken_files_are_skipped_is_asked_of_targets_too() -> None:
    assert "data.skip_broken" in params_of("targets")


@pytest.mark.parametrize(
    "stage",
    ["train-labels", "efficiency-labels", "examine-untrained", "examine-labels", "stability"],
)
def test_views_of_unlabelled_images_run_nothing_that_is_shown_none(stage: str) -> None:
    read = {f"views.{key}" for key in ("labelled", "padding", "flip", "seed")}
    assert {name for name in params_of(stage) if name.startswith("views")} == read


def test_trainings_at_learning_rates_of_their_own_do_not_depend_on_the_one_of_training() -> None:
    read = params_of("stability")
    assert {"student.width", "training.batch_size", "training.weight_average"} <= read
    own = ("depth", "learning_rate", "steps", "validations")
    assert not read & {"student", "training", *(f"training.{key}" for key in own), "student.depth"}


def test_soft_targets_of_fewer_labels_depend_on_no_probe_and_on_the_heads_tap_alone() -> None:
    content = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")
    stage = content["stages"]["efficiency-logits"]
    assert "probes" not in stage["params"]
    features = {path for path in stage["deps"] if path.startswith("data/cache/labelled/features")}
    assert features == {"data/cache/labelled/features/${head.tap}"}
