"""Data module of semi-supervised training; a training batch is ``{"labelled": (x, y), "unlabelled": x}``."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from sklearn.utils import check_random_state
from torch.utils.data import DataLoader

from ..shared.samplers import RestartingSampler, sampler_shares
from .base import ImageDataModule
from .image_set import ImageSet, UnlabelledSet


class SemiSupervisedDataModule(LightningDataModule):
    """Feeds two different minibatches a step: a labelled one for p(y|x) and an unlabelled one for p(x).

    Two loaders run over the same training images, shuffled independently, on one process and on several, which share
    out either order. An epoch is one pass over the unlabelled images; the labelled loader restarts, in another
    order, whenever it ends. Validation, test, prediction and the transforms are those of the wrapped data module, and
    batches there are ``(x, y)``.
    """

    def __init__(self, data: ImageDataModule, labels_per_class: int | None = None, seed: int = 0) -> None:
        """Wraps a data module.

        Args:
            data: Any image data module of this package or a subclass of one.
            labels_per_class: Labelled images of each class, chosen once; None for all. With fewer labelled images
                than a batch has, a labelled batch is all of them.
            seed: Seed of the choice of the labelled images.

        Raises:
            TypeError: ``data`` is not an image data module.
            ValueError: ``labels_per_class`` is less than 1, or ``data`` has ``classes_per_batch``.
        """
        super().__init__()
        if not isinstance(data, ImageDataModule):
            raise TypeError(f"data must be an image data module such as DigitsDataModule, got {type(data).__name__}")
        if labels_per_class is not None and labels_per_class < 1:
            raise ValueError(f"labels_per_class must be at least 1 or None, got {labels_per_class}")
        if data.classes_per_batch is not None:
            raise ValueError(f"classes_per_batch={data.classes_per_batch} is not for semi-supervised batches")
        self.data, self.labels_per_class, self.seed = data, labels_per_class, seed
        self.num_classes, self.image_shape, self.test_sets = data.num_classes, data.image_shape, data.test_sets
        wrapped = {"class_path": type(data).__name__, **data.hparams}
        self.save_hyperparameters({"data": wrapped, "labels_per_class": labels_per_class, "seed": seed}, logger=False)

    def prepare_data(self) -> None:
        """Downloads what is missing if the wrapped data module is to."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Reads the sets of a stage, unless they have been read."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def train_dataloader(self) -> dict[str, DataLoader]:
        """The two loaders; Lightning combines them in the mode ``max_size_cycle``.

        On one device both are plainly shuffled, by draws of their own from torch's generator. Under a strategy of
        several processes Lightning puts its sampler into the unlabelled one; the labelled one has a sampler already.

        Raises:
            ValueError: A class has fewer than ``labels_per_class`` images, or ``batch_size`` is too large.
        """
        train, _ = self.data.fit_sets()
        labelled = self.labelled_set(train)
        size = max(1, min(self.data.batch_size, len(labelled) // self.data.share[1]))
        shares = sampler_shares(self.trainer)
        sampler = RestartingSampler(labelled, **shares) if shares else None
        return {
            "labelled": self.data.loader(labelled, size, train=True, sampler=sampler),
            "unlabelled": self.data.loader(UnlabelledSet(train.images), self.data.batch_size, train=True),
        }

    def labelled_set(self, train: ImageSet) -> ImageSet:
        """The images whose labels may be used: ``labels_per_class`` of each class, drawn with ``seed``."""
        if self.labels_per_class is None:
            return train
        random, chosen = check_random_state(self.seed), []
        for label in range(self.num_classes):
            members = (train.labels == label).nonzero().view(-1)
            if len(members) < self.labels_per_class:
                raise ValueError(
                    f"labels_per_class={self.labels_per_class}, but class {label} has {len(members)} training images"
                )
            chosen.append(members[torch.from_numpy(random.permutation(len(members))[: self.labels_per_class])])
        indices = torch.cat(chosen)
        return ImageSet(train.images[indices], train.labels[indices])

    def val_dataloader(self) -> Any:
        """The wrapped data module's."""
        return self.data.val_dataloader()

    def test_dataloader(self) -> list[DataLoader]:
        """The wrapped data module's, in the order of ``test_sets``."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> DataLoader:
        """The wrapped data module's."""
        return self.data.predict_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Transforms the images of either batch on the device, each with draws of its own."""
        self.data.trainer = self.trainer
        if not isinstance(batch, dict):
            return self.data.on_after_batch_transfer(batch, dataloader_idx)
        training = self.trainer is not None and self.trainer.training
        augment = training and self.data.augment
        images, labels = batch["labelled"]
        return {
            "labelled": (self.data.transform(images, augment, cut=training), labels),
            "unlabelled": self.data.transform(batch["unlabelled"], augment, cut=training),
        }
