"""Networks trained from scratch: their shapes, their taps, and how they are kept on disk."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from projects import refusal
from torch import nn

from pipeline.blocks import Student as StudentParams
from pipeline.errors import MenteeError
from pipeline.students import (
    CARD_FILE,
    WEIGHTS_FILE,
    Card,
    Student,
    load_student,
    pixel_statistics,
    save_student,
)


def student(
    model: str = "fiveconv", classes: int = 3, dropout: float = 0.0, **card: Any
) -> Student:
    names = tuple(f"class{c}" for c in range(classes))
    content = {"width": 8, "depth": 5, "input_size": 32, "image_size": 32, "about": {}, **card}
    grey = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return Student(Card(model=model, dropout=dropout, class_names=names, **{**grey, **content}))


def pictures(count: int = 4, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_fiveconv_answers_a_logit_a_class_and_picture() -> None:
    assert student(classes=7).eval()(pictures(4)).shape == (4, 7)
    assert student(input_size=48).eval()(pictures(2, size=48)).shape == (2, 3)


def test_five_convolutions_are_the_network_that_results_were_measured_with() -> None:
    """Names and initial values, layer by layer: students of one seed start as they always did."""

    def convolution(channels_in: int, channels_out: int, *halve: nn.Module) -> nn.Module:
        filters = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        return nn.Sequential(filters, *halve, nn.BatchNorm2d(channels_out), nn.ReLU())

    torch.manual_seed(0)
    by_hand = nn.Module()
    by_hand.conv1 = convolution(3, 4, nn.MaxPool2d(2))
    by_hand.conv2 = convolution(4, 8, nn.MaxPool2d(2))
    by_hand.conv3 = convolution(8, 8)
    by_hand.conv4 = convolution(8, 16, nn.MaxPool2d(2))
    by_hand.conv5 = convolution(16, 16)
    by_hand.classifier = nn.Linear(16, 3)
    torch.manual_seed(0)
    state, expected = student().network.state_dict(), by_hand.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert student(classes=10, width=64).count_parameters() == 279_466  # of docs/results.md


# By depth: channels and size of every convolution's maps, where the width is 8 and 32 pixels are
# seen.
SHAPES = {
    3: [(4, 16), (8, 8), (16, 4)],
    4: [(4, 16), (8, 8), (16, 4), (16, 4)],
    5: [(4, 16), (8, 8), (8, 8), (16, 4), (16, 4)],
    6: [(4, 16), (4, 16), (8, 8), (8, 8), (16, 4), (16, 4)],
    8: [(4, 16), (4, 16), (8, 8), (8, 8), (8, 8), (16, 4), (16, 4), (16, 4)],
}


@pytest.mark.parametrize("depth", SHAPES)
def test_fiveconv_of_any_depth_spreads_over_the_same_three_resolutions(depth: int) -> None:
    expected: dict[str, tuple[int, ...]] = {
        f"conv{number}": (channels, size, size)
        for number, (channels, size) in enumerate(SHAPES[depth], start=1)
    }
    expected["pooled"] = (16,)
    built = student(depth=depth)
    assert built.feature_shapes(set(expected)) == expected
    assert f"conv{depth + 1}" not in dict(built.network.named_modules())


@pytest.mark.parametrize("depth", SHAPES)
def test_fiveconv_has_as_many_parameters_as_its_layers_add_up_to(depth: int) -> None:
    classes, total, before = 3, 0, 3
    for channels, _ in SHAPES[depth]:
        normalisation = 2 * channels
        total += 9 * before * channels + normalisation
        before = channels
    linear = before * classes + classes
    assert student(depth=depth, classes=classes).count_parameters() == total + linear


def test_a_tap_that_is_not_there_is_told_those_that_are() -> None:
    text = refusal(lambda: student().feature_shapes({"conv9"}))
    start, paths = text.split("; there are: ")
    assert start.startswith("probes.student: no module 'conv9' in the network; near are conv")
    listed = paths.split(", ")
    assert listed[:8] == [*(f"conv{n}" for n in range(1, 6)), "pooled", "dropout", "classifier"]
    assert set(listed) == set(dict(student().network.named_modules())) - {""}


@pytest.mark.parametrize(
    ("model", "tap", "near", "outermost"),
    [
        ("resnet56", "network.layer3.4", "layer3.4; ", "stem, layer1, "),
        ("resnet56", "layer4", "layer3, layer2, layer1", "stem, layer1, layer2, layer3, pooled,"),
        ("wrn_40_1", "layer2.6", "layer2.5, ", "stem, layer1, layer2, layer3, activation, pooled,"),
        ("fiveconv", "conv91", "conv9, conv1, conv90, ", "conv1, conv2, conv3, conv4, "),
        ("timm:test_vit", "block.1", "blocks.1, ", "patch_embed, pos_drop, "),
    ],
)
def test_a_wrong_tap_of_a_large_network_is_told_near_ones_and_the_outermost(
    model: str, tap: str, near: str, outermost: str
) -> None:
    built = student(model, depth=90)
    text = refusal(lambda: built.feature_shapes({tap}))
    assert text.startswith(f"probes.student: no module {tap!r} in the network; near are {near}")
    assert f"; there are: {outermost}" in text
    count = len(dict(built.network.named_modules())) - 1
    assert text.endswith(f", ... ({count} in all)")
    assert len(text) < 500


@pytest.mark.parametrize("tap", ["blocks.0", "blocks.0.attn.attn_drop"])
def test_a_tap_without_features_that_a_probe_can_read_is_refused(tap: str) -> None:
    """A transformer's block puts out a vector a patch; its attention is a single operation."""
    text = refusal(lambda: student("timm:test_vit").feature_shapes({"head", tap}))
    assert text == (
        f"probes.student: {tap} is never run, or puts out no features of shape (n, C) or "
        f"(n, C, h, w): tap another module"
    )


