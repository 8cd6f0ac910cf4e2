"""Draws of sprites, and what tests look at of them."""

import numpy as np
import torch
from data_sets import Recorder, trainer
from PIL import Image

from datamodules.factors import render as sprites

VARIANTS = ("color", "noisy", "scream")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def run(data, epochs=1, **arguments):
    """The training batches, a list for each epoch."""
    module = Recorder()
    runner = trainer(**{"num_sanity_val_steps": 0, "limit_val_batches": 0} | arguments)
    runner.fit_loop.max_epochs = epochs
    runner.fit(module, data)
    steps = module.seen["train"]
    size = len(steps) // epochs
    return [steps[start : start + size] for start in range(0, len(steps), size)]


def stacked(batches):
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def sprite_of(factors):
    return sprites.render(factors)[:, None]


def picture_of_places(path, rows, columns):
    """A picture whose red is its row and whose green is its column; blue is 0."""
    pixels = np.zeros((rows, columns, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(rows)[:, None], np.arange(columns)
    Image.fromarray(pixels).save(path)
    return str(path)
