"""The module tree that `mentee taps` prints, and the teachers that `mentee teachers` lists."""

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from caches import mentee
from torch import nn

from pipeline.params import load_params
from pipeline.stages.head import doubt
from pipeline.teacher_sources import _torchvision_network

REPOSITORY = Path(__file__).parent.parent.parent


def test_the_default_teachers_suggested_taps_are_those_of_the_params() -> None:
    done = mentee("taps", "timm:tf_efficientnet_lite0", "--depth", 1)
    assert done.exit_code == 0, done.output
    taps = load_params(REPOSITORY / "params.yaml").teacher.taps
    for name, tap in taps.items():
        assert f"    {name}: {{module: {tap.module}, grid: {tap.grid}}}" in done.output
    lines = [line.split() for line in done.output.splitlines()]
    assert ["conv_head", "1280", "x", "5", "x", "5", "Conv2d"] in lines
    told = mentee("taps", "timm:tf_efficientnet_lite0", "--depth", 1, "--json")
    content = json.loads(told.stdout)
    assert content["taps"] == {
        name: {"module": tap.module, "grid": tap.grid} for name, tap in taps.items()
    }
    head = {"path": "conv_head", "kind": "Conv2d", "shape": [1280, 5, 5], "depth": 0}
    assert head in content["modules"]
    assert not any(line and line[0] == "blocks.4" for line in lines), "one level was asked for"


def test_shapes_are_those_that_the_modules_put_out() -> None:
    done = mentee("taps", "torchvision:resnet18", "--input-size", 64, "--depth", 2)
    network, shapes = _torchvision_network("resnet18").eval(), {}
    for path, module in network.named_modules():

        def note(_module: object, _inputs: object, out: torch.Tensor, path: str = path) -> None:
            shapes[path] = tuple(out.shape[1:])

        module.register_forward_hook(note)
    network(torch.zeros(1, 3, 64, 64))
    for path in ("layer2", "layer3.1", "avgpool", "fc"):
        (line,) = [line for line in done.output.splitlines() if line.split()[:1] == [path]]
        assert " x ".join(map(str, shapes[path])) in line


def test_a_transformer_has_no_maps_to_suggest() -> None:
    done = mentee("taps", "timm:vit_tiny_patch16_224", "--input-size", 224, "--depth", 1)
    assert "pooled: {module:" in done.output and "middle:" not in done.output


def test_a_file_of_torch_export_is_shown_with_the_taps_that_suit_it(tmp_path: Path) -> None:
    layers = {"early": nn.Conv2d(3, 4, 3, stride=2), "late": nn.Conv2d(4, 6, 3, stride=2),
              "pooled": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
              "classifier": nn.Linear(6, 5)}  # fmt: skip
    network, batch = nn.Sequential(OrderedDict(layers)), ({0: torch.export.Dim("n")},)
    example = (torch.zeros(2, 3, 64, 64),)
    program = torch.export.export(network, example, dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "mine.pt2")
    done = mentee("taps", f"export:{tmp_path / 'mine.pt2'}", "--input-size", 64, "--depth", 1)
    assert done.exit_code == 0, done.output
    lines = [line.split()[:6] for line in done.output.splitlines()]
    assert ["late", "6", "x", "15", "x", "15"] in lines
    assert "middle: {module: early, grid: 4}" in done.output
    assert "pooled: {module: pooled, grid: 1}" in done.output


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("resnet18",), "name timm:..., torchvision:..., export:..."),
        (("timm:resnet19",), "near are resnet18"),
        (("timm:vit_tiny_patch16_224", "--input-size", 160), "name others by --input-size"),
    ],
)
def test_a_network_that_cannot_be_shown_is_refused(words: tuple[object, ...], reason: str) -> None:
    done = mentee("taps", *words)
    assert done.exit_code == 1 and reason in done.output and len(done.output.splitlines()) == 1


def test_teachers_that_are_here_are_listed_and_others_by_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    here = mentee("teachers").output
    assert "timm:tf_efficientnet_lite0" in here and "19 MB" in here
    assert "torchvision:resnet18" not in here
    (line,) = [
        line for line in mentee("teachers", "resnet18").output.splitlines()
        if line.startswith("torchvision:resnet18 ")
    ]  # fmt: skip
    assert line.split()[1:] == ["download", "download", "45", "MB", "BSD-3-Clause"]
    content = json.loads(mentee("teachers", "resnet18", "--json").stdout)
    (found,) = [one for one in content["teachers"] if one["model"] == "torchvision:resnet18"]
    assert (found["state"], found["licence"]) == ("download", "BSD-3-Clause")
    assert found["megabytes"] == pytest.approx(44.66, abs=0.01)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/resnet18-f37072fd.pth").touch()
    assert "torchvision:resnet18" in mentee("teachers").output
    refused = mentee("teachers", "no-such*")
    assert refused.exit_code == 1 and "no teacher is called 'no-such*'" in refused.output


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    command = f"{sys.executable} -m pipeline teachers '*' | head -n 1"
    done = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.startswith("teacher.model") and done.stderr == ""


def test_a_teacher_that_knows_little_is_doubted() -> None:
    labels = np.array([0] * 50 + [1] * 50)
    text = doubt(0.54, labels)
    assert text and "54.0%" in text and "50.0%" in text and "teacher.input_size" in text
    assert doubt(0.56, labels) is None
    assert doubt(0.85, np.array([0] * 85 + [1] * 15)), "most images are of one class"
