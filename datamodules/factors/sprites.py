"""Sprites that are drawn as they are needed."""

from typing import Any, ClassVar, Literal, get_args

import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from ..shared.arguments import check_choice
from ..shared.pictures import upright
from . import render as sprites
from .base import FactorDataModule

Variant = Literal["plain", "color", "noisy", "scream"]
BACKGROUND = (350, 274)  # columns and rows into which the picture of Scream-dSprites is shrunk


class SpritesDataModule(FactorDataModule):
    """dSprites drawn on demand: squares, ellipses and hearts in 6 sizes, 40 orientations and 32x32 places; no files.

    See ``sprites`` for the geometry. 737,280 combinations of factors: 715,780 different images, since orientations 0
    and 39 are the same, and small sprites meet. The variants are those of the study:

    * ``plain``: white on black, (1, 64, 64);
    * ``color``: each sprite in a random colour, (3, 64, 64);
    * ``noisy``: a white sprite on uniform noise, (3, 64, 64);
    * ``scream``: the negative of a random part of a picture with shifted colours, (3, 64, 64).

    On one core of an AMD EPYC (Genoa), 1,024 images take 3 µs each, without a copy of the set in memory.
    """

    factor_names = sprites.FACTOR_NAMES
    full_sizes: ClassVar[tuple[int, ...]] = sprites.FACTOR_SIZES

    def __init__(
        self,
        variant: Variant = "plain",
        factor_steps: list[int] | None = None,
        background: str | None = None,
        **arguments: Any,
    ) -> None:
        """Checks the arguments; reads nothing.

        Args:
            variant: ``plain``, ``color``, ``noisy`` or ``scream``.
            factor_steps: Keep every k-th value of each of the five factors, from the first on, for a smaller problem:
                ``[1, 1, 4, 2, 2]`` leaves 3x6x10x16x16 = 46,080 combinations, numbered from 0. None for all values.
            background: The picture of ``scream``, a file, shrunk to fit 350x274; None for a photograph of
                scikit-learn (``china.jpg``). The study has Munch's painting: name the picture beside any metric.
            **arguments: Those of ``FactorDataModule``.
        """
        check_choice("variant", variant, get_args(Variant))
        if background is not None and variant != "scream":
            raise ValueError(f"background={background!r} is for variant='scream', got variant={variant!r}")
        steps = (1,) * len(self.full_sizes) if factor_steps is None else tuple(factor_steps)
        if len(steps) != len(self.full_sizes) or any(
            not 1 <= step <= size for step, size in zip(steps, self.full_sizes, strict=True)
        ):
            raise ValueError(
                f"factor_steps must be five numbers from 1 to at most {self.full_sizes}, got {factor_steps}"
            )
        self.name = "sprites" if variant == "plain" else f"{variant}_sprites"
        self.image_shape = (1 if variant == "plain" else 3, sprites.SIDE, sprites.SIDE)
        self.factor_sizes = tuple(-(-size // step) for size, step in zip(self.full_sizes, steps, strict=True))
        self.deterministic_images = variant == "plain"
        super().__init__(**arguments)
        self.variant, self.steps = variant, steps
        self.background = None if background is None else str(background)
        self._picture: Tensor | None = None

    def setup(self, stage: str) -> None:
        """Reads the picture of ``scream``, unless that has been done."""
        if self.variant == "scream" and self._picture is None:
            self._picture = read_background(self.background)

    def draw(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        """Draws the sprites, and colour, noise or background; see ``FactorDataModule.draw``."""
        full = torch.stack([column * step for column, step in zip(factors.unbind(1), self.steps, strict=True)], 1)
        drawn = sprites.unpack(sprites.packed_sprites(full))
        if self.variant == "color":
            return sprites.coloured(drawn, generator)
        if self.variant == "noisy":
            return sprites.noisy(drawn, generator)
        if self.variant == "scream":
            self.setup("fit")
            assert self._picture is not None
            self._picture = self._picture.to(factors.device)
            return sprites.over_picture(drawn, self._picture, generator)
        return drawn[:, None]


def read_background(path: str | None) -> Tensor:
    """Reads a picture, ``china.jpg`` of scikit-learn for None, and shrinks it to fit 350x274 (LANCZOS).

    Returns:
        (3, H, W) uint8 with 64 < H <= 274 and 64 < W <= 350; proportions are kept.

    Raises:
        ValueError: It cannot be read, or has no more than 64 rows or columns left.
    """
    picture = Image.fromarray(load_sample_image("china.jpg")) if path is None else upright(path)
    picture.thumbnail(BACKGROUND, Image.Resampling.LANCZOS)
    if min(picture.size) <= sprites.SIDE:
        raise ValueError(
            f"the background {path!r} has {picture.height}x{picture.width} pixels after it is shrunk to fit "
            f"{BACKGROUND[1]}x{BACKGROUND[0]}; more than {sprites.SIDE} are needed both ways"
        )
    return pil_to_tensor(picture)