@pytest.mark.parametrize("model", ["fiveconv", "resnet8x4", "wrn_10_1", "timm:resnet18"])
def test_every_tap_reads_what_its_module_put_out(model: str) -> None:
    """Whatever works on that in place afterwards, as activations do."""
    built = student(model, dropout=0.5).train()
    told: dict[str, torch.Tensor] = {}
    names = [name for name, _ in built.network.named_modules() if name]
    for name in names:
        built.network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: told.update({name: output.clone()})
        )
    with built.tapped(names) as features:
        built(pictures())
    assert all(torch.equal(features[name], value) for name, value in told.items())
    assert len(told) > 20


def test_looking_at_taps_leaves_the_student_as_it_was() -> None:
    looked_at = student().train()
    before = {name: value.clone() for name, value in looked_at.state_dict().items()}
    looked_at.feature_shapes({"conv3"})
    assert looked_at.training
    assert looked_at.network.conv3.training
    for name, value in looked_at.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("model", ["torchvision:swin_t", "timm:swin_tiny_patch4_window7_224"])
def test_maps_whose_channels_come_last_are_turned(model: str) -> None:
    """Read as they are, a Swin's maps of 2 x 2 places would have two channels."""
    built = student(model, input_size=64).eval()
    assert built.feature_shapes({"norm"}) == {"norm": (768, 2, 2)}
    with built.tapped(["norm"]) as features, torch.no_grad():
        logits = built(pictures(2, 64))
        linear = built.get_submodule("network.head" + ".fc" * model.startswith("timm"))
        assert torch.allclose(linear(features["norm"].mean((2, 3))), logits, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "taps"),
    [
        ("fiveconv", "conv1 conv2 conv3 conv4 conv5 pooled"),
        ("resnet20", "stem layer1 layer2 layer3 pooled"),
        ("wrn_10_1", "stem layer1 layer2 layer3 activation pooled"),
        ("torchvision:resnet18", "conv1 bn1 maxpool layer1 layer2 layer3 layer4 avgpool"),
        ("torchvision:squeezenet1_1", "features"),
        ("torchvision:regnet_y_400mf", "stem trunk_output avgpool"),
        ("timm:resnet18", "conv1 bn1 maxpool layer1 layer2 layer3 layer4 global_pool"),
        ("timm:tf_efficientnet_lite0", "conv_stem bn1 blocks conv_head bn2 global_pool"),
        ("timm:test_vit", "patch_embed fc_norm"),
        ("torchvision:swin_t", "features norm avgpool"),
    ],
)
def test_taps_by_depth_are_where_features_change_on_their_way_to_the_logits(
    model: str, taps: str
) -> None:
    built = student(model, classes=8, input_size=64).train()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    assert built.depth_taps() == taps.split()
    assert set(built.feature_shapes(set(taps.split()))) == set(taps.split())
    assert built.training
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())


