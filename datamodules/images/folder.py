"""Data module of a user's own pictures; batches are ``(x, y)``."""

from pathlib import Path
from typing import Any, get_args

import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from ..shared.arguments import check_at_least, check_choice
from ..shared.pictures import Unreadable, decode_all
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
        unreadable: Unreadable = "refuse",
        **arguments: Any,
    ) -> None:
        """Looks at the names of the folders; reads no picture.

        Args:
            data_dir: Folder with the subfolders ``train`` and ``test``; other sets for ``ood`` are looked for here too.
            image_size: Height and width to which pictures are brought.
            unreadable: ``refuse`` a split that has damaged pictures, all of which are named, or ``skip`` them with a
                warning. Those of ``ood`` are refused in any case.
            **arguments: Those of ``ImageDataModule``; ``num_workers`` is the number of threads for decoding, too, and
                ``held_out_classes`` are positions in the sorted names of the classes.

        Raises:
            FileNotFoundError: A folder is missing.
            ValueError: There are fewer than two classes, or an argument is out of its range.
        """
        check_choice("unreadable", unreadable, get_args(Unreadable))
        check_at_least(1, image_size=image_size)
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
        super().__init__(data_dir=data_dir, **arguments)

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
