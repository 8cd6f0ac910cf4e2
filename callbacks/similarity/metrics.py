"""Similarity of samples by their features, and the similarity that a perfect classifier would give."""

import torch
from torch import Tensor

from ..shared.rows import within_one


def feature_rows(features: Tensor) -> Tensor:
    """Features that represent each sample: the standard deviation of each channel over its map, or all features.

    Args:
        features: (n, …). Those of shape (n, C, H, W) with C > 3 and H > 1 are maps; all else, such as images, is
            flattened.

    Returns:
        (n, C) or (n, d), at least float32, on the CPU.
    """
    features = features.detach().to(torch.promote_types(features.dtype, torch.float32))
    is_map = features.ndim == 4 and features.shape[1] > 3 and features.shape[2] > 1
    return (features.flatten(2).std(2) if is_map else features.flatten(1)).cpu()


def similarity_matrix(rows: Tensor) -> Tensor:
    """Pearson's correlation between the samples of a batch, over their features.

    The correlation is 0 with a sample whose features are all equal up to rounding, even with itself.

    Args:
        rows: (n, d), from `feature_rows`.

    Returns:
        (n, n) float64, in [-1, 1].
    """
    rows = within_one(rows)
    centred = rows - rows.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    # rounding in float32 leaves about 1e-7 of a constant row, which must not be scaled up to norm 1
    unit = torch.where(norms <= 1e-6 * rows.norm(dim=1, keepdim=True), 0, centred / norms)
    return (unit @ unit.T).clamp(-1, 1)


def target_similarity(labels: Tensor, classes: int) -> Tensor:
    """Correlation between one-hot labels: 1 for the same class, -1 / (K - 1) for different ones.

    Args:
        labels: (n,), integers.
        classes: K, at least 2.

    Returns:
        (n, n) float64.

    Raises:
        ValueError: Fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"expected at least two classes, got {classes}")
    same = (labels[:, None] == labels[None, :]).double()
    return same - (1 - same) / (classes - 1)  # `torch.where` of two numbers would round to float32
