"""Teachers that a file holds whole: what they answer, their taps, and files that are refused."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from projects import refusal
from torch import nn

from pipeline.compute import Compute
from pipeline.saved_networks import tensors_only
from pipeline.teacher_blocks import Tap
from pipeline.teacher_blocks import Teacher as TeacherParams
from pipeline.teachers import Teacher, load_teacher

CPU = Compute(torch.device("cpu"), bfloat16=False)
SIZE = 16


class Small(nn.Module):
    """Two convolutions and a classifier, with batch normalisation between them."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.late = nn.Conv2d(4, 6, 3, stride=2)
        self.classifier = nn.Linear(6, 5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.late(self.early(inputs)).mean((2, 3)))


class Telling(Small):
    """The same, which says what it saw."""

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        early = self.early(inputs)
        late = self.late(early)
        return {"logits": self.classifier(late.mean((2, 3))), "early": early, "late": late}


def save_exported(network: nn.Module, path: Path) -> Path:
    example = (torch.zeros(2, 3, SIZE, SIZE),)
    program = torch.export.export(network, example, dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, path)
    return path


def save_script(network: nn.Module, path: Path) -> Path:
    torch.jit.script(network).save(path)
    return path


def load(model: str, taps: dict[str, Tap] | None = None, **changes: object) -> Teacher:
    taps = taps or {"late": Tap(module="late", grid=2), "early": Tap(module="early", grid=1)}
    params = {"model": model, "weights": "included", "input_size": SIZE, "taps": taps, **changes}
    return load_teacher(TeacherParams(**params), CPU)


def pictures(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("library", "save", "made"),
    [("export", save_exported, Small), ("torchscript", save_script, Telling)],
)
def test_a_saved_network_answers_and_shows_its_features_as_it_did_before(
    tmp_path: Path, library: str, save: Callable[[nn.Module, Path], Path], made: type[Small]
) -> None:
    torch.manual_seed(0)
    network = made().eval()
    teacher = load(f"{library}:{save(network, tmp_path / 'saved')}")
    answers = teacher.answer(pictures())
    with torch.no_grad():
        inputs = teacher.normalise(pictures())
        early = network.early(inputs)
        late = network.late(early)
        logits = network.classifier(late.mean((2, 3)))
    torch.testing.assert_close(answers.logits, logits)
    torch.testing.assert_close(answers.features["early"], early.mean((2, 3)))
    torch.testing.assert_close(answers.features["late"], nn.functional.adaptive_avg_pool2d(late, 2))
    assert teacher.answer(pictures(1)).logits.shape == (1, 5)


@pytest.mark.parametrize(
    ("library", "save", "made"),
    [("export", save_exported, Small), ("torchscript", save_script, Telling)],
)
def test_a_network_that_was_saved_in_training_mode_is_refused(
    tmp_path: Path, library: str, save: Callable[[nn.Module, Path], Path], made: type[Small]
) -> None:
    torch.manual_seed(0)
    network = made().train()
    if library == "torchscript":  # which hears eval() after all, but where it is written down
        network.early[1] = Batchwise()
    path = save(network, tmp_path / "saved")
    text = refusal(lambda: load(f"{library}:{path}"))
    assert "depends on those beside it: call eval() before you save it" in text


class Batchwise(nn.Module):
    """Batch normalisation that never reads its running statistics."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.batch_norm(inputs, None, None, training=True)


def test_the_normalisation_is_the_users_if_there_is_one(tmp_path: Path) -> None:
    path = save_exported(Small().eval(), tmp_path / "saved.pt2")
    teacher = load(f"export:{path}", mean=[0.5, 0.25, 0.0], std=[0.5, 0.5, 1.0])
    white = torch.full((1, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    assert teacher.normalise(white)[0, :, 0, 0].tolist() == [1.0, 1.5, 1.0]
    assert "[0.5, 0.25, 0.0]" in teacher.preprocessing
    assert "0.485" in load(f"export:{path}").preprocessing


@pytest.mark.parametrize("library", ["export", "torchscript"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, library: str) -> None:
    path = tmp_path / "some.pt"
    assert "is not there" in refusal(lambda: load(f"{library}:{path}"))
    path.write_bytes(b"no network")
    assert f"{path} is no" in refusal(lambda: load(f"{library}:{path}"))


def test_a_script_that_does_not_tell_what_a_tap_reads_is_refused(tmp_path: Path) -> None:
    path = save_script(Telling().eval(), tmp_path / "saved.pt")
    text = refusal(lambda: load(f"torchscript:{path}", {"a": Tap(module="lato", grid=1)}))
    assert "returns no 'lato'; near are late" in text and "logits, early, late" in text
    path = save_script(Small().eval(), tmp_path / "mute.pt")
    text = refusal(lambda: load(f"torchscript:{path}"))
    assert "must return a dictionary" in text and "it has: none" in text


class Evil:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("ran",)


def test_an_exported_file_that_would_run_a_pickle_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save_exported(Small().eval(), Path("saved.pt2"))
    torch.save(Evil(), "evil.pt")
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    (inputs,) = [name for name in contents if "sample_inputs" in name]
    contents[inputs] = Path("evil.pt").read_bytes()
    with zipfile.ZipFile("spoilt.pt2", "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    assert "is no exported program" in refusal(lambda: load("export:spoilt.pt2"))
    assert not Path("ran").exists()
    contents["saved/data/constants/opaque_obj_0"] = b"pickled"
    with zipfile.ZipFile("spoilt.pt2", "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    assert "it holds pickled objects" in refusal(lambda: load("export:spoilt.pt2"))


def test_only_tensors_are_unpickled_while_the_switch_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Evil(), "evil.pt")
    before = dict(os.environ)
    with tensors_only(), pytest.raises(Exception, match="weights"):
        torch.load("evil.pt", weights_only=False)
    assert not Path("ran").exists() and dict(os.environ) == before
    torch.load("evil.pt", weights_only=False)
    assert Path("ran").exists(), "the file must be able to run something"
