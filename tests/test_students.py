"""Networks trained from scratch: their shapes, their taps, and how they are kept on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import MenteeError
from pipeline.params import Student as StudentParams
from pipeline.students import CARD_FILE, WEIGHTS_FILE, Card, Student, load_student, save_student


def student(
    model: str = "fiveconv", classes: int = 3, dropout: float = 0.0, **card: Any
) -> Student:
    names = tuple(f"class{c}" for c in range(classes))
    content = {"width": 8, "input_size": 32, "image_size": 32, "about": {}, **card}
    grey = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    return Student(Card(model=model, dropout=dropout, class_names=names, **{**grey, **content}))


def pictures(count: int = 4, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def test_fiveconv_answers_a_logit_a_class_and_picture() -> None:
    assert student(classes=7).eval()(pictures(4)).shape == (4, 7)
    assert student(input_size=48).eval()(pictures(2, size=48)).shape == (2, 3)


def test_fiveconv_has_the_taps_of_its_description() -> None:
    shapes = student().feature_shapes({"conv1", "conv2", "conv3", "conv4", "conv5", "pooled"})
    assert shapes == {
        "conv1": (4, 16, 16),
        "conv2": (8, 8, 8),
        "conv3": (8, 8, 8),
        "conv4": (16, 4, 4),
        "conv5": (16, 4, 4),
        "pooled": (16,),
    }


def test_fiveconv_has_as_many_parameters_as_its_layers_add_up_to() -> None:
    def convolution(channels_in: int, channels_out: int) -> int:
        normalisation = 2 * channels_out
        return 9 * channels_in * channels_out + normalisation

    w, classes = 8, 3
    layers = [(3, w // 2), (w // 2, w), (w, w), (w, 2 * w), (2 * w, 2 * w)]
    linear = 2 * w * classes + classes
    total = sum(convolution(*layer) for layer in layers) + linear
    assert student(classes=classes).count_parameters() == total


def test_a_tap_that_is_not_there_is_told_those_that_are() -> None:
    with pytest.raises(MenteeError) as caught:
        student().feature_shapes({"conv9"})
    text = str(caught.value)
    assert text.startswith("tap 'conv9': no module 'conv9' here; there are: ")
    paths = text.split("there are: ")[1].split(", ")
    assert {"conv1", "conv5", "pooled", "classifier"} <= set(paths)
    assert paths == sorted(paths)


def test_looking_at_taps_leaves_the_student_as_it_was() -> None:
    looked_at = student().train()
    before = {name: value.clone() for name, value in looked_at.state_dict().items()}
    looked_at.feature_shapes({"conv3"})
    assert looked_at.training
    assert looked_at.network.conv3.training
    for name, value in looked_at.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_student_sees_pixels_that_are_centred_and_scaled_by_its_card() -> None:
    seen = []
    looking = student(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5)).eval()
    looking.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    looking(torch.full((1, 3, 32, 32), 51, dtype=torch.uint8))  # 51 / 255 = 0.2
    by_hand = [(0.2 - 0.2) / 0.1, (0.2 - 0.4) / 0.2, (0.2 - 0.6) / 0.5]
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx(by_hand, abs=1e-6)


def test_a_card_holds_the_mean_and_deviation_of_the_images() -> None:
    params = StudentParams(model="fiveconv", width=8, input_size=24)
    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    images[:2, ..., 0] = 255  # half black, half full; green is one shade; blue is black
    images[..., 1] = 51
    card = Card.of(params, 0.3, ("a", "b"), images, {"why": "test"})
    assert card.mean == pytest.approx((0.5, 0.2, 0.0))
    assert card.std[0] == pytest.approx(0.5, rel=1e-3)
    assert card.std[1:] == (1e-3, 1e-3), "a channel of one shade must not divide by 0"
    assert (card.input_size, card.image_size, card.dropout) == (24, 16, 0.3)


def test_dropout_is_before_the_last_layer_and_silent_when_answering() -> None:
    dropping = student(dropout=0.5)
    assert dropping.network.dropout.p == 0.5
    pooled = torch.ones(1, 16)
    assert (dropping.train().network.dropout(pooled) == 0).any()
    assert torch.equal(dropping.eval().network.dropout(pooled), pooled)


def save_trained(folder: Path, model: str = "fiveconv") -> Student:
    """A student whose batch statistics are not those it was born with."""
    trained = student(model, about={"mode": "obedient", "accuracy": 0.5}).train()
    trained(pictures(8))
    save_student(trained.eval(), folder)
    return trained


def test_a_student_that_was_saved_answers_the_same(tmp_path: Path) -> None:
    trained = save_trained(tmp_path / "new/student")
    loaded = load_student(tmp_path / "new/student")
    assert torch.equal(loaded(pictures()), trained(pictures()))
    assert loaded.card == trained.card
    assert not loaded.training
    names = {path.name for path in (tmp_path / "new/student").iterdir()}
    assert names == {WEIGHTS_FILE, CARD_FILE}


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
     {"model": 5}],
)  # fmt: skip
def test_a_card_that_does_not_fit_its_weights_is_one_line(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    save_trained(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, **changes}))
    assert "holds a damaged student (" in complaint(tmp_path)


def test_a_student_of_another_format_is_refused(tmp_path: Path) -> None:
    save_trained(tmp_path)
    card = json.loads((tmp_path / CARD_FILE).read_text())
    (tmp_path / CARD_FILE).write_text(json.dumps({**card, "format": 99}))
    assert "was written by another version" in complaint(tmp_path)


def test_a_torchvision_network_is_built_without_weights_and_kept_like_any_other(
    tmp_path: Path,
) -> None:
    built = student("torchvision:resnet18")
    assert built.feature_shapes({"layer4", "avgpool", "fc"}) == {
        "layer4": (512, 1, 1),
        "avgpool": (512, 1, 1),
        "fc": (3,),
    }
    other = student("torchvision:resnet18")
    first, second = built.network.conv1.weight, other.network.conv1.weight
    assert not torch.equal(first, second), "weights are drawn, not loaded"
    save_student(built.eval(), tmp_path)
    assert torch.equal(load_student(tmp_path)(pictures(2)), built(pictures(2)))


def test_a_torchvision_network_takes_the_dropout_of_its_settings() -> None:
    built = student("torchvision:squeezenet1_1", dropout=0.3)
    rates = [module.p for module in built.modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.3]
    assert built.eval()(pictures(2)).shape == (2, 3)
    without = student("torchvision:squeezenet1_1")
    assert [module.p for module in without.modules() if isinstance(module, nn.Dropout)] == [0]


def test_dropout_for_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(MenteeError, match="torchvision:resnet18 has no dropout layer"):
        student("torchvision:resnet18", dropout=0.3)


def test_a_network_that_torchvision_has_not_is_refused() -> None:
    with pytest.raises(MenteeError, match=r"student\.model: 'torchvision:resnet9' is neither"):
        student("torchvision:resnet9")
