"""The networks trained from scratch, their taps, and how they are kept on disk."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from pipeline.blocks import Student as StudentParams
from pipeline.blocks import once
from pipeline.compute import memory_format_of
from pipeline.errors import MenteeError, near, reason
from pipeline.files import read_json, write_json, written_whole
from pipeline.resnets import residual
from pipeline.states import fill
from pipeline.taps import tapped

WEIGHTS_FILE, CARD_FILE = "student.safetensors", "student.json"
FORMAT = 2  # format 1 knew no depth: its fiveconv had five convolutions
ClassNames = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(once)]
Side = Annotated[int, Field(ge=8, le=1024, strict=True)]  # pixels
Channels = Field(min_length=3, max_length=3)


def fiveconv(classes: int, width: int, depth: int, dropout: float) -> nn.Module:
    """3x3 convolutions and a linear layer, after the mentee of Venkatesan and Li (2016).

    The convolutions are spread evenly over three resolutions with w/2, w and 2w channels, the
    smaller ones taking what is left over: 1, 2 and 2 of five. The first of each halves its maps
    before batch normalisation and ReLU, so that little work is done on large maps. The taps are
    `conv1` to `conv<depth>` `(n, C, h, w)` and `pooled` `(n, 2w)`.
    """
    counts = (depth // 3, (depth + 1) // 3, (depth + 2) // 3)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    before = 3
    for channels, count in zip((width // 2, width, 2 * width), counts, strict=True):
        for number in range(count):
            parts[f"conv{len(parts) + 1}"] = _convolution(before, channels, halve=number == 0)
            before = channels
    parts["pooled"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    parts["dropout"] = nn.Dropout(dropout)
    parts["classifier"] = nn.Linear(before, classes)
    return nn.Sequential(parts)


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

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # where one is read

    model: str
    width: int
    depth: int
    dropout: Annotated[float, Field(ge=0, lt=1)]
    input_size: Side
    image_size: Side
    class_names: ClassNames
    mean: Annotated[tuple[float, ...], Channels]
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Channels]
    about: dict[str, Any]

    @classmethod
    def of(
        cls, params: StudentParams, dropout: float, class_names: tuple[str, ...],
        images: torch.Tensor, about: dict[str, Any],
    ) -> "Card":  # fmt: skip
        """A card whose mean and deviation are those of `images` uint8 `(n, H, W, 3)`, in 0..1."""
        mean, std = pixel_statistics(images)
        return cls(
            params.model, params.width, params.depth, dropout, params.input_size, images.shape[1],
            class_names, tuple(mean.tolist()), tuple(std.clamp_min(1e-3).tolist()), about,
        )  # fmt: skip


def pixel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation by channel of uint8 `(n, H, W, 3)`, in 0..1: float64 `(3,)` each.

    Some images at a time, so that memory is bounded; the sums are whole numbers, and so exact.
    """
    total = squares = torch.zeros(3, dtype=torch.float64)
    for part in images.split(256):
        pixels = part.double().flatten(0, 2)
        total, squares = total + pixels.sum(0), squares + pixels.square().sum(0)
    count = images[..., 0].numel()
    mean = total / count
    variance = (squares - total * mean) / (count - 1)
    return mean / 255, variance.clamp_min(0).sqrt() / 255