def test_taps_by_depth_stand_in_the_order_in_which_they_run() -> None:
    built = student(width=2, classes=4)  # as many logits as pooled features
    layers = dict(built.network.named_children())
    built.network = nn.Sequential()
    built.network.forward = lambda maps: [maps := layer(maps) for layer in layers.values()][-1]
    for name in reversed(layers):
        built.network.add_module(name, layers[name])
    assert built.depth_taps() == ["conv1", "conv2", "conv3", "conv4", "conv5", "pooled"]


def test_a_network_of_strided_points_gets_true_gradients() -> None:
    """Where channels come last torch's are wrong, of a 1x1 convolution of three with a stride."""
    built = student("timm:mobileone_s0", input_size=32)
    loss = built(pictures(16)).square().mean()
    loss.backward()
    found = built.network.stem.conv_scale.conv.weight.grad.clone()
    built.zero_grad()
    conv = built.network.stem.conv_scale.conv
    conv.stride = (1, 1)
    conv.register_forward_pre_hook(lambda _, inputs: inputs[0][:, :, ::2, ::2])
    built(pictures(16)).square().mean().backward()
    assert torch.allclose(found, conv.weight.grad, rtol=1e-3, atol=1e-5)


def test_a_student_sees_pixels_that_are_centred_and_scaled_by_its_card() -> None:
    seen = []
    looking = student(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5)).eval()
    looking.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    looking(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8))  # 51 / 255 = 0.2
    by_hand = [(0.2 - 0.2) / 0.1, (0.2 - 0.4) / 0.2, (0.2 - 0.6) / 0.5]
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(by_hand, abs=1e-6)


def test_a_card_holds_the_mean_and_deviation_of_the_images() -> None:
    params = StudentParams(model="fiveconv", width=8, depth=7, input_size=24)
    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    images[:2, ..., 0] = 255  # half black, half full; green is one shade; blue is black
    images[..., 1] = 51
    card = Card.of(params, 0.3, ("a", "b"), images, {"why": "test"})
    assert card.mean == pytest.approx((0.5, 0.2, 0.0))
    assert card.std[0] == pytest.approx(0.5, rel=1e-3)
    assert card.std[1:] == (1e-3, 1e-3), "a channel of one shade must not divide by 0"
    assert (card.width, card.depth, card.dropout) == (8, 7, 0.3)
    assert (card.input_size, card.image_size) == (24, 16)


def test_the_statistics_of_pixels_are_those_of_all_images_together() -> None:
    images = torch.randint(256, (600, 5, 4, 3), generator=torch.Generator().manual_seed(0))
    images[300:] //= 4  # the first batches of images do not speak for the last ones
    mean, std = pixel_statistics(images.to(torch.uint8))
    pixels = images.double().flatten(0, 2) / 255
    assert torch.allclose(mean, pixels.mean(0), rtol=1e-12)
    assert torch.allclose(std, pixels.std(0), rtol=1e-12)


def test_dropout_is_before_the_last_layer_and_silent_when_answering() -> None:
    dropping = student(dropout=0.5)
    assert dropping.network.dropout.p == 0.5
    pooled = torch.ones(1, 16)
    assert (dropping.train().network.dropout(pooled) == 0).any()
    assert torch.equal(dropping.eval().network.dropout(pooled), pooled)


def save_trained(folder: Path, model: str = "fiveconv", **card: Any) -> Student:
    """A student whose batch statistics are not those it was born with."""
    trained = student(model, about={"mode": "obedient", "accuracy": 0.5}, **card).train()
    trained(pictures(8, trained.card.input_size))
    save_student(trained.eval(), folder)
    return trained


