"""Damage to files, and the memory that a call takes."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
MEGABYTE = 2**20


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """Bytes cut off, or changed at the beginning, at the end or anywhere."""
    kind, place = random.integers(4), int(random.integers(len(whole)))
    if kind == 0:
        return whole[:place]
    place = (place % 64, len(whole) - 1 - place % 200, place)[kind - 1]
    noise = random.bytes(int(random.integers(1, 9)))
    return whole[:place] + noise + whole[place + len(noise) :]


def peak(action: Any) -> int:
    """The most bytes that Python and NumPy hold at a time while something is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r".") as refused:
            action()
        assert "\n" not in str(refused.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