class Student(nn.Module):
    """A network that takes uint8 pictures `(n, 3, s, s)` and gives logits `(n, classes)`."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, card: Card):
        super().__init__()
        self.card = card
        self.network = _build(card)
        self.memory_format = memory_format_of(self.network)
        self.network.to(memory_format=self.memory_format)
        self.register_buffer("scale", torch.tensor(card.std).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("shift", torch.tensor(card.mean).view(3, 1, 1) * 255, persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 `(n, 3, s, s)` -> logits `(n, classes)`; s is the card's input_size."""
        inputs = (pictures - self.shift) / self.scale
        return self.network(inputs.contiguous(memory_format=self.memory_format))

    def tapped(self, taps: Iterable[str]) -> AbstractContextManager[dict[str, torch.Tensor]]:
        """Read the features at `taps`, module paths of the network: see `pipeline.taps`."""
        modules = {tap: tap for tap in taps}
        # The children of our own networks work in place on nothing but what they made themselves.
        own = ":" not in self.card.model
        untouched = [tap for tap in modules if own and "." not in tap]
        return tapped(self.network, modules, "probes.student", untouched)

    def feature_shapes(self, taps: set[str]) -> dict[str, tuple[int, ...]]:
        """The shape of one row of features at each tap, `(C,)` or `(C, h, w)`.

        A MenteeError says which tap is no such place, and which places there are.
        """
        features = self._look(taps)
        for tap in sorted(taps):
            found = features.get(tap)
            if not isinstance(found, torch.Tensor) or found.dim() not in (2, 4):
                raise MenteeError(
                    f"probes.student: {tap} is never run, or puts out no features of shape (n, C) "
                    f"or (n, C, h, w): tap another module"
                )
        return {tap: tuple(features[tap].shape[1:]) for tap in taps}

    def depth_taps(self) -> list[str]:
        """The network's own children as taps, in the order in which they run.

        Those count that put out features `(n, C)` or `(n, C, h, w)`. What has no parameters and
        puts out as many numbers as the tap before it adds nothing: dropout, activations,
        identities. The last child with parameters puts out the logits.
        """
        children = dict(self.network.named_children())
        features = self._look(children)
        learnt = [name for name in features if list(children[name].parameters())]
        taps, numbers = [], 0
        for name, found in features.items():
            if name in learnt[-1:]:
                break
            if not isinstance(found, torch.Tensor) or found.dim() not in (2, 4):
                continue
            if name in learnt or found.numel() != numbers:
                taps.append(name)
                numbers = found.numel()
        return taps

    def up_to(self, tap: str) -> list[str]:
        """The network's own children that run up to and including one of `depth_taps`."""
        order = list(self._look(dict(self.network.named_children())))
        return order[: order.index(tap) + 1]

    def _look(self, taps: Iterable[str]) -> dict[str, torch.Tensor]:
        """What `taps` put out for one black picture, in the order in which they ran."""
        size = self.card.input_size
        was_training = self.training
        with torch.no_grad(), self.tapped(taps) as features:
            self.eval()(torch.zeros(1, 3, size, size, device=self.scale.device))
        self.train(was_training)
        return features

    def count_parameters(self) -> int:
        """Numbers that are trained; the statistics of batch normalisation are none."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def _build(card: Card) -> nn.Module:
    library, _, name = card.model.partition(":")
    classes = len(card.class_names)
    if library in LIBRARIES:
        return _from_library(card, LIBRARIES[library], name)
    if card.model == "fiveconv":
        return fiveconv(classes, card.width, card.depth, card.dropout)
    return residual(card.model, classes, card.dropout)


def _from_library(card: Card, make: Callable[[str, Card], nn.Module], name: str) -> nn.Module:
    """An architecture without weights, tried with one picture: not every one takes every size."""
    size = card.input_size
    try:
        network = make(name, card)
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        why = reason(error) or type(error).__name__
        raise MenteeError(
            f"student.input_size: {card.model} does not take {size} pixels ({why}): take more, or "
            f"another model"
        ) from None
    return network.train()


def _torchvision(name: str, card: Card) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise MenteeError(f"student.model: torchvision has no {name!r}{near(name, known)}")
    own: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # they answer with a tuple while they train
        own["aux_logits"] = False
    if name.startswith("vit_"):
        own["image_size"] = card.input_size
    network = torchvision.models.get_model(
        name, weights=None, num_classes=len(card.class_names), **own
    )
    # They bring dropout layers, with rates of their own.
    layers = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    if card.dropout and not layers:
        raise MenteeError(f"settings: dropout is set, but {card.model} has no dropout layer")
    for layer in layers:
        layer.p = card.dropout
    return network


def _timm(name: str, card: Card) -> nn.Module:
    import timm  # it loads slowly

    known = timm.list_models()
    if name not in known:
        raise MenteeError(f"student.model: timm has no {name!r}{near(name, known)}")
    own: dict[str, Any] = {}
    config = timm.get_pretrained_cfg(name)
    if config and config.fixed_input_size:
        own["img_size"] = card.input_size
    return timm.create_model(name, num_classes=len(card.class_names), drop_rate=card.dropout, **own)


LIBRARIES = {"torchvision": _torchvision, "timm": _timm}


def save_student(student: Student, folder: Path) -> None:
    """Weights as safetensors, the card as JSON: files that cannot run anything.

    What several names of a network share is written under each of them.
    """
    card = student.card
    content = {**vars(card), "format": FORMAT}
    state = {
        key: value.clone(memory_format=torch.contiguous_format)
        for key, value in student.network.state_dict().items()
    }
    with written_whole(folder / WEIGHTS_FILE) as partial:
        partial.write_bytes(save(state))  # of a full disk safetensors has an error of its own
    write_json(folder / CARD_FILE, content)


def load_student(folder: Path) -> Student:
    """The student in a folder that `mentee train` wrote, in eval mode on the CPU."""
    try:
        content = read_json(folder / CARD_FILE)
        version = content.pop("format")
        if version == 1:
            content["depth"] = 5
        elif version != FORMAT:
            raise MenteeError(f"{folder} was written by another version: train it again")
        # A card may be a stranger's: it asks for nothing that params could not ask for.
        StudentParams(**{key: content[key] for key in StudentParams.model_fields})
        student = Student(TypeAdapter(Card).validate_python(content))
        state = load_file(folder / WEIGHTS_FILE)
        fill(student.network, state)
        if any(values.isnan().any() for values in state.values()):
            raise ValueError("weights that are no numbers")
    except (FileNotFoundError, NotADirectoryError):
        raise MenteeError(
            f"{folder} holds no student: run `mentee train`, or name a folder with {CARD_FILE}"
        ) from None
    except (
        AttributeError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError,
    ) as error:  # fmt: skip
        raise MenteeError(
            f"{folder} holds a damaged student ({reason(error)}): train it again"
        ) from None
    return student.eval()
