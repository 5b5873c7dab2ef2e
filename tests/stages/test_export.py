"""`mentee export` and `mentee predict`: what leaves the project answers as the student does."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from projects import REPOSITORY, edit_params, refusal
from sklearn.datasets import load_digits

from pipeline import images
from pipeline.blocks import Runtime
from pipeline.cli import main
from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.exports import About, Exported, open_onnx, trace, write_onnx
from pipeline.params import load_params
from pipeline.prepared import PREPARED_FILE, read_split
from pipeline.stages import export as exporting
from pipeline.stages import predict as predicting
from pipeline.stages.predict import Answer, find_images, predict
from pipeline.stages.prepare import prepare
from pipeline.stages.train import train
from pipeline.students import Card, Student, load_student
from pipeline.training import predict_logits
from pipeline.variants import Variant

STUDENT = Path("students/independent-plain-0")
EXPORTED = Path("exports/independent-plain-0")
CPU = Runtime(device="cpu", threads=1)
FLOAT32 = Compute(torch.device("cpu"), bfloat16=False)


def write_digits(folder: Path) -> None:
    """Scikit-learn's digits as files of several formats, modes and sizes, none of them square."""
    digits = load_digits()
    kinds = (("png", "L"), ("png", "RGBA"), ("jpg", "RGB"), ("gif", "P"), ("png", "I;16"))
    for number in range(400):
        suffix, mode = kinds[number % len(kinds)]
        picture = Image.fromarray((digits.images[number] * 15).astype(np.uint8))
        picture = picture.resize((40 + number % 7, 32 + number % 5))
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) << 8)
        else:
            picture = picture.convert(mode)
        path = folder / str(digits.target[number]) / f"{number:03}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project with a student that learnt a little and its exports, and what export said."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_digits(folder / "digits")
        shutil.copy(REPOSITORY / "params.yaml", folder)
        edit_params(folder / "params.yaml", {
            "data": {"source": "folder:digits", "image_size": 24, "labelled_per_class": 15,
                     "unlabelled": 1, "validation": 40, "test": 80},
            "student": {"width": 8, "input_size": 16},
            "training": {"steps": 150, "batch_size": 30, "validations": 2},
            "views": {"padding": 2, "flip": False, "labelled": 4},
            "runtime": {"device": "cpu", "threads": 1},
        })  # fmt: skip
        params = load_params()
        prepare(params)
        train(params, Variant("independent", "plain", 0))
        said = CliRunner().invoke(main, ["export", str(STUDENT)])
        assert said.exit_code == 0, said.output
    return folder, said.stdout


@pytest.fixture
def project(made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made[0])
    return made[0]


def accuracy_said(said: str, name: str) -> float:
    (line,) = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
    return float(line.split(": ")[1].split("%")[0])


def test_export_tells_every_files_accuracy_and_eight_bits_keep_most_of_it(
    made: tuple[Path, str], project: Path
) -> None:
    said = made[1]
    whole = accuracy_said(said, str(STUDENT))
    assert whole > 40, "ten classes, so chance is 10"
    for name in ("student.onnx", "student.pt2"):
        assert accuracy_said(said, str(EXPORTED / name)) == whole
    assert accuracy_said(said, str(EXPORTED / "student-int8.onnx")) > whole - 10
    sizes = {path.name: path.stat().st_size for path in EXPORTED.iterdir()}
    assert set(sizes) == {"student.onnx", "student-int8.onnx", "student.pt2"}


def test_weights_in_eight_bits_are_so_small_that_no_processors_sums_saturate(project: Path) -> None:
    """Two products of a weight and an activation 0 .. 255 are added in 16 bits without VNNI."""
    graph = onnx.load(EXPORTED / "student-int8.onnx").graph
    arrays = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
    weights = [array for array in arrays if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) == 6, "five convolutions and a linear layer"
    for array in weights:
        assert 2 * 255 * int(np.abs(array.astype(int)).max()) < 2**15
        assert np.abs(array.astype(int)).max() >= 63, "and no smaller than that"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_exported_files_answer_batches_of_any_size_as_the_student_does(
    count: int, project: Path
) -> None:
    """Through onnxruntime and torch alone, as another program would."""
    generator = np.random.default_rng(count)
    pictures = generator.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)
    with torch.inference_mode():
        wanted = load_student(STUDENT)(torch.from_numpy(pictures)).numpy()
    session = onnxruntime.InferenceSession(EXPORTED / "student.onnx")
    (logits,) = session.run(["logits"], {"pictures": pictures})
    assert np.allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    program = torch.export.load(EXPORTED / "student.pt2").module()
    assert np.allclose(program(torch.from_numpy(pictures)).detach(), wanted, rtol=1e-4, atol=1e-4)


