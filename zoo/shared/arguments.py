"""Checks of constructor arguments: each raises a ``ValueError`` with the name, the value and what was expected."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from lightning.pytorch import LightningModule


def check_literals(module: LightningModule) -> None:
    """Check each argument that was saved and whose annotation is a ``Literal``, those of parent classes included."""
    annotations: dict[str, Any] = {}
    for kind in reversed(type(module).__mro__):
        annotations |= getattr(vars(kind).get("__init__"), "__annotations__", {})
    for name, annotation in annotations.items():
        if get_origin(annotation) is Literal and name in module.hparams:
            check_choice(name, module.hparams[name], get_args(annotation))


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Check that a word is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


def check_at_least(least: int, **values: Any) -> None:
    """Check that numbers are finite and not below a bound; None passes."""
    for name, value in values.items():
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name} is {value}; expected a number of at least {least}")


def check_positive(**values: Any) -> None:
    """Check that numbers are finite and above 0; None passes."""
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value}; expected a number above 0")


def check_share(**values: Any) -> None:
    """Check that numbers lie in [0, 1]; None passes."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a share in [0, 1]")


def check_names(argument: str, given: Iterable[str], taker: str, known: Sequence[str]) -> None:
    """Check that the names given in a dictionary ``argument`` are all known to the function or class ``taker``."""
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{argument} has {unknown}, which {taker} does not take; it takes {[*known]}")


def check_image_shape(image_shape: Sequence[int]) -> None:
    """Check the shape of one image, ``(channels, height, width)``."""
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(image_shape)}; expected (channels, height, width), all positive")
