"""Checks of constructor arguments, with one message for each kind: the name, the value and what was expected."""

import math
from collections.abc import Sequence
from typing import Any


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices.

    Raises:
        ValueError: With the name, the value and what was expected.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def check_at_least(least: int, **values: Any) -> None:
    """Refuse numbers below a bound, NaN and infinity.

    Raises:
        ValueError: With the name, the value and what was expected.
    """
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{name} is {value}; expected a number of at least {least}")


def check_positive(**values: Any) -> None:
    """Refuse 0, numbers below it, NaN and infinity.

    Raises:
        ValueError: With the name, the value and what was expected.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a number above 0")
