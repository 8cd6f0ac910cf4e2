"""Random number generators and training modes, which callbacks leave as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch import nn


def random_state(device: torch.device) -> dict[str, Any]:
    """Read the generators of Python, NumPy, torch on the CPU and, for a CUDA device, of that device.

    The result holds only tensors, numbers and tuples, so that a checkpoint with it loads with ``weights_only=True``.
    """
    name, keys, position, has_gauss, gauss = mtrand.get_state()
    words = torch.from_numpy(np.asarray(keys, dtype=np.int64))
    return {
        "python": random.getstate(),
        "numpy": (str(name), words, int(position), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what `random_state` read.

    The state of CUDA is ignored on another device; if it is missing, CUDA is seeded from the state of the CPU.
    """
    random.setstate(state["python"])
    name, words, position, has_gauss, gauss = state["numpy"]
    mtrand.set_state((name, words.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    elif device.type == "cuda":
        torch.cuda.manual_seed(int(torch.randint(2**63 - 1, ()).item()))


@contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """Restore the generators at the end of the ``with`` block, whatever was drawn inside."""
    state = random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, and each of its parts back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
