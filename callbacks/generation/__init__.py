"""Samples of generative models."""

from .samples import SampleGrid

__all__ = ["SampleGrid"]
