"""The machinery of all image data modules: arguments, splits, loaders, and the transform on the device."""

import os
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from torchvision.datasets.folder import find_classes

from ..shared.arguments import check_at_least
from ..shared.augment import cutout, normalise, random_crop, random_flip
from ..shared.collate import as_is
from ..shared.pictures import decode_all
from ..shared.resumable import ResumableLoader
from ..shared.samplers import process_share
from . import ood_sets
from .class_limited import ClassLimitedBatchSampler
from .image_set import ImageSet, UnlabelledSet, stratified_split
from .sources import SOURCES, Source, Split, check_split

MOST_WORKERS = 256  # processes of one loader: a number with a digit too many would bring the machine to a halt


class ImageDataModule(LightningDataModule):
    """Parent of the image data modules; a batch is ``(x, y)``: x (B, C, H, W) float32 in [-1, 1], y (B,) int64.

    Pixels stay bytes until they are on the device; there the whole batch is augmented (in training only, with a draw
    for each sample) and normalised. Training batches are shuffled and all of one size: the remainder of an epoch is
    dropped. Validation is set apart from the training split, of each class in proportion, always the same samples.
    Sets are read in ``setup``, once for each split, and kept.

    For a set of your own, set ``name``, ``num_classes`` and ``image_shape`` in a subclass and override
    ``load_split``. The class attributes below may be changed in a subclass too.

    Attributes:
        name: Name of the set, the first of ``test_sets``.
        num_classes: Number of classes without the held-out ones.
        image_shape: (C, H, W).
        mean: Mean for the normalisation, one value or one for each channel, for pixels in [0, 1].
        std: Deviation for the normalisation, likewise. The zoo's modules expect [-1, 1]: 0.5 and 0.5.
        padding: Pixels added on each side before the random crop; 0 for no crop.
        padding_mode: ``"constant"`` (zeros) or ``"reflect"``.
        flip: Whether images are mirrored left to right at random.
        default_val_split: What ``val_split=None`` means.
        stratified: Whether validation has of each class in proportion; if not, the split does not look at labels.
        memory_limit: Bytes that the pictures of one folder may take in memory, 4 GiB.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    padding: int = 0
    padding_mode: str = "constant"
    flip: bool = False
    default_val_split: int | float = 0.1
    stratified: bool = True
    memory_limit: int = 4 * 2**30
    source: ClassVar[Source | None] = None

    def __init__(
        self,
        data_dir: str = "data",
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int = 0,
        val_split: int | float | None = None,
        ood: list[str] | None = None,
        held_out_classes: list[int] | None = None,
        augment: bool = True,
        cutout: int = 0,
        classes_per_batch: int | None = None,
        class_limited_epochs: int | None = None,
        download: bool = False,
    ) -> None:
        """Checks the arguments; reads and downloads nothing, only looks for the folders of pictures named in ``ood``.

        Args:
            data_dir: Folder that holds the files of all sets, as torchvision lays them out.
            batch_size: Training images in a batch (for each process).
            eval_batch_size: Images in a batch of validation, test and prediction.
            num_workers: Worker processes of each loader. The sets are in memory: 0 is the fastest.
            val_split: Validation images, taken from the training split: a share below 1, a number from 1 on, 0 for no
                validation, or None for the set's own default (a tenth; 300 for the digits).
            ood: Out-of-distribution test sets, in this order after the test set: ``near/interpolated``,
                ``near/rotated``, ``near/held_out_classes``, ``far/uniform``, ``far/gaussian``, ``far/constant``,
                ``far/photo_patches``, and ``near/<set>`` or ``far/<set>`` for the test set of another data module,
                such as ``far/svhn``, or for your own pictures: ``far/mine`` are those in
                ``<data_dir>/mine/test/<class>/*`` (the folder ``mine`` may be a link), read like those of
                ``ImageFolderDataModule`` and brought to ``image_shape``. A published set goes before a folder of its
                name. All labels are -1. The generated sets are as large as the test set.
            held_out_classes: Classes removed from training, validation and test; the others are renumbered from 0.
            augment: Whether training images are cropped and mirrored at random.
            cutout: Side in pixels, an even number, of the square hole in each training image, with or without
                ``augment``; 0 for none. Its centre is any pixel, what crosses the border is clipped, and it is filled
                with the mean of the training images in each channel: what the 0 of the published recipes is after
                their normalisation. In [-1, 1] a 0 would be grey, and that an object on black digits.
            classes_per_batch: Classes in a training batch, see ``class_limited.ClassLimitedBatchSampler``; None for
                plain shuffling.
            class_limited_epochs: Epochs with ``classes_per_batch``, after which batches are plainly shuffled; None for
                all.
            download: Whether missing files are downloaded when a run begins.

        Raises:
            ValueError: An argument is out of its range, or an out-of-distribution set is unknown.
            TypeError: A subclass does not describe its images.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)  # for reports; modules log theirs, and may have a batch_size too
        if self.source is not None:
            self.name, self.num_classes = self.source.name, self.source.num_classes
            self.image_shape = self.source.image_shape
        if not all(hasattr(self, attribute) for attribute in ("name", "num_classes", "image_shape")):
            raise TypeError(f"{type(self).__name__} must set name, num_classes and image_shape")
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_workers=num_workers)
        if num_workers > MOST_WORKERS:
            raise ValueError(f"num_workers must be at most {MOST_WORKERS}, got {num_workers}")
        self.data_dir = str(data_dir)
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.val_split = self.default_val_split if val_split is None else val_split
        if not self.val_split >= 0 or (self.val_split >= 1 and self.val_split % 1):  # NaN fails too
            raise ValueError(f"val_split must be a share in [0, 1) or a whole number of images, got {val_split}")
        self.augment, self.download = augment, download
        if cutout % 2 or not 0 <= cutout <= min(self.image_shape[1:]):
            raise ValueError(f"cutout must be an even number in 0..{min(self.image_shape[1:])}, got {cutout}")
        self.cutout = cutout
        self.held_out_classes = sorted(set(held_out_classes or []))
        for label in self.held_out_classes:
            if not 0 <= label < self.num_classes:
                raise ValueError(f"held_out_classes must lie in 0..{self.num_classes - 1}, got {label}")
        self.kept_classes = [label for label in range(self.num_classes) if label not in self.held_out_classes]
        if len(self.kept_classes) < 2:
            raise ValueError(
                f"a classifier needs two classes: {self.name} has {self.num_classes}, "
                f"and held_out_classes={held_out_classes} leaves {len(self.kept_classes)}"
            )
        most = min(batch_size, len(self.kept_classes))
        if classes_per_batch is not None and not 1 <= classes_per_batch <= most:
            raise ValueError(
                f"classes_per_batch must lie in 1..{most} for batch_size={batch_size} and the {len(self.kept_classes)} "
                f"classes of {self.name}, got {classes_per_batch}"
            )
        if class_limited_epochs is not None and (classes_per_batch is None or class_limited_epochs < 0):
            raise ValueError(
                f"class_limited_epochs={class_limited_epochs} must be at least 0, and needs classes_per_batch"
            )
        self.classes_per_batch, self.class_limited_epochs = classes_per_batch, class_limited_epochs
        self.ood = list(ood or [])
        ood_sets.check_names(self.ood, self.name, self.image_shape, bool(self.held_out_classes), self.data_dir)
        self.full_classes, self.num_classes = self.num_classes, len(self.kept_classes)
        self._fit_sets: tuple[ImageSet, ImageSet] | None = None
        self._test_sets: list[ImageSet] | None = None
        self._mean: Tensor | None = None

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets in the order of ``test_dataloader``: the set's own name, then ``ood``."""
        return (self.name, *self.ood)

    def load_split(self, train: bool) -> Split:
        """Reads the training or the test split, all classes; override it for a set of your own.

        Returns:
            Images (N, C, H, W) uint8 with (C, H, W) = ``image_shape``, and labels (N,) int64.
        """
        if self.source is None:
            raise NotImplementedError(f"{type(self).__name__} must override load_split")
        return self.source.read(self.data_dir, train)

    def prepare_data(self) -> None:
        """Downloads what is missing if ``download`` is true."""
        for source in (self.source, *(self._foreign(name) for name in self.ood)):
            if source is not None:
                source.fetch(self.data_dir, self.download)

    def setup(self, stage: str) -> None:
        """Reads the sets of a stage, unless they have been read."""
        if stage in ("fit", "validate") and self._fit_sets is None:
            self._fit_sets = self._read_fit_sets()
        if stage in ("test", "predict") and self._test_sets is None:
            self._test_sets = self._read_test_sets()

    def fit_sets(self) -> tuple[ImageSet, ImageSet]:
        """The training set and the validation set, which is empty for ``val_split=0``."""
        self.setup("fit")
        assert self._fit_sets is not None
        return self._fit_sets

    def train_dataloader(self) -> Any:
        """Shuffled batches of ``batch_size``; the remainder of an epoch is dropped."""
        train, _ = self.fit_sets()
        return self.loader(train, self.batch_size, train=True, labels=train.labels)

    def val_dataloader(self) -> Any:
        """One loader of the validation set; an empty list for ``val_split=0``, which makes Lightning skip it."""
        _, val = self.fit_sets()
        return self.loader(val, self.eval_batch_size) if len(val) else []

    def test_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``test_sets``, in that order."""
        self.setup("test")
        assert self._test_sets is not None
        return [self.loader(images, self.eval_batch_size) for images in self._test_sets]

    def predict_dataloader(self) -> DataLoader:
        """The in-distribution test set; batches are ``(x, y)`` like all others."""
        return self.test_dataloader()[0]

    @property
    def share(self) -> tuple[int, int]:
        """Rank of this process and number of processes, of those that share the training set."""
        return process_share(self.trainer)

    def loader(
        self,
        images: ImageSet | UnlabelledSet,
        batch_size: int,
        train: bool = False,
        sampler: Sampler[int] | None = None,
        labels: Tensor | None = None,
    ) -> DataLoader:
        """A DataLoader in which Lightning can put the sampler of several processes.

        With ``train``, batches follow ``sampler`` or a shuffled order, a last smaller one is dropped, and ``labels``
        (N,) are those for the batches of ``classes_per_batch``.

        Raises:
            ValueError: A training set has fewer images than one batch (of all processes together).
        """
        _, processes = self.share
        if train and len(images) < batch_size * processes:
            each = "" if processes == 1 else f" in each of {processes} processes"
            raise ValueError(
                f"batch_size={batch_size}{each} is more than the {len(images)} training images of {self.name}"
            )
        shuffle = train and sampler is None
        order: dict[str, Any] = {"batch_size": batch_size, "shuffle": shuffle, "sampler": sampler, "drop_last": train}
        if labels is not None and self.classes_per_batch is not None:
            order = {"batch_sampler": self._class_limited(labels, self.classes_per_batch)}
        return (ResumableLoader if train else DataLoader)(
            images,
            **order,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=as_is,
            pin_memory=torch.cuda.is_available(),
        )

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Makes floats of the bytes, on the device; augments in the training loop only."""
        images, labels = batch
        training = self.trainer is not None and self.trainer.training
        return self.transform(images, augment=training and self.augment, cut=training), labels

    def transform(self, images: Tensor, augment: bool = False, cut: bool = False) -> Tensor:
        """Normalises images (B, C, H, W) uint8 to float32; no two processes augment alike.

        With ``augment`` each image is cropped and mirrored at random, with ``cut`` it gets the hole of ``cutout``.
        """
        if augment and self.padding:
            images = random_crop(images, self.padding, self.padding_mode, self.share)
        if augment and self.flip:
            images = random_flip(images, self.share)
        floats = normalise(images, self.mean, self.std)
        if cut and self.cutout:
            floats = cutout(floats, self.cutout, self._training_mean(floats.device), self.share)
        return floats

    def _training_mean(self, device: torch.device) -> Tensor:
        """Mean of the training images in each channel, normalised, (1, C, 1, 1) float32; computed once."""
        if self._mean is None:
            pixels = self.fit_sets()[0].images.numpy().mean((0, 2, 3), keepdims=True)
            self._mean = normalise(torch.from_numpy(pixels), self.mean, self.std)
        self._mean = self._mean.to(device)
        return self._mean

    def _class_limited(self, labels: Tensor, classes: int) -> ClassLimitedBatchSampler:
        """Training batches of few classes; Lightning builds this again with the sampler of several processes."""
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))  # what Lightning takes for its own: the same on all ranks
        # Lightning does not see that batches change when it is to overfit to some.
        fixed = SequentialSampler(labels) if getattr(self.trainer, "overfit_batches", 0) else None
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        return ClassLimitedBatchSampler(
            labels, self.batch_size, classes, seed, self.class_limited_epochs, True, epoch=epoch, sampler=fixed
        )

    def _foreign(self, name: str) -> Source | None:
        """The published set behind an out-of-distribution set, None for a generated one or a folder of pictures."""
        return None if name in ood_sets.GENERATED else SOURCES.get(name.partition("/")[2])

    def _read(self, train: bool) -> Split:
        """A split as ``load_split`` gives it, after a check."""
        images, labels = self.load_split(train)
        try:
            check_split(images, labels, self.image_shape, self.full_classes)
        except ValueError as error:
            raise ValueError(f"the {'training' if train else 'test'} split of {self.name}: {error}") from None
        return images, labels

    def _renumbered(self, images: Tensor, labels: Tensor) -> Split:
        """Without the held-out classes, the others numbered from 0."""
        if not self.held_out_classes:
            return images, labels
        kept = torch.isin(labels, torch.tensor(self.kept_classes))
        return images[kept], torch.searchsorted(torch.tensor(self.kept_classes), labels[kept])

    def _read_fit_sets(self) -> tuple[ImageSet, ImageSet]:
        images, labels = self._renumbered(*self._read(train=True))
        size = round(self.val_split * len(labels)) if self.val_split < 1 else int(self.val_split)
        if size >= len(labels):
            raise ValueError(
                f"val_split={self.val_split} leaves none of the {len(labels)} images of {self.name} to train"
            )
        train, val = stratified_split(labels if self.stratified else torch.zeros_like(labels), size)
        return ImageSet(images[train], labels[train]), ImageSet(images[val], labels[val])

    def _read_test_sets(self) -> list[ImageSet]:
        everything, all_labels = self._read(train=False)
        images, labels = self._renumbered(everything, all_labels)
        sets = [ImageSet(images, labels)]
        for name in self.ood:
            if name == ood_sets.HELD_OUT:
                outside = everything[torch.isin(all_labels, torch.tensor(self.held_out_classes))]
            elif source := self._foreign(name):
                outside = ood_sets.fit(source.read(self.data_dir, train=False)[0], self.image_shape)
            elif name in ood_sets.GENERATED:
                outside = ood_sets.GENERATED[name](images)
            else:
                outside = self._pictures(name)
            if not len(outside):
                raise ValueError(f"ood set {name!r} of {self.name} has no images")
            sets.append(ImageSet(outside, torch.full((len(outside),), -1)))
        return sets

    def _pictures(self, name: str) -> Tensor:
        """The user's own pictures behind an out-of-distribution set, (N, C, H, W) uint8."""
        folder = ood_sets.folder(name, self.data_dir)
        if folder is None:
            raise FileNotFoundError(f"the pictures of ood set {name!r} are no longer in data_dir={self.data_dir!r}")
        size = self.image_shape[1:]
        pictures, _ = decode_all(folder, find_classes(folder)[0], True, *size, self.num_workers, self.memory_limit)
        return ood_sets.fit(pictures, self.image_shape) if len(pictures) else pictures
