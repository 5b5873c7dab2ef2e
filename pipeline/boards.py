"""Learning curves as TensorBoard's files, for those who ask for them."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import MenteeError

if TYPE_CHECKING:  # loaded where it is asked for: it is an extra, and slow
    from torch.utils.tensorboard import SummaryWriter


class Board:
    """Curves of one run, written as they come to `folder`; nowhere if it is None."""

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._writer: SummaryWriter | None = None
        if folder is not None:
            try:
                import torch.utils.tensorboard  # noqa: F401
            except ImportError:
                raise MenteeError(
                    "runtime.tensorboard: TensorBoard is not installed: "
                    "pip install 'mentee[tensorboard]' gets it, null does without"
                ) from None

    def add(self, name: str, value: float, step: int) -> None:
        if self._folder is None:
            return
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier run, or this one before it was killed, wrote of later steps is hidden.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
