"""Data module of a user's own pictures; batches are ``(x, y)``."""

from pathlib import Path
from typing import Any, get_args

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes

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
        train, test = Path(data_dir, "train"), Path(data_dir, "test")
        for folder in (train, test):
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"no folder {str(folder)!r}; pictures are expected as {train / '<class>' / '*.png'} and "
                    f"{test / '<class>' / '*.png'} (or {', '.join(IMG_EXTENSIONS)}), one folder for each class"
                )
        self.classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
        if len(self.classes) < 2:
            raise ValueError(f"a classifier needs two classes, {str(train)!r} has folders for {self.classes}")
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
        if unknown := set(find_classes(folder)[0]) - set(self.classes):
            raise ValueError(f"{str(folder)!r} has classes without training pictures: {', '.join(sorted(unknown))}")
        size = self.image_shape[1:]
        images, labels = decode_all(
            folder, self.classes, not train, *size, self.num_workers, self.memory_limit, self.unreadable
        )
        lost = [name for number, name in enumerate(self.classes) if not (labels == number).any()]
        if train and lost:
            raise ValueError(f"no picture can be read of these classes of {str(folder)!r}: {', '.join(lost)}")
        return images, labels
