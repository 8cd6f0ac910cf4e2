"""Data module of the Office-31 pictures; batches are ``(x, y)``."""

from pathlib import Path
from typing import Any, Literal, get_args

from ..shared.arguments import check_at_least, check_choice
from ..shared.pictures import Unreadable, decode_all
from .base import ImageDataModule
from .sources import Split

Domain = Literal["amazon", "webcam", "dslr"]


class Office31DataModule(ImageDataModule):
    """One of the three domains of Office-31 (Saenko et al. 2010), 31 classes, as a source or a target; RGB.

    Pictures are expected as in the published archive, ``data_dir/<domain>/images/<class>/*.jpg``; there is no download.
    They are read like those of ``ImageFolderDataModule`` and held in memory. The protocol is the fully transductive one
    of Ganin et al. 2016: the training and the test split are the same pictures, all of the domain. So a target takes
    ``val_split=0``, and the test accuracy of a source is one on training pictures, validation aside. Augmentation:
    crops from ``image_size // 8`` mirrored pixels on each side, and mirroring of the image.
    """

    num_classes = 31
    padding_mode = "reflect"
    flip = True

    def __init__(
        self,
        domain: Domain,
        data_dir: str = "data",
        image_size: int = 224,
        unreadable: Unreadable = "refuse",
        **arguments: Any,
    ) -> None:
        """Checks the arguments; looks at no file.

        Args:
            domain: ``amazon``, ``webcam`` or ``dslr``.
            data_dir: Folder that holds the folders of the domains; other sets for ``ood`` are looked for here too.
            image_size: Height and width to which pictures are brought.
            unreadable: ``refuse`` a domain that has damaged pictures, all of which are named, or ``skip`` them with a
                warning.
            **arguments: Those of ``ImageDataModule``.
        """
        check_choice("domain", domain, get_args(Domain))
        check_at_least(1, image_size=image_size)
        check_choice("unreadable", unreadable, get_args(Unreadable))
        self.name, self.unreadable = domain, unreadable
        self.image_shape = (3, image_size, image_size)
        self.padding = image_size // 8
        super().__init__(data_dir=data_dir, **arguments)
        self.folder = Path(self.data_dir, domain, "images")
        self._pictures_and_labels: Split | None = None

    def prepare_data(self) -> None:
        """Looks for the folders of the classes, and downloads sets of ``ood`` that are missing if it is to."""
        self._classes()
        super().prepare_data()

    def load_split(self, train: bool) -> Split:
        """Decodes all pictures of the domain once, for either split.

        Raises:
            FileNotFoundError: The folder of the domain is missing, or a class has no picture.
            ValueError: There are not 31 classes, pictures cannot be read and are not to be skipped, or they do not fit
                into ``memory_limit``.
        """
        if self._pictures_and_labels is None:
            size = self.image_shape[1:]
            self._pictures_and_labels = decode_all(
                self.folder, self._classes(), False, *size, self.num_workers, self.memory_limit, self.unreadable
            )
        return self._pictures_and_labels

    def _classes(self) -> list[str]:
        """The names of the classes, in the order of their numbers."""
        folder = self.folder
        if not folder.is_dir():
            raise FileNotFoundError(
                f"no folder {str(folder)!r}; the pictures of Office-31 are expected as {folder / '<class>' / '*.jpg'}, "
                "unpacked from the published archive"
            )
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        if len(classes) != self.full_classes:
            raise ValueError(
                f"Office-31 has {self.full_classes} classes, {str(folder)!r} has {len(classes)} folders: "
                "for other sets take ImageFolderDataModule"
            )
        return classes
