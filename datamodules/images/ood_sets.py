"""Out-of-distribution test sets: the generated ones, and the adaptation of published sets and folders of pictures.

Every set is made of uint8 images of the in-distribution shape, so that it passes through the in-distribution test
transform. Draws come from NumPy's frozen stream with a fixed seed: two calls, two machines, the same bytes. The
functions of `GENERATED` take the in-distribution test images, (N, C, H, W) uint8, and return as many of their shape;
those that do not say so look at the shape only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from sklearn.utils import check_random_state
from torch import Tensor
from torchvision.transforms.v2 import functional

from ..shared.augment import windows
from .sources import SOURCES

SEED = 0
HELD_OUT = "near/held_out_classes"
PHOTO_PATCHES = "far/photo_patches"
PHOTO_SIZE = (427, 640)


def interpolated(images: Tensor) -> Tensor:
    """The pixel mean of each image and one other; every image takes part in two means."""
    if len(images) < 2:
        raise ValueError(f"near/interpolated needs at least two test images, got {len(images)}")
    order = torch.from_numpy(check_random_state(SEED).permutation(len(images)))
    first, second = images[order].int(), images[order.roll(1)].int()
    return ((first + second + 1) // 2).byte()


def rotated(images: Tensor) -> Tensor:
    """Each square image turned by 90 degrees, counter-clockwise: exact, no interpolation gives the set away.

    Some classes survive the turn (a digit 0): no score can reach an AUROC of 1 on such a set.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"near/rotated needs square images, got {images.shape[-2]}x{images.shape[-1]}")
    return images.rot90(1, (-2, -1)).contiguous()


def uniform(images: Tensor) -> Tensor:
    """Independent uniform pixels."""
    return torch.from_numpy(check_random_state(SEED).randint(0, 256, size=tuple(images.shape), dtype=np.uint8))


def gaussian(images: Tensor) -> Tensor:
    """Independent normal pixels around mid grey, clipped: deviation 0.5 where the range is [-1, 1]."""
    random, pixels = check_random_state(SEED), np.empty(tuple(images.shape), dtype=np.uint8)
    for image in pixels:  # one image at a time: float64 for the whole set would be eight times its size
        image[:] = np.rint(127.5 + 0.5 * 127.5 * random.standard_normal(image.shape)).clip(0, 255)
    return torch.from_numpy(pixels)


def constant(images: Tensor) -> Tensor:
    """One random level for each image and channel."""
    levels = check_random_state(SEED).randint(0, 256, size=(*images.shape[:2], 1, 1), dtype=np.uint8)
    return torch.from_numpy(levels).expand(images.shape).contiguous()


def photo_patches(images: Tensor) -> Tensor:
    """Random windows of scikit-learn's two photographs (427x640), reduced 1, 2 and 4 times; grey for C = 1."""
    count, channels, height, width = images.shape
    random = check_random_state(SEED)
    photos = torch.tensor(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    sizes = [(PHOTO_SIZE[0] // reduction, PHOTO_SIZE[1] // reduction) for reduction in (1, 2, 4)]
    sizes = [size for size in sizes if size[0] >= height and size[1] >= width]
    distance = random.randint(len(sizes), size=count)
    patches = torch.empty_like(images)
    for index, (rows, columns) in enumerate(sizes):
        chosen = np.flatnonzero(distance == index)
        draws = [random.randint(high, size=len(chosen)) for high in (2, rows - height + 1, columns - width + 1)]
        which, top, left = (torch.from_numpy(draw).long() for draw in draws)
        photographs = fit(photos, (channels, rows, columns))
        patches[torch.from_numpy(chosen)] = windows(photographs, which, top, left, height, width)
    return patches


def fit(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Brings (N, C', H', W') uint8 images to a shape (C, H, W): grey from or to RGB, antialiased bilinear resize."""
    if images.shape[1] == 3 and shape[0] == 1:
        images = functional.rgb_to_grayscale(images)
    resized = functional.resize(images, list(shape[1:]), antialias=True)
    return resized.expand(-1, shape[0], -1, -1).contiguous()


GENERATED: dict[str, Callable[[Tensor], Tensor]] = {
    "near/interpolated": interpolated,
    "near/rotated": rotated,
    "far/uniform": uniform,
    "far/gaussian": gaussian,
    "far/constant": constant,
    PHOTO_PATCHES: photo_patches,
}


def folder(name: str, data_dir: str) -> Path | None:
    """The folder of a user's own pictures, ``<data_dir>/<set>/test`` for ``near|far/<set>``; None without classes."""
    side, _, rest = name.partition("/")
    if side not in ("near", "far") or not rest or rest.startswith(".") or "/" in rest or "\\" in rest:
        return None  # names become keys of the loggers and names of files: no separators, nothing outside data_dir
    pictures = Path(data_dir, rest, "test")
    return pictures if pictures.is_dir() and any(entry.is_dir() for entry in pictures.iterdir()) else None


def check_names(
    names: Sequence[str], own_name: str, image_shape: tuple[int, int, int], held_out: bool, data_dir: str
) -> None:
    """Refuses names that are unknown, given twice or the set's own, and sets that cannot be made of such images."""
    sets = [name for name in SOURCES if name != own_name]
    if len(set(names)) != len(names):
        raise ValueError(f"each set of ood may be named once, got {list(names)}")
    for name in names:
        side, _, rest = name.partition("/")
        if side in ("near", "far") and rest == own_name:
            raise ValueError(f"ood set {name!r} is the in-distribution set itself")
        published = side in ("near", "far") and rest in sets
        if not published and name not in (*GENERATED, HELD_OUT) and folder(name, data_dir) is None:
            raise ValueError(
                f"unknown ood set {name!r}; there are {', '.join((*GENERATED, HELD_OUT))}, "
                f"near/<set> or far/<set> for the sets {', '.join(sets)}, "
                f"and for pictures of your own in {str(Path(data_dir, '<set>', 'test', '<class>', '*.png'))!r}"
            )
    if HELD_OUT in names and not held_out:
        raise ValueError(f"ood set {HELD_OUT!r} needs held_out_classes, e.g. held_out_classes=[0, 1]")
    height, width = image_shape[1:]
    if PHOTO_PATCHES in names and (height > PHOTO_SIZE[0] or width > PHOTO_SIZE[1]):
        raise ValueError(f"ood set {PHOTO_PATCHES!r} has photographs of 427x640, images of {height}x{width} do not fit")
