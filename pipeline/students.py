"""The networks trained from scratch, their taps, and how they are kept on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.errors import MenteeError
from pipeline.files import read_json, write_json, written_whole
from pipeline.params import Student as StudentParams
from pipeline.taps import tapped

WEIGHTS_FILE, CARD_FILE = "student.safetensors", "student.json"
FORMAT = 1


class FiveConv(nn.Module):
    """Five 3x3 convolutions and a linear layer, after the mentee of Venkatesan and Li (2016).

    Channels are w/2, w, w, 2w, 2w. Maps are halved after the first, second and fourth convolution,
    before batch normalisation and ReLU, so that little work is done on large maps. The taps are
    `conv1` to `conv5` `(n, C, h, w)` and `pooled` `(n, 2w)`.
    """

    def __init__(self, classes: int, width: int, dropout: float):
        super().__init__()
        self.conv1 = _convolution(3, width // 2, halve=True)
        self.conv2 = _convolution(width // 2, width, halve=True)
        self.conv3 = _convolution(width, width, halve=False)
        self.conv4 = _convolution(width, 2 * width, halve=True)
        self.conv5 = _convolution(2 * width, 2 * width, halve=False)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(images)))))
        return self.classifier(self.dropout(self.pooled(maps)))


def _convolution(channels_in: int, channels_out: int, halve: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        *([nn.MaxPool2d(2)] if halve else []),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


@dataclass(frozen=True)
class Card:
    """All that is needed to build a student again and to use it: what student.json holds."""

    model: str
    width: int
    dropout: float
    input_size: int
    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: dict[str, Any]

    @classmethod
    def of(
        cls, params: StudentParams, dropout: float, class_names: tuple[str, ...],
        images: torch.Tensor, about: dict[str, Any],
    ) -> "Card":  # fmt: skip
        """A card whose mean and deviation are those of `images` uint8 `(n, H, W, 3)`, in 0..1."""
        pixels = images.double().div(255).flatten(0, 2)
        return cls(
            params.model, params.width, dropout, params.input_size, images.shape[1], class_names,
            tuple(pixels.mean(0).tolist()), tuple(pixels.std(0).clamp_min(1e-3).tolist()), about,
        )  # fmt: skip


class Student(nn.Module):
    """A network that takes uint8 pictures `(n, 3, s, s)` and gives logits `(n, classes)`."""

    def __init__(self, card: Card):
        super().__init__()
        self.card = card
        self.network = _build(card)
        self.register_buffer("scale", torch.tensor(card.std).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("shift", torch.tensor(card.mean).view(3, 1, 1) * 255, persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        inputs = (pictures - self.shift) / self.scale
        return self.network(inputs.contiguous(memory_format=torch.channels_last))

    def feature_shapes(self, taps: set[str]) -> dict[str, tuple[int, ...]]:
        """The shape of one row of features at each tap; a MenteeError lists the taps there are."""
        size = self.card.input_size
        device = self.scale.device
        was_training = self.training
        with torch.inference_mode(), tapped(self.network, {tap: tap for tap in taps}) as features:
            self.eval()(torch.zeros(1, 3, size, size, device=device))
        self.train(was_training)
        return {tap: tuple(features[tap].shape[1:]) for tap in taps}

    def count_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


def _build(card: Card) -> nn.Module:
    classes = len(card.class_names)
    library, _, name = card.model.partition(":")
    if library == "fiveconv":
        network: nn.Module = FiveConv(classes, card.width, card.dropout)
    else:
        import torchvision

        if library != "torchvision" or name not in torchvision.models.list_models(
            module=torchvision.models
        ):
            raise MenteeError(
                f"student.model: {card.model!r} is neither fiveconv nor in torchvision.models"
            )
        # The Inception family answers with a tuple while it trains, unless told not to.
        plain = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
        network = torchvision.models.get_model(name, weights=None, num_classes=classes, **plain)
        _set_dropout(network, name, card.dropout)
    return network.to(memory_format=torch.channels_last)


def _set_dropout(network: nn.Module, name: str, rate: float) -> None:
    """Torchvision's networks bring dropout layers of their own: give them the variant's rate."""
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    if rate and not layers:
        raise MenteeError(f"settings: dropout is set, but torchvision:{name} has no dropout layer")
    for layer in layers:
        layer.p = rate


def save_student(student: Student, folder: Path) -> None:
    """Weights as safetensors, the card as JSON: files that cannot run anything."""
    card = student.card
    content = {**vars(card), "format": FORMAT}
    state = {key: value.contiguous() for key, value in student.network.state_dict().items()}
    with written_whole(folder / WEIGHTS_FILE) as partial:
        save_file(state, partial)
    write_json(folder / CARD_FILE, content)


def load_student(folder: Path) -> Student:
    """The student in a folder that `mentee train` wrote, in eval mode on the CPU."""
    try:
        content = read_json(folder / CARD_FILE)
        if content.pop("format") != FORMAT:
            raise MenteeError(f"{folder} was written by another version: train it again")
        for field in ("class_names", "mean", "std"):
            content[field] = tuple(content[field])
        student = Student(Card(**content))
        student.network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except FileNotFoundError:
        raise MenteeError(
            f"{folder} holds no student: run `mentee train`, or name a folder with {CARD_FILE}"
        ) from None
    except (
        AttributeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise MenteeError(f"{folder} holds a damaged student ({reason}): train it again") from None
    return student.eval()
