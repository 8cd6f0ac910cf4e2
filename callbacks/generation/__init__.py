"""Samples of generative models."""

from . import report as report  # adds the room's section to the report
from .samples import SampleGrid

__all__ = ["SampleGrid"]
