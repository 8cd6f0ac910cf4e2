"""The precision that losses are computed in."""

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; all else as it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
