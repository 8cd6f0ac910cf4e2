"""Data module of a user's own pictures; batches are ``(x, y)``."""

from pathlib import Path

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from ..shared.pictures import Unreadable, check_unreadable, decode_all
from .base import ImageDataModule
from .sources import Split


class ImageFolderDataModule(ImageDataModule):
    """Pictures in ``data_dir/train/<class>/*`` and ``data_dir/test/<class>/*``; the classes are the folders in train.

    Pictures become RGB, are turned as their EXIF says, cut to their central square and resized (antialiased). Each
    split is decoded once and held in memory as bytes, so it must fit into ``memory_limit``. The name of the set is the
    name of the folder. Augmentation: crops from ``image_size // 8`` mirrored pixels on each side, and mirroring of the
    image.
    """

    padding_mode = "reflect"
    flip = True

    def __init__(
        self,
        data_dir: str,
        image_size: int = 32,
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
        unreadable: Unreadable = "refuse",
    ) -> None:
        """Looks at the names of the folders; reads no picture.

        Args:
            data_dir: Folder with the subfolders ``train`` and ``test``; other sets for ``ood`` are looked for here too.
            image_size: Height and width to which pictures are brought.
            batch_size: Training images in a batch (for each process).
            eval_batch_size: Images in a batch of validation, test and prediction.
            num_workers: Worker processes of each loader, and threads for decoding.
            val_split: Validation images, taken from the training split: a share below 1, a number from 1 on, 0 for no
                validation, or None for a tenth.
            ood: Out-of-distribution test sets, as for the other data modules.
            held_out_classes: Classes, as positions in the sorted names, removed from training, validation and test;
                the others are renumbered from 0.
            augment: Whether training images are cropped and mirrored at random.
            cutout: Side in pixels, an even number, of the hole in each training image; 0 for none.
            classes_per_batch: Classes in a training batch; None for plain shuffling.
            class_limited_epochs: Epochs with ``classes_per_batch``, after which batches are plainly shuffled; None for
                all.
            download: Whether missing files of other sets in ``ood`` are downloaded when a run begins.
            unreadable: ``refuse`` a split that has damaged pictures, all of which are named, or ``skip`` them with a
                warning. Those of ``ood`` are refused in any case.

        Raises:
            FileNotFoundError: A folder is missing.
            ValueError: There are fewer than two classes, or an argument is out of its range.
        """
        check_unreadable(unreadable)
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        for split in ("train", "test"):
            if not Path(data_dir, split).is_dir():
                raise FileNotFoundError(
                    f"no folder {str(Path(data_dir, split))!r}; pictures are expected as "
                    f"{Path(data_dir, 'train', '<class>', '*.png')} and {Path(data_dir, 'test', '<class>', '*.png')} "
                    f"(or {', '.join(IMG_EXTENSIONS)}), one folder for each class"
                )
        self.classes = sorted(entry.name for entry in Path(data_dir, "train").iterdir() if entry.is_dir())
        if len(self.classes) < 2:
            raise ValueError(
                f"a classifier needs two classes, {str(Path(data_dir, 'train'))!r} has folders for {self.classes}"
            )
        self.name, self.unreadable = Path(data_dir).resolve().name, unreadable
        self.num_classes = len(self.classes)
        self.image_shape = (3, image_size, image_size)
        self.padding = image_size // 8
        super().__init__(
            data_dir=data_dir,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            val_split=val_split,
            ood=ood,
            held_out_classes=held_out_classes,
            augment=augment,
            cutout=cutout,
            classes_per_batch=classes_per_batch,
            class_limited_epochs=class_limited_epochs,
            download=download,
        )

    def load_split(self, train: bool) -> Split:
        """Decodes all pictures of a split.

        Raises:
            FileNotFoundError: A class has no picture to train on.
            ValueError: The test split has a class that the training split lacks, pictures cannot be read and are not to
                be skipped, a class has no other ones to train on, or they do not fit into ``memory_limit``.
        """
        folder = Path(self.data_dir, "train" if train else "test")
        unknown = set(find_classes(folder)[0]) - set(self.classes)
        if unknown:
            raise ValueError(f"{str(folder)!r} has classes without training pictures: {', '.join(sorted(unknown))}")
        numbers = {name: number for number, name in enumerate(self.classes)}
        samples = make_dataset(folder, numbers, extensions=IMG_EXTENSIONS, allow_empty=not train)
        labels = torch.tensor([number for _, number in samples], dtype=torch.int64)
        paths = [path for path, _ in samples]
        size = self.image_shape[1:]
        images, kept = decode_all(folder, paths, *size, self.num_workers, self.memory_limit, self.unreadable)
        lost = set(labels.tolist()) - set(labels[kept].tolist())
        if train and lost:
            names = ", ".join(self.classes[number] for number in sorted(lost))
            raise ValueError(f"no picture can be read of these classes of {str(folder)!r}: {names}")
        return images, labels[kept]