@pytest.mark.parametrize(
    ("model", "card"),
    [
        ("fiveconv", {}),
        ("fiveconv", {"depth": 8}),
        ("resnet8x4", {}),
        ("wrn_10_1", {"dropout": 0.2}),
        ("torchvision:resnet18", {}),
        ("torchvision:squeezenet1_1", {"dropout": 0.2}),
        ("timm:test_resnet", {"dropout": 0.2}),
        ("timm:test_vit", {"input_size": 48}),
        ("timm:coat_lite_tiny", {}),
    ],
    ids=str,
)
def test_a_student_that_was_saved_answers_the_same(
    model: str, card: dict[str, Any], tmp_path: Path
) -> None:
    trained = save_trained(tmp_path / "new/student", model, **card)
    loaded = load_student(tmp_path / "new/student")
    shown = pictures(size=trained.card.input_size)
    assert torch.equal(loaded(shown), trained(shown))
    assert loaded.card == trained.card
    assert not loaded.training
    names = {path.name for path in (tmp_path / "new/student").iterdir()}
    assert names == {WEIGHTS_FILE, CARD_FILE}


def test_what_is_saved_above_shares_weights_and_does_not_lie_in_a_row() -> None:
    """CoaT's blocks share their position encodings; channels come last in all kernels."""
    sharing = student("timm:coat_lite_tiny").network
    names = list(sharing.named_parameters(remove_duplicate=False))
    assert len(names) > len(list(sharing.parameters()))
    assert not all(value.is_contiguous() for value in sharing.state_dict().values())


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    trained = save_trained(tmp_path / "one")
    save_student(trained, tmp_path / "two")
    for name in (WEIGHTS_FILE, CARD_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def complaint(folder: Path) -> str:
    with pytest.raises(MenteeError) as caught:
        load_student(folder)
    text = str(caught.value)
    assert text.startswith(f"{folder} ")
    assert len(text.splitlines()) == 1
    return text


@pytest.mark.parametrize("missing", [WEIGHTS_FILE, CARD_FILE])
def test_a_folder_without_a_student_says_what_to_run(missing: str, tmp_path: Path) -> None:
    save_trained(tmp_path)
    (tmp_path / missing).unlink()
    assert "holds no student: run `mentee train`" in complaint(tmp_path)


def test_a_file_that_is_no_folder_holds_no_student(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    assert "holds no student" in complaint(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(WEIGHTS_FILE, lambda content: content[:-5], id="weights cut at the end"),
        pytest.param(WEIGHTS_FILE, lambda content: content[:40], id="weights cut in the header"),
        pytest.param(WEIGHTS_FILE, lambda _: b"", id="no weights"),
        pytest.param(WEIGHTS_FILE, lambda content: b"\xff" * 8 + content[8:], id="a huge header"),
        pytest.param(CARD_FILE, lambda content: content[:-20], id="half a card"),
        pytest.param(CARD_FILE, lambda _: b"", id="an empty card"),
        pytest.param(CARD_FILE, lambda _: b"{}", id="a card without keys"),
        pytest.param(CARD_FILE, lambda _: b"[]", id="a list for a card"),
        pytest.param(CARD_FILE, lambda _: b"null", id="nothing for a card"),
        pytest.param(CARD_FILE, lambda _: b"\xff\xfe", id="a card that is not text"),
    ],
)
def test_a_damaged_file_is_one_line(
    name: str, damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    save_trained(tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    text = complaint(tmp_path)
    assert "holds a damaged student (" in text
    assert text.endswith("train it again")


@pytest.mark.parametrize(
    "changes",
    [{"width": 16}, {"width": "8"}, {"class_names": ["a"]}, {"mean": [0.5]}, {"colour": "red"},
     {"model": 5}, {"model": "fourconv"}, {"model": "resnet20"}, {"depth": 6}, {"depth": 10**9},
     {"image_size": 40_000}, {"image_size": 0}, {"image_size": "16"}, {"image_size": None},
     {"class_names": ["a", "b", "a"]}, {"class_names": ["a", "b", 3]}, {"class_names": "abc"},
     {"class_names": []}, {"mean": [math.nan] * 3}, {"std": [0.2, 0, 0.2]}, {"std": [math.inf] * 3},
     {"dropout": math.nan}, {"about": None}],
)  # fmt: skip
def test_a_card_that_does_not_fit_its_weights_is_one_line(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    save_trained(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, **changes}))
    assert "holds a damaged student (" in complaint(tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    """It would answer its first class to everything."""
    trained = save_trained(tmp_path)
    next(trained.parameters()).data.fill_(math.nan)
    save_student(trained, tmp_path)
    assert "holds a damaged student (weights that are no numbers)" in complaint(tmp_path)


def test_a_student_of_another_format_is_refused(tmp_path: Path) -> None:
    save_trained(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, "format": 99}))
    assert "was written by another version" in complaint(tmp_path)


def test_a_student_of_format_1_is_read_as_the_five_convolutions_it_was(tmp_path: Path) -> None:
    trained = save_trained(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    del card["depth"]
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, "format": 1}))
    assert torch.equal(load_student(tmp_path)(pictures()), trained(pictures()))
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, "format": 2}))
    assert "holds a damaged student (" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        ("torchvision:resnet18", {"layer4": (512, 1, 1), "avgpool": (512, 1, 1), "fc": (3,)}),
        ("timm:resnet18", {"layer4": (512, 1, 1), "global_pool": (512,), "fc": (3,)}),
    ],
)
def test_an_architecture_of_a_library_is_built_without_weights(
    model: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    built, other = student(model), student(model)
    assert built.feature_shapes(set(shapes)) == shapes
    first, second = built.network.conv1.weight, other.network.conv1.weight
    assert not torch.equal(first, second), "weights are drawn, not loaded"


def test_a_transformer_is_made_for_the_pictures_it_will_see() -> None:
    for model in ("timm:test_vit", "torchvision:vit_b_32"):
        assert student(model, input_size=64).eval()(pictures(2, 64)).shape == (2, 3)


def test_a_network_that_asks_for_its_version_is_loaded_too(tmp_path: Path) -> None:
    """torchvision's MNASNet refuses weights that do not tell theirs, as safetensors cannot."""
    trained = student("torchvision:mnasnet0_5")
    save_student(trained, tmp_path)
    assert torch.equal(load_student(tmp_path)(pictures()), trained.eval()(pictures()))


@pytest.mark.parametrize(
    "model", ["torchvision:alexnet", "timm:inception_v3", "torchvision:vit_b_16"]
)
def test_an_architecture_that_does_not_take_the_size_is_refused(model: str) -> None:
    text = refusal(lambda: student(model, input_size=24))
    assert text.startswith(f"student.input_size: {model} does not take 24 pixels (")
    assert text.endswith("): take more, or another model")


def test_a_torchvision_network_takes_the_dropout_of_its_settings() -> None:
    built = student("torchvision:squeezenet1_1", dropout=0.3)
    rates = [module.p for module in built.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.3]
    assert built.eval()(pictures(2)).shape == (2, 3)
    without = student("torchvision:squeezenet1_1")
    assert [module.p for module in without.modules() if isinstance(module, nn.Dropout)] == [0]


@pytest.mark.parametrize("model", ["fiveconv", "resnet8x4", "wrn_10_1", "timm:resnet18"])
def test_dropout_is_part_of_every_training_step(model: str) -> None:
    """Without it, the same pictures get the same answers twice."""
    for rate in (0.0, 0.5):
        training = student(model, dropout=rate).train()
        assert torch.equal(training(pictures()), training(pictures())) == (rate == 0)


def test_dropout_for_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(MenteeError, match="torchvision:resnet18 has no dropout layer"):
        student("torchvision:resnet18", dropout=0.3)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("torchvision:resnet9", "torchvision has no 'resnet9'; near are resnet"),
        ("torchvision:fcn_resnet50", "torchvision has no 'fcn_resnet50'; near are "),
        ("timm:resnet9", "timm has no 'resnet9'; near are resnet"),
        ("timm:zzz", "timm has no 'zzz'"),
        ("fourconv", "'fourconv' is none of fiveconv, resnet<depth>, resnet<depth>x4, wrn_"),
        ("elsewhere:resnet18", "'elsewhere:resnet18' is none of fiveconv, "),
    ],
)
def test_a_network_that_is_not_known_is_refused_with_near_names(model: str, text: str) -> None:
    told = refusal(lambda: student(model))
    assert told.startswith(f"student.model: {text}")
    assert told.endswith("'") == (model == "timm:zzz"), "nothing is near"
