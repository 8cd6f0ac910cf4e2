"""Images with known factors of variation, drawn or read."""

from .published import Cars3DDataModule, DSpritesDataModule, MPI3DDataModule, Shapes3DDataModule, SmallNORBDataModule
from .sprites import SpritesDataModule

__all__ = [
    "Cars3DDataModule",
    "DSpritesDataModule",
    "MPI3DDataModule",
    "Shapes3DDataModule",
    "SmallNORBDataModule",
    "SpritesDataModule",
]
