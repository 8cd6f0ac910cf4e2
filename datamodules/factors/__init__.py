"""Images with known factors of variation, drawn or read."""

from .base import SpritesDataModule
from .published import Cars3DDataModule, DSpritesDataModule, MPI3DDataModule, Shapes3DDataModule, SmallNORBDataModule

__all__ = [
    "Cars3DDataModule",
    "DSpritesDataModule",
    "MPI3DDataModule",
    "Shapes3DDataModule",
    "SmallNORBDataModule",
    "SpritesDataModule",
]
