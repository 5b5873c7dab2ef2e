"""Residual networks for small images: their sizes, taps and blocks, and how they train."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import mentee
from killing import prepare_small, set_params
from stage_one import enter_copy, run_stage_one
from torch import nn

from pipeline.files import read_json
from pipeline.params import Params, load_params
from pipeline.resnets import Block, PreActivationBlock, residual
from pipeline.students import load_student

# With 100 classes, as RepDistiller (Tian et al., 2020) has them.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet8x4": 1_233_540,
    "resnet20": 278_324,
    "resnet32x4": 7_433_860,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "wrn_28_10": 36_536_884,
}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_as_many_parameters_as_in_the_literature(name: str) -> None:
    with torch.device("meta"):  # sizes without values
        assert count(residual(name, 100, 0.0)) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet8", (16, 32, 64)), ("resnet14x4", (64, 128, 256)), ("wrn_10_3", (48, 96, 192))],
)
def test_taps_are_the_layers_at_three_resolutions_and_their_mean(
    name: str, channels: tuple[int, int, int]
) -> None:
    network = residual(name, 7, 0.0)
    shapes = {}
    for tap in ("stem", "layer1", "layer2", "layer3", "pooled"):
        network.get_submodule(tap).register_forward_hook(
            lambda _, __, output, tap=tap: shapes.update({tap: tuple(output.shape[1:])})
        )
    assert network(torch.zeros(2, 3, 24, 24)).shape == (2, 7)
    first, second, third = channels
    assert shapes.pop("stem")[1:] == (24, 24)
    assert shapes == {
        "layer1": (first, 24, 24),
        "layer2": (second, 12, 12),
        "layer3": (third, 6, 6),
        "pooled": (third,),
    }


def noise(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_block_whose_body_says_nothing_passes_its_input_on() -> None:
    """Behind a ReLU, or where that comes first, untouched."""
    maps = noise(4)
    for block, expected in ((Block(4, 4, 1), maps.relu()), (PreActivationBlock(4, 4, 1), maps)):
        last = [module for module in block.body if isinstance(module, nn.Conv2d)][-1]
        nn.init.zeros_(last.weight)
        assert torch.equal(block.eval()(maps.clone()), expected)


def test_a_shortcut_to_more_channels_is_a_convolution_with_the_stride_of_its_block() -> None:
    maps = noise(4)
    block, first = Block(4, 6, 2).eval(), PreActivationBlock(4, 6, 2).eval()
    for silent in (block.body[3], first.body[3]):
        nn.init.zeros_(silent.weight)
    kernel = block.shortcut[0].weight[:, :, 0, 0]
    scale = (1 + block.shortcut[1].eps) ** -0.5  # of a normalisation that has seen nothing
    by_hand = torch.einsum("oi,nihw->nohw", kernel, maps[:, :, ::2, ::2]) * scale
    assert torch.allclose(block(maps.clone()), by_hand.relu(), atol=1e-6)
    # Before the activation there is no ReLU behind the sum, but one in front of the shortcut.
    kernel = first.shortcut.weight[:, :, 0, 0]
    by_hand = torch.einsum("oi,nihw->nohw", kernel, (maps * scale).relu()[:, :, ::2, ::2])
    assert torch.allclose(first(maps.clone()), by_hand, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_10_2"])
def test_kernels_start_at_the_scale_of_the_signal_that_flows_back(name: str) -> None:
    """He et al. (2015): variance 2 / (area of the kernel x channels out)."""
    torch.manual_seed(0)
    kernels = [m.weight for m in residual(name, 10, 0.0).modules() if isinstance(m, nn.Conv2d)]
    for kernel in kernels:
        channels, _, height, width = kernel.shape
        expected = math.sqrt(2 / (channels * height * width))
        assert kernel.std().item() == pytest.approx(expected, rel=0.15)


def test_of_the_classifiers_biases_the_wide_ones_start_at_0() -> None:
    """As in RepDistiller."""
    assert not residual("wrn_10_2", 10, 0.0).classifier.bias.any()
    assert residual("resnet8", 10, 0.0).classifier.bias.all()


FEW_STEPS: dict[str, Any] = {
    "data": {"labelled_per_class": 4, "unlabelled": 20, "validation": 20, "test": 20},
    "head": {"inverse_regularisation": [0.01]},
    "training": {"steps": 6, "batch_size": 8, "validations": 1},
    "modes": {"both": {"alpha": [[0, 1.0]], "beta": [[0, 1.0]], "gamma": [[0, 1.0]]}},
    "probes": [
        {"teacher": "middle", "student": "layer2", "match": "projection"},
        {"teacher": "pooled", "student": "pooled", "match": "projection"},
    ],
}


def small(model: str) -> Params:
    set_params(Path(), **FEW_STEPS, student={"model": model, "input_size": 16})
    return load_params()


def prepared() -> Params:
    prepare_small(Path())
    return small("resnet8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which prepare, dump and head have run on digits: not to be changed."""
    return run_stage_one(tmp_path_factory.mktemp("finished"), prepared)


@pytest.mark.parametrize("model", ["resnet8x4", "resnet20", "resnet56", "wrn_16_2", "wrn_40_1"])
def test_a_residual_student_trains_on_digits_with_probes_at_its_taps(
    model: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = enter_copy(finished, tmp_path / "project", monkeypatch)
    small(model)
    done = mentee("train", "both")
    assert done.exit_code == 0, done.output
    folder = project / "students/both-plain-0"
    losses = read_json(folder / "live/metrics.json")["loss"]
    assert set(losses) == {
        "labels", "probe middle layer2", "probe pooled pooled", "soft targets"
    }  # fmt: skip
    student = load_student(folder)
    torch.manual_seed(0)
    born = residual(model, 10, 0.0).state_dict()
    trained = student.network.state_dict()
    assert list(trained) == list(born)
    for name in born:
        if name.endswith("weight"):
            moved = (trained[name] - born[name]).norm() / born[name].norm()
            assert 0 < moved < 0.5, f"{name} starts at its initial value and learns"
