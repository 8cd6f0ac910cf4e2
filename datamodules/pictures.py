"""Reading the pictures of a folder into bytes."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor


def upright(path: str) -> Image.Image:
    """Reads one picture: RGB, turned as its EXIF says.

    Raises:
        ValueError: The picture cannot be read.
    """
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {path}: {error}") from error


def decode(path: str, height: int, width: int) -> Tensor:
    """Reads one picture: RGB, turned as its EXIF says, cut to its central part and resized (antialiased).

    Returns:
        (3, height, width) uint8.

    Raises:
        ValueError: The picture cannot be read.
    """
    return pil_to_tensor(ImageOps.fit(upright(path), (width, height), Image.Resampling.BILINEAR))


def decode_all(folder: Path, paths: list[str], height: int, width: int, threads: int, memory_limit: int) -> Tensor:
    """Reads the pictures of a folder.

    Args:
        folder: The folder, for the message.
        paths: The pictures, N.
        height: Height to which they are brought.
        width: Width to which they are brought.
        threads: Threads that decode.
        memory_limit: Bytes that the result may have.

    Returns:
        (N, 3, height, width) uint8, in the order of ``paths``.

    Raises:
        ValueError: A picture cannot be read, or the pictures do not fit into ``memory_limit``.
    """
    size = len(paths) * 3 * height * width
    if size > memory_limit:
        side = f"image_size={height}" if height == width else f"{height}x{width}"
        raise ValueError(
            f"the {len(paths)} pictures of {str(folder)!r} need {size / 2**30:.1f} GiB at {side}, more than the "
            f"{memory_limit / 2**30:.1f} GiB of memory_limit: choose a smaller image_size or fewer pictures, or raise "
            "memory_limit in a subclass if the machine has more"
        )
    images = torch.empty((len(paths), 3, height, width), dtype=torch.uint8)
    with ThreadPoolExecutor(max(1, threads)) as pool:  # PIL decodes without the interpreter's lock
        for index, image in enumerate(pool.map(partial(decode, height=height, width=width), paths)):
            images[index] = image
    return images
