"""Callbacks that keep a run safe: stopping, resuming, logs, checkpoints, random numbers."""

from .clean_stop import CleanStop
from .end_together import EndTogether
from .kept_logs import KeptLogs, ResumableCSVLogger
from .mid_epoch import MidEpochCheckpoint
from .randomness import Randomness
from .whole_checkpoints import WholeCheckpoints

__all__ = [
    "CleanStop",
    "EndTogether",
    "KeptLogs",
    "MidEpochCheckpoint",
    "Randomness",
    "ResumableCSVLogger",
    "WholeCheckpoints",
]