def test_a_files_metadata_say_what_to_do_with_an_image(project: Path) -> None:
    session = onnxruntime.InferenceSession(EXPORTED / "student-int8.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["mentee"])
    extra = {"mentee.json": ""}
    torch.export.load(EXPORTED / "student.pt2", extra_files=extra)
    assert json.loads(extra["mentee.json"]) == told
    assert told["class_names"] == list("0123456789")
    assert (told["image_size"], told["input_size"]) == (24, 16)
    assert "EXIF" in told["preprocessing"]
    assert told["trained"]["mode"] == "independent"


def answers(model: Path, *images: Path) -> list[Answer]:
    found = list(predict(model, images, CPU))
    assert all(isinstance(answer, Answer) for answer in found)
    return found


def test_a_file_gets_the_same_answer_as_its_prepared_image(project: Path) -> None:
    """Whatever its format: predict reads, crops and resamples as prepare does."""
    split = read_split(PREPARED_FILE, "test")
    student = load_student(STUDENT)
    logits = torch.from_numpy(predict_logits(student, split.images, FLOAT32))
    wanted = logits.softmax(1).numpy()
    files = [project / "digits" / sample for sample in split.ids]
    assert len({path.suffix for path in files}) == 3
    for model, tolerance in ((EXPORTED / "student.onnx", 1e-5), (STUDENT, 0.05)):
        # The student may compute in bfloat16.
        found = [list(answer.probabilities.values()) for answer in answers(model, *files)]
        assert np.abs(np.array(found) - wanted).max() < tolerance


def test_folders_and_patterns_stand_for_their_images(project: Path) -> None:
    folder = project / "digits/3"
    everything = answers(EXPORTED / "student.onnx", folder)
    assert [answer.path for answer in everything] == sorted(folder.iterdir())
    pattern = answers(EXPORTED / "student.onnx", folder / "*.jpg", folder / "003.gif")
    assert [answer.path for answer in pattern] == [
        *sorted(folder.glob("*.jpg")),
        folder / "003.gif",
    ]
    assert pattern[-1] in everything


def test_a_pattern_stands_for_folders_too_and_for_each_image_once(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.png", "a/notes.txt", "a/.thumbnails/3.png", "c/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    wanted = [tmp_path / name for name in ("a/1.png", "a/b/2.png", "c/4.jpg")]
    assert find_images([tmp_path / "*"]) == wanted
    assert find_images([tmp_path / "**/*.png", tmp_path / "c"]) == wanted
    assert find_images([tmp_path / "a/b/**"]) == wanted[1:2]


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_json_holds_every_class_and_agrees_with_the_table(project: Path) -> None:
    table = ask(EXPORTED / "student-int8.onnx", "digits/7")
    listed = json.loads(ask(EXPORTED / "student-int8.onnx", "digits/7", "--json").stdout)
    assert len(listed) == len(list(Path("digits/7").iterdir()))
    for line, entry in zip(table.stdout.splitlines(), listed, strict=True):
        assert line == f"{entry['image']}\t{entry['class']}\t{entry['probability']:.3f}"
        assert list(entry["probabilities"]) == list("0123456789")
        assert sum(entry["probabilities"].values()) == pytest.approx(1)
        assert entry["probability"] == max(entry["probabilities"].values())


def test_a_broken_file_is_named_and_the_others_are_answered(project: Path, tmp_path: Path) -> None:
    for number in (3, 13):
        shutil.copy(f"digits/3/{number:03}.gif", tmp_path)
    (tmp_path / "012.png").write_bytes(b"no picture")
    done = ask(EXPORTED / "student.onnx", tmp_path, "nowhere.png")
    assert done.exit_code == 1
    assert [Path(line.split("\t")[0]).name for line in done.stdout.splitlines()] == [
        "003.gif", "013.gif",
    ]  # fmt: skip
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path / '012.png'}: not a readable image (")
    assert second == "error: nowhere.png: there is no such file"
    (tmp_path / "none").mkdir()
    assert ask(STUDENT, tmp_path / "none").stderr.endswith("none: there are no images\n")


def test_a_file_that_may_not_be_read_keeps_no_other_from_its_answer(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To click it would be wrong usage of the whole command; root may read it all the same."""
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path).name != "013.gif")
    done = ask(EXPORTED / "student.onnx", "digits/3/003.gif", "digits/3/013.gif")
    assert len(done.stdout.splitlines()) == 2, done.stderr


def test_an_image_with_an_odd_name_is_answered_on_one_line(project: Path, tmp_path: Path) -> None:
    """Also one that is not in UTF-8, which Python reads as half a character."""
    for name in ("new\nline\t.gif", "\udcff.gif"):
        shutil.copy("digits/3/003.gif", tmp_path / name)
    first, second = ask(EXPORTED / "student.onnx", tmp_path).stdout.splitlines()
    assert first.split("\t")[0] == f"{tmp_path}/new\\nline\\t.gif"
    assert second.split("\t")[0] == f"{tmp_path}/\\udcff.gif"
    listed = json.loads(ask(EXPORTED / "student.onnx", tmp_path, "--json").stdout)
    assert [Path(entry["image"]) for entry in listed] == sorted(tmp_path.iterdir())


def test_threads_and_small_batches_give_every_image_its_own_answer(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    files = sorted(Path("digits/7").iterdir())
    alone = [answer for file in files for answer in answers(STUDENT, file)]
    monkeypatch.setattr(images, "SMALL_FILE", 0)
    monkeypatch.setattr(images, "own_cores", lambda: 3)
    monkeypatch.setattr(predicting, "PREDICT_BATCH", 2)
    found = list(predict(STUDENT, [files[0], broken, Path("digits/7")], CPU))
    assert isinstance(found.pop(1), MenteeError)
    for answer, expected in zip(found, [alone[0], *alone], strict=True):
        assert isinstance(answer, Answer)
        assert (answer.path, answer.name) == (expected.path, expected.name)
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_what_export_never_wrote_is_refused_in_one_line(project: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes((EXPORTED / "student.onnx").read_bytes()[:5000])
    said = refusal(lambda: open_onnx(damaged))
    assert said.startswith(f"{damaged} is no ONNX file that `mentee export` wrote (")
    assert "there is no such file" in refusal(lambda: open_onnx(tmp_path / "none.onnx"))
    said = refusal(lambda: list(predict(EXPORTED / "student.pt2", [Path("digits")], CPU)))
    assert "may run code" in said


def test_without_the_extra_it_says_how_to_get_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = ask(EXPORTED / "student.onnx", "digits/7")
    assert done.exit_code == 1
    assert done.stderr == (
        "error: onnxruntime is not installed: pip install 'mentee[export]' gets it\n"
    )


def test_an_export_that_answers_otherwise_is_not_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in EXPORTED.iterdir()}

    class Otherwise(Exported):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return super().forward(pictures) + 2e-2

    monkeypatch.setattr(exporting, "Exported", Otherwise)
    said = refusal(lambda: exporting.export(STUDENT))
    assert said.startswith("student.pt2 answers test images otherwise than the student, by up to")
    assert {path.name: path.read_bytes() for path in EXPORTED.iterdir()} == before


def test_a_student_of_other_classes_is_refused(project: Path, tmp_path: Path) -> None:
    shutil.copytree(STUDENT, tmp_path / "other")
    card = json.loads((tmp_path / "other/student.json").read_text())
    card["class_names"] = card["class_names"][::-1]
    (tmp_path / "other/student.json").write_text(json.dumps(card))
    said = refusal(lambda: exporting.export(tmp_path / "other"))
    assert "knows other classes" in said


def test_a_student_of_a_library_is_exported_too(project: Path, tmp_path: Path) -> None:
    card = Card("timm:test_resnet", 2, 3, 0.0, 32, 32, tuple("ab"), (0.5,) * 3, (0.2,) * 3, {})
    student = Student(card).eval()
    write_onnx(trace(student), About.of(card), tmp_path / "student.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    wanted = predict_logits(student, images, FLOAT32)
    found = predict_logits(open_onnx(tmp_path / "student.onnx"), images, FLOAT32)
    assert np.allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "text"),
    [({"class_names": ["a", "b"]}, "it gives logits"), ({"input_size": 17}, "it takes pictures"),
     ({"image_size": 10**6}, "image_size")],
)  # fmt: skip
def test_metadata_must_suit_the_graph(
    change: dict[str, object], text: str, project: Path, tmp_path: Path
) -> None:
    model = onnx.load(EXPORTED / "student.onnx")
    about = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(model, {"mentee": json.dumps(about | change)})
    onnx.save(model, tmp_path / "other.onnx")
    assert text in refusal(lambda: open_onnx(tmp_path / "other.onnx"))
