"""Pairs of domains that are told apart by the numbers on their images."""

import os

import torch
from data_sets import Numbered, Recorder, as_bytes, trainer

ZOO_DATA = os.environ.get("ZOO_DATA", "")
QUIET = {"val_split": 4, "augment": False}


class Other(Numbered):
    """Another domain of the same classes: planes of the values from 200 on, 18 to train on."""

    name = "other"
    train_images = 18

    def load_split(self, train):
        count = self.train_images if train else 6
        values = torch.arange(count, dtype=torch.uint8) + (200 if train else 230)
        return values.view(-1, 1, 1, 1).expand(-1, *self.image_shape).contiguous(), torch.arange(count) % 4


class Colour(Numbered):
    """Random RGB images of 6x6."""

    name, image_shape = "colour", (3, 6, 6)

    def load_split(self, train):
        generator = torch.Generator().manual_seed(int(train))
        images = torch.randint(0, 256, (40, *self.image_shape), dtype=torch.uint8, generator=generator)
        return images, torch.arange(40) % 4


class Both(Recorder):
    """Takes two validation loaders."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen["val"].append((dataloader_idx, batch))


def numbers(images):
    return as_bytes(images)[:, 0, 0, 0].tolist()


def run(data, **arguments):
    module = Both()
    runner = trainer(num_sanity_val_steps=0, **arguments)
    runner.fit(module, data)
    return module.seen["train"]
