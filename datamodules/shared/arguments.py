"""Checks of a data module's arguments, with one message each."""

import math
from collections.abc import Iterable


def check_at_least(least: int, **arguments: int) -> None:
    """Raise ``ValueError`` for the first argument below `least`."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_finite(**arguments: float) -> None:
    """Raise ``ValueError`` for the first argument that is NaN or infinite."""
    for name, value in arguments.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, got {value}")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ``ValueError`` for a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be {', '.join(choices)}, got {value!r}")
