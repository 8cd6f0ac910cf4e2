"""Pairs of domains: a labelled source and an unlabelled target."""

from .moons import MoonsDataModule
from .pairs import AdaptationDataModule

__all__ = ["AdaptationDataModule", "MoonsDataModule"]
