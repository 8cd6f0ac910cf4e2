"""Digits over photographs, the target domains of digits; batches are ``(x, y)``.

MNIST-M is no set of files but a recipe (Ganin et al. 2016, https://arxiv.org/abs/1505.07818, section 5.2.4):
``|digit - patch|`` for each pixel and channel, with a random patch of a colour photograph. So a digit inverts the
photograph under it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.utils import check_random_state
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2.functional import pil_to_tensor

from ..shared.arguments import check_choice
from ..shared.augment import windows
from ..shared.pictures import Unreadable, readable_pictures, upright
from .base import ImageDataModule
from .sources import DIGITS_SOURCE, MNIST_SOURCE, Source, Split

CHUNK = 4096  # images blended at a time, which bounds the memory beside the result


def blend(digits: Tensor, photographs: Iterable[Tensor], count: int, seed: int) -> Tensor:
    """``|digit - patch|`` for each pixel and channel, each digit with a uniformly drawn patch of a photograph.

    Args:
        digits: (N, 1, H, W) uint8.
        photographs: ``count`` photographs, each (3, H', W') uint8 with H' >= H and W' >= W; held one at a time.
        count: Number of photographs.
        seed: Seed of all draws.

    Returns:
        (N, 3, H, W) uint8.
    """
    (total, _, height, width), random = digits.shape, check_random_state(seed)
    blended = torch.empty((total, 3, height, width), dtype=torch.uint8)
    which = random.randint(count, size=total)
    for index, photograph in enumerate(photographs):
        rows, columns = photograph.shape[1:]
        chosen = np.flatnonzero(which == index)
        draws = [random.randint(high, size=len(chosen)) for high in (rows - height + 1, columns - width + 1)]
        parts = [torch.from_numpy(part).long().split(CHUNK) for part in (chosen, *draws)]
        for digit, top, left in zip(*parts, strict=True):
            patches = windows(photograph[None], torch.zeros_like(digit), top, left, height, width)
            # Signed: bytes would wrap around.
            blended[digit] = (digits[digit].short() - patches.short()).abs_().byte()
    return blended


def photograph_files(folder: str) -> list[Path]:
    """The pictures of a folder and its subfolders in the order of their paths; ``FileNotFoundError`` for none."""
    root = Path(folder)
    files = [path for path in root.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()]
    if not files:
        raise FileNotFoundError(
            f"no photographs in photographs={folder!r}: a folder with files of {', '.join(IMG_EXTENSIONS)} is "
            "expected, such as the 200 training images of BSDS500; without the argument those of scikit-learn are used"
        )
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def read_photographs(files: Sequence[Path], reduction: float, height: int, width: int) -> Iterator[Tensor]:
    """Reads the files, or the two photographs of scikit-learn for none, with rows and columns reduced (antialiased).

    Yields:
        (3, H, W) uint8 with H >= ``height`` and W >= ``width``; a grey photograph has three equal channels.

    Raises:
        ValueError: A photograph cannot be read or is too small.
    """
    pictures = map(upright, map(str, files)) if files else map(Image.fromarray, load_sample_images().images)
    for index, picture in enumerate(pictures):
        columns, rows = round(picture.width / reduction), round(picture.height / reduction)
        if rows < height or columns < width:
            raise ValueError(
                f"the photograph {files[index]} has {picture.height}x{picture.width} pixels, at least "
                f"{math.ceil(height * reduction)}x{math.ceil(width * reduction)} are needed: leave it out"
            )
        yield pil_to_tensor(picture.resize((columns, rows), Image.Resampling.BILINEAR))


class BlendedDigitsDataModule(ImageDataModule):
    """Parent of the data modules of digits over photographs.

    Attributes:
        digits: The set of digits.
        reduction: How many times photographs are reduced before patches are cut.
        default_binarise: What ``binarise=None`` means.
    """

    digits: ClassVar[Source]
    reduction: ClassVar[float] = 1.0
    default_binarise: ClassVar[bool] = True

    def __init__(
        self,
        photographs: str | None = None,
        binarise: bool | None = None,
        unreadable: Unreadable = "refuse",
        **arguments: Any,
    ) -> None:
        """Checks the arguments; reads nothing.

        Args:
            photographs: Folder of colour photographs, with subfolders, read in the order of their paths; None for the
                two photographs of scikit-learn.
            binarise: Whether all pixels of a digit that are not 0 count as 255 before the blending, which makes hard
                edges; None for the set's own default.
            unreadable: ``refuse`` a folder that has damaged photographs, all of which are named, or ``skip`` them with
                a warning; the patches then come from the others.
            **arguments: Those of ``ImageDataModule``.
        """
        check_choice("unreadable", unreadable, get_args(Unreadable))
        super().__init__(**arguments)
        self.unreadable = unreadable
        self.photographs = None if photographs is None else str(photographs)
        self.binarise = self.default_binarise if binarise is None else binarise

    def prepare_data(self) -> None:
        """Looks for the photographs, and downloads the digits if they are missing and ``download`` is true."""
        if self.photographs is not None:
            photograph_files(self.photographs)
        super().prepare_data()

    def load_split(self, train: bool) -> Split:
        """Blends the digits of a split; training and test have draws of their own, and share the photographs.

        Raises:
            FileNotFoundError: Photographs or the files of the digits are missing.
            ValueError: Photographs cannot be read and are not to be skipped, or one is smaller than a digit.
        """
        images, labels = self.digits.read(self.data_dir, train)
        if self.binarise:
            images = (images > 0).byte() * 255
        folder = Path(self.photographs or "")
        files = [] if self.photographs is None else photograph_files(self.photographs)
        if self.unreadable == "skip":
            files = readable_pictures(folder, files, self.unreadable)
        try:
            photographs = read_photographs(files, self.reduction, *images.shape[2:])
            return blend(images, photographs, len(files) or 2, seed=0 if train else 1), labels
        except ValueError:
            readable_pictures(folder, files, self.unreadable)  # names all that cannot be read, not only the first
            raise


class MNISTMDataModule(BlendedDigitsDataModule):
    """MNIST-M made from MNIST and photographs: 60,000 + 10,000 digits, 28x28, RGB. Augmentation: shifts (2).

    Ganin et al. took BSDS500; where a user has it, ``photographs`` is the folder of its 200 training images. The
    default, scikit-learn's two photographs, has less variety: name the photographs beside any metric. The published
    code (pumpikano/tf-dann) binarises the digits as here, patches for training and test come from the same photographs,
    and it binarises the images of MNIST on the source side, too; ``MNISTDataModule`` keeps them grey. The archive that
    is distributed as MNIST-M has 59,001 + 9,001 images of 32x32 instead: results are not comparable.
    """

    source = Source("MNISTM", 10, (3, 28, 28), MNIST_SOURCE.load, MNIST_SOURCE.files, folder=MNIST_SOURCE.title)
    digits = MNIST_SOURCE
    padding = 2


class DigitsMDataModule(BlendedDigitsDataModule):
    """scikit-learn's digits blended likewise, 1,497 + 300, 8x8, RGB, no files; split 1,197 / 300 / 300.

    Photographs are reduced 3.5 times, so that 8 pixels show what 28 of the original do. The digits stay grey: at 8x8
    the soft edges carry much of the shape. A random forest that is trained on these images reaches 0.86, with binarised
    digits 0.77; one that is trained on ``DigitsDataModule`` reaches 0.46 on these. Augmentation: shifts by up to one
    pixel.
    """

    source = Source("DigitsM", 10, (3, 8, 8), DIGITS_SOURCE.load)
    digits = DIGITS_SOURCE
    reduction = 3.5
    default_binarise = False
    padding = 1
    default_val_split = 300
