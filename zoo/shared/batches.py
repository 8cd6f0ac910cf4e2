"""Batches: their inputs, and checks that every module makes, each with one message that names the value."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ROUNDING = 1e-3  # how far a pixel may lie outside its range: resizing overshoots a little


def batch_inputs(batch: Any) -> Tensor:
    """The inputs x of a batch ``(x, ...)`` or ``x``."""
    return batch if isinstance(batch, Tensor) else batch[0]


def check_parts(batch: Any, names: Sequence[str], example: str) -> None:
    """Raise ``ValueError`` unless a batch is a dictionary with these parts; the data module ``example`` gives such."""
    if not isinstance(batch, dict) or not set(names) <= batch.keys():
        what = ", ".join(batch) if isinstance(batch, dict) else type(batch).__name__
        raise ValueError(f"a batch is {what}; expected {' and '.join(names)}, such as {example} gives")


def check_images(x: Tensor, image_shape: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for images of another shape than ``(B, *image_shape)``, and for NaN or infinite pixels.

    Costs a reduction over the images, and on a GPU a synchronisation.
    """
    if not isinstance(x, Tensor):  # a dictionary, which was unpacked to its keys
        raise ValueError(f"{x!r:.40} arrived in the place of images; expected batches (x, y): choose other data")
    if tuple(x.shape[1:]) != tuple(image_shape):
        raise ValueError(
            f"images of shape {tuple(x.shape[1:])} arrived, but the module was built for {tuple(image_shape)}: "
            "set its image_shape argument"
        )
    if not math.isfinite(x.sum(dtype=torch.float32).item()):  # the sum of half precision would overflow
        images = torch.nonzero(~torch.isfinite(x).flatten(1).all(1)).flatten().tolist()
        raise ValueError(f"NaN or infinite pixels in {len(images)} of {len(x)} images of a batch: rows {images[:5]}")


def check_unit_images(x: Tensor, image_shape: tuple[int, ...]) -> None:
    """`check_images`, and that they lie in [-1, 1] up to rounding, for modules whose likelihood needs that range.

    Costs two reductions over the images, and on a GPU a synchronisation.
    """
    check_images(x, image_shape)
    low, high = (value.item() for value in torch.aminmax(x))
    if low < -1 - ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"pixels from {low:.6g} to {high:.6g} arrived; expected images in [-1, 1], with 1 for white")


def check_labelled_batch(x: Tensor, y: Tensor, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Check a classifier's batch: `check_images`, and that labels ``(B,)`` are integers in ``[0, num_classes)``.

    Costs a reduction over the images and one over the labels, and on a GPU a synchronisation: in training, ask
    ``check_is_due`` first.

    Raises:
        ValueError: For images of another shape, NaN or infinite pixels, or labels out of range.
    """
    check_images(x, image_shape)
    low, high = (int(value) for value in torch.aminmax(y))
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels from {low} to {high} arrived, but the module was built for classes 0 to {num_classes - 1}"
        )


def check_regression_batch(x: Tensor, y: Tensor, num_features: int) -> None:
    """Check the batch of a regressor: features ``(B, num_features)`` and labels ``(B,)``.

    Costs a reduction over each, and on a GPU a synchronisation: in training, ask ``check_is_due`` first.

    Raises:
        ValueError: For features or labels of another shape, NaN or infinity.
    """
    if x.dim() != 2 or x.shape[1] != num_features:
        raise ValueError(
            f"features of shape {tuple(x.shape)} arrived, but the module was built for (B, {num_features}): "
            "set its num_features argument"
        )
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels of shape {tuple(y.shape)} arrived; expected ({len(x)},), one number for each row")
    if torch.isfinite(x.sum() + y.sum()):
        return
    for what, values in (("features", x), ("labels", y[:, None])):
        rows = torch.nonzero(~torch.isfinite(values).all(1)).flatten().tolist()
        if rows:
            raise ValueError(f"NaN or infinite {what} in {len(rows)} of {len(x)} rows of a batch: rows {rows[:5]}")
