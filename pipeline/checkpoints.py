"""Where a training run stands, so that one that was killed goes on from there."""

import pickle
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.files import replaced_whole

FOLDER = Path(".work/train")
STATE, CURVES = "state.pt", "curves"


class Part(Protocol):
    """Anything whose state can be kept: a network, an optimizer, an order of samples."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Checkpoint:
    """The latest state of one run, in a folder that is replaced as a whole."""

    def __init__(self, name: str, key: str, curves: Path):
        """key: a digest of all that decides the run; a state of another one is never taken up.

        curves: the empty folder of learning curves; those of the state are put there.
        """
        self.folder, self.key, self.curves = FOLDER / name, key, curves
        self._state = self._load()
        if self._state:
            shutil.copytree(self.folder / CURVES, curves, dirs_exist_ok=True)

    def _load(self) -> dict[str, Any] | None:
        try:
            state = torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):
            return None  # there is none, or it is damaged
        return state if state["key"] == self.key else None

    def resume(self, parts: dict[str, Part], device: torch.device) -> int:
        """Bring `parts` and torch's generators back to where they were; the steps that are done."""
        if not self._state:
            return 0
        for name, part in parts.items():
            part.load_state_dict(self._state["parts"][name])
        torch.set_rng_state(self._state["generator"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(self._state["device_generator"], device)
        return self._state["step"]

    def save(self, step: int, parts: dict[str, Part], device: torch.device) -> None:
        state = {
            "key": self.key,
            "step": step,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "generator": torch.get_rng_state(),
        }
        if device.type == "cuda":
            state["device_generator"] = torch.cuda.get_rng_state(device)
        with replaced_whole(self.folder) as fresh:
            torch.save(state, fresh / STATE)
            shutil.copytree(self.curves, fresh / CURVES)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
