"""Data module of unsupervised domain adaptation; a training batch is ``{"source": (x, y), "target": x}``."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..images.base import ImageDataModule
from ..images.image_set import ImageSet, UnlabelledSet
from ..images.ood_sets import fit
from ..shared.samplers import RestartingSampler, sampler_shares

Shape = tuple[int, int, int]


def common_shape(source: Shape, target: Shape, image_size: int | None, channels: int | None) -> Shape:
    """The shape (C, H, W) to which the images of both domains are brought; arguments as in ``AdaptationDataModule``.

    Raises:
        ValueError: The shapes differ and the arguments do not say which to use, or cannot be reached.
    """
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 or None, got {image_size}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (grey), 3 (RGB) or None, got {channels}")
    both, wanted = f"the source has images of shape {source}, the target of shape {target}", []
    if channels is None and source[0] != target[0]:
        wanted.append(f"channels={max(source[0], target[0])}")
    if image_size is None and source[1:] != target[1:]:
        wanted.append(f"image_size={max(*source[1:], *target[1:])}")
    if wanted:
        raise ValueError(f"{both}: say to what they are brought, e.g. by {' and '.join(wanted)}")
    common = source[0] if channels is None else channels
    if any(own not in (1, 3, common) for own in (source[0], target[0])):
        raise ValueError(f"{both}: only grey (1) and RGB (3) can be brought to channels={common}")
    height, width = source[1:] if image_size is None else (image_size, image_size)
    return common, height, width


class AdaptationDataModule(LightningDataModule):
    """Pairs two domains with the same classes: a source with labels and a target without.

    A step gets a minibatch of each, shuffled independently, on one process and on several, which share out either
    set. An epoch is one pass over the domain with more batches; the other one restarts, in another order, whenever
    it ends. The target's labels stay here in training: its loader reads a set without labels, and its images are split
    into training and validation without a look at them. Batches of validation, test and prediction are ``(x, y)``; the
    target's labels there are for evaluation only: nothing is chosen by them.

    The images of both domains are brought to one shape when they are read, as bytes: grey becomes RGB by replication,
    RGB grey by luminance, sizes change by antialiased bilinear interpolation; out-of-distribution sets are made in the
    source's own shape and brought to the common one with it. Each domain is then augmented as its own data module says
    (in pixels of the common size) and both are normalised alike.

    Attributes:
        source: Data module of the source.
        target: Data module of the target.
        num_classes: Number of classes, of both.
        image_shape: (C, H, W) of the images of both domains and of all out-of-distribution sets.
        source_name: Name of the source.
        target_name: Name of the target.
        val_sets: Names of the validation loaders, the source's and ``target/<name>``.
        test_sets: Names of the test loaders, the source's, ``target/<name>`` and the source's ``ood``.
    """

    def __init__(
        self,
        source: ImageDataModule,
        target: ImageDataModule,
        image_size: int | None = None,
        channels: int | None = None,
    ) -> None:
        """Checks that the two fit together; reads nothing.

        Args:
            source: The labelled domain; its ``ood`` names the out-of-distribution sets. It needs validation images.
            target: The domain whose labels are not used in training. With ``val_split=0`` all its training images are
                trained on, and validation looks at them again, in order.
            image_size: Height and width to which images are brought; None if those of both domains agree.
            channels: Channels to which images are brought, 1 (grey) or 3 (RGB); None if those of both domains agree.

        Raises:
            TypeError: A domain is not an image data module.
            ValueError: The domains differ in their classes, their normalisation or, without an argument that says what
                to do, in the shape of their images; an argument of theirs is not for pairs of domains; or the target
                has been read already, with a look at its labels.
        """
        super().__init__()
        for domain, data in (("source", source), ("target", target)):
            if not isinstance(data, ImageDataModule):
                kind = type(data).__name__
                raise TypeError(f"{domain} must be an image data module such as DigitsDataModule, got {kind}")
            if data.classes_per_batch is not None:
                raise ValueError(
                    f"classes_per_batch={data.classes_per_batch} of the {domain} {data.name!r} is not for pairs of "
                    "domains: the target has no labels to choose by"
                )
            if data.cutout:
                raise ValueError(f"cutout={data.cutout} of the {domain} {data.name!r} is not for pairs of domains")
        for attribute in ("held_out_classes", "num_classes", "mean", "std"):
            one, other = getattr(source, attribute), getattr(target, attribute)
            if one != other:
                raise ValueError(
                    f"source and target must have the same {attribute}: {source.name!r} has {one}, "
                    f"{target.name!r} has {other}"
                )
        one, other = getattr(source, "classes", None), getattr(target, "classes", None)
        if one and other and one != other:
            raise ValueError(
                f"source and target must have the same classes: {source.name!r} alone has "
                f"{sorted(set(one) - set(other))}, {target.name!r} alone has {sorted(set(other) - set(one))}"
            )
        if target.ood:
            raise ValueError(f"name the out-of-distribution sets in ood of the source, not of the target: {target.ood}")
        if source.val_split == 0:
            raise ValueError(f"val_split=0 of the source {source.name!r}: runs are judged by its validation images")
        self.image_shape = common_shape(source.image_shape, target.image_shape, image_size, channels)
        self.source, self.target, self.num_classes = source, target, source.num_classes
        self.source_name, self.target_name = source.name, target.name
        self.val_sets = (source.name, f"target/{target.name}")
        self.test_sets = (*self.val_sets, *source.ood)
        if target.stratified and target._fit_sets is not None:
            raise ValueError(
                f"the target {target.name!r} has been read already, and its validation images were chosen by labels: "
                "give a new data module"
            )
        target.stratified = False  # its split into training and validation must not look at labels
        self._fit_sets: dict[str, tuple[ImageSet, ImageSet]] = {}
        self._test_sets: list[ImageSet] = []
        wrapped = {
            domain: {"class_path": type(data).__name__, **data.hparams}
            for domain, data in (("source", source), ("target", target))
        }
        self.save_hyperparameters({**wrapped, "image_size": image_size, "channels": channels}, logger=False)

    def prepare_data(self) -> None:
        """Downloads what is missing of a domain that is to."""
        self.source.prepare_data()
        self.target.prepare_data()

    def setup(self, stage: str) -> None:
        """Reads the sets of a stage and brings them to the common shape, unless that has been done."""
        for data in (self.source, self.target):
            data.trainer = self.trainer
        if stage in ("fit", "validate") and not self._fit_sets:
            fit_sets = {}
            for domain, data in (("source", self.source), ("target", self.target)):
                train, val = data.fit_sets()
                if not len(val) and domain == "source":
                    raise ValueError(f"val_split={data.val_split} leaves the source {data.name!r} no validation images")
                train = self._fitted(train)
                fit_sets[domain] = train, self._fitted(val) if len(val) else train
            self._fit_sets = fit_sets
        if stage in ("test", "predict") and not self._test_sets:
            sets = []
            for domain, data in (("source", self.source), ("target", self.target)):
                images = [cast(ImageSet, loader.dataset) for loader in data.test_dataloader()]
                if not len(images[0]):
                    raise ValueError(f"the {domain} {data.name!r} has no test images")
                sets.append([self._fitted(one) for one in images])
            (own, *outside), (target,) = sets
            self._test_sets = [own, target, *outside]

    def train_dataloader(self) -> dict[str, DataLoader]:
        """The two loaders; Lightning combines them in the mode ``max_size_cycle``.

        On one device both are plainly shuffled, by draws of their own from torch's generator. Under a strategy of
        several processes Lightning puts its sampler into the one with more batches; the other one, which restarts,
        has a sampler already.

        Raises:
            ValueError: A domain has fewer images than one batch of all processes.
        """
        self.setup("fit")
        sets: dict[str, tuple[ImageDataModule, ImageSet | UnlabelledSet]] = {
            "source": (self.source, self._fit_sets["source"][0]),
            "target": (self.target, UnlabelledSet(self._fit_sets["target"][0].images)),
        }
        batches = {domain: len(images) // data.batch_size for domain, (data, images) in sets.items()}
        shorter = "source" if batches["source"] < batches["target"] else "target"
        shares, loaders = sampler_shares(self.trainer), {}
        for domain, (data, images) in sets.items():
            sampler = RestartingSampler(images, **shares) if shares and domain == shorter else None
            loaders[domain] = data.loader(images, data.batch_size, train=True, sampler=sampler)
        return loaders

    def val_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``val_sets``, in that order."""
        self.setup("validate")
        pairs = (self.source, self._fit_sets["source"][1]), (self.target, self._fit_sets["target"][1])
        return [data.loader(images, data.eval_batch_size) for data, images in pairs]

    def test_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``test_sets``, in that order."""
        self.setup("test")
        return [self.source.loader(images, self.source.eval_batch_size) for images in self._test_sets]

    def predict_dataloader(self) -> DataLoader:
        """The target's test set; batches are ``(x, y)`` like all others."""
        return self.test_dataloader()[1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Makes floats of the bytes, on the device; augments in the training loop only, each domain by its own draws.

        A batch of training has no labels of the target before or after.
        """
        for data in (self.source, self.target):
            data.trainer = self.trainer
        if isinstance(batch, Tensor):  # of the target's training loader alone, as a callback may read it
            return self.target.transform(batch)
        if not isinstance(batch, dict):
            images, labels = batch
            return self.source.transform(images), labels
        training = self.trainer is not None and bool(self.trainer.training)
        images, labels = batch["source"]
        return {
            "source": (self.source.transform(images, training and self.source.augment), labels),
            "target": self.target.transform(batch["target"], training and self.target.augment),
        }

    def _fitted(self, images: ImageSet) -> ImageSet:
        """The set with images of the common shape; in parts, since torchvision may compute in floats."""
        if tuple(images.images.shape[1:]) == self.image_shape:
            return images
        parts = [fit(part, self.image_shape) for part in images.images.split(4096)]
        return ImageSet(torch.cat(parts), images.labels)
