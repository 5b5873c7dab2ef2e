"""Where teachers come from, and what they answer."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from pipeline.compute import Compute
from pipeline.errors import MenteeError
from pipeline.files import digest_file
from pipeline.states import fill
from pipeline.taps import tapped
from pipeline.teacher_blocks import Tap
from pipeline.teacher_blocks import Teacher as TeacherParams
from pipeline.teacher_sources import find_source
from pipeline.tuned import Tuned


@dataclass(frozen=True)
class Answers:
    """What a teacher says of n pictures: float32 logits `(n, classes)`, features by tap.

    Features are `(n, C)` where the tap's grid is 1, else `(n, C, grid, grid)`, or
    `(n, 1, grid, grid)` where it keeps attention.
    """

    logits: torch.Tensor
    features: dict[str, torch.Tensor]

    def cpu(self) -> "Answers":
        """The same in the CPU's memory, when the device has computed them."""
        features = {tap: values.to("cpu", non_blocking=True)
                    for tap, values in self.features.items()}  # fmt: skip
        copied = Answers(self.logits.to("cpu", non_blocking=True), features)
        if self.logits.device.type == "cuda":
            torch.cuda.current_stream(self.logits.device).synchronize()
        return copied


class Teacher:
    """A pretrained network in eval mode that answers uint8 pictures of its input size."""

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...],
        weights_digest: str, taps: dict[str, Tap], input_size: int, compute: Compute,
    ):  # fmt: skip
        self.network = (
            network.eval()
            .requires_grad_(False)
            .to(compute.device)
            .to(memory_format=torch.channels_last)
        )
        self.mean, self.std = mean, std
        self.weights_digest = weights_digest
        self.taps, self.input_size = taps, input_size
        self.compute = compute
        self._scale = torch.tensor(std, device=compute.device).view(3, 1, 1) * 255
        self._shift = torch.tensor(mean, device=compute.device).view(3, 1, 1) * 255

    @property
    def preprocessing(self) -> str:
        """What happens to the uint8 pixels, in one line that a cache records."""
        return f"(pixels / 255 - {list(self.mean)}) / {list(self.std)}"

    def normalise(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 `(n, 3, s, s)` -> float32 of the same shape on the device, for the network."""
        pictures = pictures.to(self.compute.device, non_blocking=True)
        inputs = (pictures - self._shift) / self._scale
        return inputs.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def answer(self, pictures: torch.Tensor) -> Answers:
        """uint8 `(n, 3, s, s)` -> float32 logits and features, in the order of `pictures`."""
        assert not any(module.training for module in self.network.modules())
        inputs = self.normalise(pictures)
        modules = {name: tap.module for name, tap in self.taps.items()}
        with tapped(self.network, modules, "teacher.taps.{}") as features, self.compute.autocast():
            logits = self.network(inputs)
        kept = {}
        for name, tap in self.taps.items():
            pooled = pool(features.get(name), name, tap.grid)
            kept[name] = attention(pooled) if tap.keep == "attention" else pooled
        return Answers(logits.float(), kept)


def pool(features: torch.Tensor | None, name: str, grid: int) -> torch.Tensor:
    """Average float32 features over a grid: `(n, C)` or `(n, C, h, w)`, h = w = grid afterwards."""
    if not isinstance(features, torch.Tensor):
        raise MenteeError(
            f"teacher.taps.{name}: its module is never run, or puts out no tensor; tap another"
        )
    features = features.float()
    if features.dim() == 2:
        if grid > 1:
            raise MenteeError(f"teacher.taps.{name}: its features are pooled, grid must be 1")
        return features
    if features.dim() != 4:
        raise MenteeError(
            f"teacher.taps.{name}: features of shape {tuple(features.shape)} are not "
            f"(n, C) or (n, C, h, w); tap another module"
        )
    if grid == 1:
        return features.mean((2, 3))
    if grid > min(features.shape[2:]):
        raise MenteeError(
            f"teacher.taps.{name}: grid {grid} is larger than its maps, "
            f"{features.shape[2]} x {features.shape[3]}"
        )
    return F.adaptive_avg_pool2d(features, grid)


def attention(maps: torch.Tensor) -> torch.Tensor:
    """sqrt(mean over channels of x^2): `(n, C, h, w)` -> `(n, 1, h, w)`.

    All that attention transfer takes of a teacher (Zagoruyko and Komodakis, 2017): the root, so
    that what squares these maps too gets the same, and float16 holds them.
    """
    return maps.square().mean(1, keepdim=True).sqrt()


def load_teacher(params: TeacherParams, compute: Compute, tuned: Tuned | None = None) -> Teacher:
    """Build the network that `params.model` names, fill it with `params.weights` or the tuned ones.

    Before the tuned ones it is built just as for tuning: what is downloaded may be built otherwise.
    """
    source = find_source(params)
    network, weights_digest = source.network, source.weights_digest
    if tuned:
        replace_classifier(network, tuned.classes)
        fill(network, load_file(tuned.weights))
        weights_digest = digest_file(tuned.weights)
    size = params.input_size
    teacher = Teacher(network, source.mean, source.std, weights_digest, params.taps, size, compute)
    try:  # a tap or a size that does not fit is found before any image is read
        teacher.answer(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    except (AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MenteeError(
            f"teacher.input_size: {params.model} does not take {size} pixels ({reason})"
        ) from None
    if params.is_whole:
        check_independent(teacher, params.model)
    return teacher


def check_independent(teacher: Teacher, model: str) -> None:
    """A MenteeError where an answer depends on the pictures beside it.

    So does a network that was saved in training mode, whatever eval() is told afterwards: batch
    normalisation reads the batch, and dropout falls anew.
    """
    size = teacher.input_size
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=generator)
    pictures = noise >> torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1)  # bright ones and dark
    one, two = teacher.answer(pictures), teacher.answer(pictures[[0, 0, 0, 0]])
    spread = one.logits.std().clamp_min(1e-6)
    if (one.logits[0] - two.logits[0]).abs().max() > 0.1 * spread:
        raise MenteeError(
            f"teacher.model: what {model} says of a picture depends on those beside it: call "
            f"eval() before you save it"
        )


def replace_classifier(network: nn.Module, classes: int) -> list[nn.Module]:
    """Give a network a fresh classifier over so many classes; returns what it consists of."""
    device = next(network.parameters()).device
    if hasattr(network, "reset_classifier"):  # all of timm's have it, none of torchvision's
        own: Any = network  # whose type does not tell of timm's methods
        own.reset_classifier(classes)
        classifier = own.get_classifier()
        fresh = list(classifier) if isinstance(classifier, tuple) else [classifier]
        return [module.to(device) for module in fresh]  # not all of timm puts it there
    path, last = [
        (path, module)
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    if isinstance(last, nn.Linear):
        layer: nn.Module = nn.Linear(last.in_features, classes, last.bias is not None)
    else:  # SqueezeNet's
        height, width = last.kernel_size
        layer = nn.Conv2d(last.in_channels, classes, (height, width))
    network.set_submodule(path, layer.to(device))
    return [layer]
