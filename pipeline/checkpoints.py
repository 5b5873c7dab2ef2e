"""Where a training run stands, so that one that was killed goes on from there."""

import io
import pickle
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.files import replaced_whole
from pipeline.ranks import ALONE, Ranks

FOLDER = Path(".work/train")
STATE, CURVES = "state.pt", "curves"


class Part(Protocol):
    """Anything whose state can be kept: a network, an optimizer, an order of samples."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class Checkpoint:
    """The latest state of one run, in a folder of the first rank that is replaced as a whole."""

    def __init__(self, name: str, key: str, curves: Path | None, ranks: Ranks = ALONE):
        """key: a digest of all that decides the run; a state of another one is never taken up.

        curves: an empty folder of learning curves, to which those of the state are brought; the
        first rank's alone.
        """
        self.folder, self.key, self.curves, self.ranks = FOLDER / name, key, curves, ranks
        self._state = self._load()
        if self._state and curves:
            shutil.copytree(self.folder / CURVES, curves, dirs_exist_ok=True)

    def _load(self) -> dict[str, Any] | None:
        content = b""
        if self.ranks.is_first:
            with suppress(OSError):
                content = (self.folder / STATE).read_bytes()
        content = self.ranks.share(content)  # the folder may be on another machine
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):
            return None  # there is none, or it is damaged
        return state if state["key"] == self.key else None

    @property
    def step(self) -> int:
        """After which step it was kept; 0 where there is none."""
        return self._state["step"] if self._state else 0

    def resume(self, parts: dict[str, Part], device: torch.device) -> int:
        """Bring `parts` and torch's generators back to where they were; the steps that are done."""
        if not self._state:
            return 0
        for name, part in parts.items():
            part.load_state_dict(self._state["parts"][name])
        # Copies: torch reads from where a tensor's storage begins.
        torch.set_rng_state(self._state["generators"][self.ranks.rank].clone())
        if device.type == "cuda":
            own = self._state["device_generators"][self.ranks.rank].clone()
            torch.cuda.set_rng_state(own, device)
        return self._state["step"]

    def save(self, step: int, parts: dict[str, Part], device: torch.device) -> None:
        """Keep the state after `step`; all ranks call it, since each has a generator of its own."""
        state = {
            "key": self.key,
            "step": step,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "generators": self._of_all(torch.get_rng_state()),
        }
        if device.type == "cuda":
            state["device_generators"] = self._of_all(torch.cuda.get_rng_state(device))
        if self.curves is None:
            return
        content = io.BytesIO()  # torch does not say of a full disk that it is full
        torch.save(state, content)
        with replaced_whole(self.folder) as fresh:
            (fresh / STATE).write_bytes(content.getbuffer())
            shutil.copytree(self.curves, fresh / CURVES)

    def _of_all(self, generator: torch.Tensor) -> torch.Tensor:
        """The states of all ranks' generators: each draws its own dropout."""
        return self.ranks.whole(generator[None], self.ranks.count)

    def remove(self) -> None:
        """Forget the run: what came of it is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
