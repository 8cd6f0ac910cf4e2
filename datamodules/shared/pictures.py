"""Reading the pictures of a folder into bytes."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from .collate import listed

Unreadable = Literal["refuse", "skip"]  # what is done with a folder that has pictures which cannot be read
# PIL goes by the content, whatever the name, and some of its other decoders start programs: that of EPS Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def upright(path: str) -> Image.Image:
    """Reads one picture: RGB, turned as its EXIF says.

    Raises:
        ValueError: The picture cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except Exception as error:  # PIL's decoders raise anything for a damaged file
        raise ValueError(f"cannot read the picture {path}: {error}") from error


def decode(path: str, height: int, width: int) -> Tensor:
    """Reads one picture as ``upright`` does, cut to its central part and resized (antialiased), (3, H, W) uint8."""
    return pil_to_tensor(ImageOps.fit(upright(path), (width, height), Image.Resampling.BILINEAR))


def decode_all(
    folder: Path,
    classes: Sequence[str],
    allow_empty: bool,
    height: int,
    width: int,
    threads: int,
    memory_limit: int,
    unreadable: Unreadable | None = None,
) -> tuple[Tensor, Tensor]:
    """Reads the pictures in ``folder/<class>``, class by class.

    Args:
        folder: The folder of the classes.
        classes: Their names, in the order of their labels.
        allow_empty: Whether a class may have no picture.
        height: Height to which pictures are brought.
        width: Width to which they are brought.
        threads: Threads that decode.
        memory_limit: Bytes that the result may have.
        unreadable: Whether pictures that cannot be read are refused or skipped; None where there is no choice.

    Returns:
        (n, 3, height, width) uint8 and labels (n,) int64, of the pictures that are not skipped.

    Raises:
        FileNotFoundError: A class has no picture.
        ValueError: Pictures cannot be read and are not to be skipped, or the pictures do not fit into ``memory_limit``.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    samples = make_dataset(folder, numbers, extensions=IMG_EXTENSIONS, allow_empty=allow_empty)
    paths = [path for path, _ in samples]
    size = len(paths) * 3 * height * width
    if size > memory_limit:
        side = f"image_size={height}" if height == width else f"{height}x{width}"
        raise ValueError(
            f"the {len(paths)} pictures of {str(folder)!r} need {size / 2**30:.1f} GiB at {side}, more than the "
            f"{memory_limit / 2**30:.1f} GiB of memory_limit: choose a smaller image_size or fewer pictures, or raise "
            "memory_limit in a subclass if the machine has more"
        )
    images = torch.empty((len(paths), 3, height, width), dtype=torch.uint8)
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(max(1, threads)) as pool:  # PIL decodes without the interpreter's lock
        decoded = pool.map(partial(_attempt, height=height, width=width), paths)
        for index, (path, image) in enumerate(zip(paths, decoded, strict=True)):
            if isinstance(image, Tensor):
                images[index] = image
            else:
                broken[path] = image
    check_readable(folder, len(paths), broken, unreadable)
    kept = torch.tensor([path not in broken for path in paths], dtype=torch.bool)
    labels = torch.tensor([number for _, number in samples], dtype=torch.int64)
    return images[kept] if broken else images, labels[kept]


def check_readable(folder: Path, count: int, broken: Mapping[str, str], unreadable: Unreadable | None) -> None:
    """Refuses the ``broken`` ones of ``count`` pictures, each with its reason, or warns that they are skipped."""
    if not broken:
        return
    names = listed([Path(path).relative_to(folder).as_posix() for path in broken])
    why = next(iter(broken.values()))
    text = f"{len(broken):,} of {count:,} pictures of {str(folder)!r} cannot be read: {names} (the first: {why})"
    if unreadable == "skip" and len(broken) < count:
        rank_zero_warn(f"{text}; they are left out, as unreadable='skip' says")
        return
    raise ValueError(f"{text}{'; unreadable=skip leaves them out' if unreadable == 'refuse' else ''}")


def readable_pictures(folder: Path, paths: Sequence[Path], unreadable: Unreadable) -> list[Path]:
    """The pictures that can be read; refuses the others or warns that they are skipped."""
    attempts = {str(path): _attempt(str(path), 1, 1) for path in paths}
    broken = {path: reason for path, reason in attempts.items() if isinstance(reason, str)}
    check_readable(folder, len(paths), broken, unreadable)
    return [path for path in paths if str(path) not in broken]


def _attempt(path: str, height: int, width: int) -> Tensor | str:
    """The picture, or why it cannot be read."""
    try:
        return decode(path, height, width)
    except ValueError as error:
        return " ".join(str(error.__cause__ or error).split())
