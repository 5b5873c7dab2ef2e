"""Networks that a file holds whole, made by torch.export or TorchScript."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from pipeline.errors import MenteeError, near, reason

LOGITS = "logits"


def exported(path: Path) -> nn.Module:
    """A file of torch.export.save, with the modules it was made of, so that taps find them.

    The batch must have been exported as dynamic. torch evaluates expressions of such a file when
    it loads it: like a program, take one only from someone whom you trust. Pickled objects in it
    are refused all the same.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [name for name in archive.namelist() if "_obj_" in Path(name).name]
        if pickled:
            raise ValueError(f"it holds pickled objects, like {pickled[0]}")
        with tensors_only():
            return torch.export.unflatten(torch.export.load(path))
    except Exception as error:  # whatever a file that is none makes torch stumble over
        raise _not_loaded(path, "exported program", error) from None


@contextmanager
def tensors_only() -> Iterator[None]:
    """torch.load unpickles nothing but tensors, whoever calls it and however."""
    switch, before = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", dict(os.environ)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        os.environ.pop(switch)
        if switch in before:
            os.environ[switch] = before[switch]


def torchscript(path: Path, told: Sequence[str]) -> nn.Module:
    """A file of torch.jit.save. No hook reaches into a script, so that it must tell its features.

    told: the names by which its forward returns them, in a dictionary with its "logits".
    """
    try:
        return Telling(torch.jit.load(path, map_location="cpu"), told)
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_loaded(path, "TorchScript file", error) from None


class Telling(nn.Module):
    """A script whose features pass through modules of their names, where taps read them."""

    def __init__(self, script: nn.Module, told: Sequence[str]):
        super().__init__()
        self.script, self.told = script, list(told)
        for name in self.told:
            if not name.isidentifier() or hasattr(self, name):
                raise ValueError(f"{name!r} is no name for what it tells")
            self.add_module(name, nn.Identity())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answers = self.script(inputs)
        known = answers if isinstance(answers, dict) else {}
        for name in (LOGITS, *self.told):
            if name not in known:
                raise MenteeError(
                    f"teacher.taps: the script returns no {name!r}{near(name, known)}; its forward "
                    f"must return a dictionary of {LOGITS!r} and what the taps read, it has: "
                    f"{', '.join(known) or 'none'}"
                )
            if name != LOGITS:
                self.get_submodule(name)(known[name])
        return known[LOGITS]


def _not_loaded(path: Path, what: str, error: Exception) -> MenteeError:
    if not path.is_file():
        return MenteeError(f"teacher.model: {path} is not there")
    return MenteeError(f"teacher.model: {path} is no {what} that torch reads ({reason(error)})")
