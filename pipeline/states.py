"""Filling a network with weights that were kept as names and tensors alone."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn


def fill(network: nn.Module, state: Mapping[str, Any], strict: bool = True) -> None:
    """`load_state_dict`, also where the file does not say of which version of the network it is.

    Safetensors never does, and torchvision's MNASNet takes nothing that does not. It is then taken
    to be of this version; of the parts of a network nothing is said, as before.
    """
    known: Any = OrderedDict(state)
    known._metadata = getattr(state, "_metadata", {"": {"version": network._version}})
    network.load_state_dict(known, strict=strict)
