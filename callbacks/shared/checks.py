"""What several callbacks check: their numeric arguments, the methods that they call on a module, and the results."""

from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor


def check_at_least(least: int, **arguments: float) -> None:
    """Raise a ValueError that names the first of these arguments below the least value."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")


def require_method(module: Any, signature: str, needed_by: str) -> None:
    """Raise a TypeError if a module has no method like ``"encode(x) -> (B, L)"``, which this callback needs."""
    name, kind = signature.partition("(")[0], type(module).__name__
    if not callable(getattr(module, name, None)):
        raise TypeError(f"{needed_by} needs a module with {signature}; {kind} has no method {name!r}")


def require_logits(module: Any, needed_by: str) -> None:
    """Raise a TypeError if a module has no ``forward`` of its own."""
    if not is_overridden("forward", module):
        raise TypeError(f"{needed_by} needs forward(x) -> (B, K) logits: {type(module).__name__} has none")


def check_shape(values: Any, shape: tuple[int | str, ...], source: str) -> Tensor:
    """Return what a call like ``"MyModule.encode(x)"`` gave; a ValueError if it is no tensor of the expected shape.

    In the shape a name such as "K" stands for any size.
    """
    fits = isinstance(values, Tensor) and values.ndim == len(shape)
    if not fits or any(isinstance(want, int) and want != size for want, size in zip(shape, values.shape, strict=True)):
        actual = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        expected = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        raise ValueError(f"expected {source} of shape ({expected}), got {actual}")
    return values
