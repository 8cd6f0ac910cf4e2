"""The local losses of Nøkland and Eidnes 2019 as pure functions.

All compute in float32, also under autocast; float64 stays float64. The means of empty batches are NaN. Losses are
scalars, and raise ``ValueError`` for shapes that do not fit, labels that are no integers, or a weight out of range.
"""

import torch
from torch import Tensor
from torch.nn import functional

from ..shared.arguments import check_share
from ..shared.losses import at_least_float32, check_rows, cross_entropy
from .deviation import ChannelDeviation
from .feedback import FeedbackLinear

EPSILON = 1e-8  # added, squared, to the squared norm of a row


def feature_rows(x: Tensor) -> Tensor:
    """One row of features for each sample, which the similarity matrix compares.

    Maps with more than three channels and more than one pixel of height are reduced to the standard deviation of each
    channel over its pixels; everything else is flattened. (Three, so that raw images are flattened.)

    Args:
        x: ``(n, d)`` or ``(n, C, H, W)``, any dtype.

    Returns:
        ``(n, d)``, ``(n, C)`` or ``(n, C * H * W)``, float32 at least.
    """
    return ChannelDeviation.apply(x) if compared_by_deviation(x) else at_least_float32(x).flatten(1)


def compared_by_deviation(x: Tensor) -> bool:
    """Whether ``feature_rows`` reduces these features to deviations."""
    return x.dim() == 4 and x.shape[1] > 3 and x.shape[2] > 1


def similarity_matrix(x: Tensor) -> Tensor:
    """Pearson correlation between the samples of a batch (the paper's adjusted cosine similarity).

    Each row is centred by its own mean over the features and divided by its norm, so a positive factor and a shift of
    a sample's features change nothing, as long as the norm is far above 1e-8. A row that is constant up to rounding has
    correlation 0 with every row, itself included, and the gradient zero. A row whose squares overflow, in float32
    beyond 1e19, is NaN.

    Args:
        x: ``(n, d)`` or ``(n, C, H, W)``; see ``feature_rows``.

    Returns:
        ``(n, n)`` in [-1, 1], float32 at least.
    """
    with torch.autocast(x.device.type, enabled=False):
        rows = feature_rows(x)
        centred = rows - rows.mean(1, keepdim=True)
        square = centred.square().sum(1, keepdim=True)
        # What centring leaves of a constant row is rounding, and dividing it by its tiny norm would blow that up.
        rounding = rows.detach().abs().amax(1, keepdim=True) * (8 * torch.finfo(rows.dtype).eps)  # of a feature
        known = square > rows.shape[1] * rounding.square()
        unit = centred * torch.where(square.isinf(), torch.nan, torch.rsqrt(square + EPSILON**2) * known)
        return (unit @ unit.t()).clamp(-1, 1)


def similarity_matching_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Similarity matching: mean squared difference between the features' similarities and the targets'.

    Mean over all n * n pairs, the diagonal included, as in the official code; the paper's text has the sum.

    Args:
        features: ``(n, d)`` or ``(n, C, H, W)``.
        targets: ``(n, k)``, one row for each sample: its one-hot label, or the random code of its class. No gradient.

    Returns:
        A scalar in [0, 4].
    """
    if targets.dim() != 2 or features.dim() < 2 or len(targets) != len(features):
        raise ValueError(
            f"features {tuple(features.shape)} with targets {tuple(targets.shape)}: expected one row (n, k) for each "
            "sample"
        )
    with torch.autocast(features.device.type, enabled=False):
        similarities = similarity_matrix(features)
        return functional.mse_loss(similarities, similarity_matrix(targets.detach()).to(similarities.dtype))


def prediction_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean softmax cross-entropy in nats of a local (or the output) classifier.

    Args:
        logits: ``(n, K)``.
        targets: ``(n,)``, integers in ``[0, K)``.
    """
    with torch.autocast(logits.device.type, enabled=False):
        return cross_entropy(logits, targets)


def backprop_free_prediction_loss(
    features: Tensor, weight: Tensor, bias: Tensor, feedback: Tensor, codes: Tensor
) -> Tensor:
    """Binary cross-entropy between the signs of the classes' random codes and logits learnt by feedback alignment.

    The gradient with respect to the features goes through ``feedback`` instead of ``weight``; those of weight and bias
    are true.

    Args:
        features: ``(n, d)``.
        weight: ``(m, d)``.
        bias: ``(m,)``.
        feedback: ``(m, d)``, fixed.
        codes: ``(n, m)``, the code of each sample's class; a bit is 1 where it is positive.

    Returns:
        The mean over all n * m bits, in nats.
    """
    check_rows(weight=weight, feedback=feedback)
    if bias.shape != weight.shape[:1] or codes.shape != (len(features), len(weight)):
        raise ValueError(
            f"weight {tuple(weight.shape)} with bias {tuple(bias.shape)} and codes {tuple(codes.shape)} of "
            f"{len(features)} samples: expected (m, d), (m,) and (n, m)"
        )
    with torch.autocast(features.device.type, enabled=False):
        logits = FeedbackLinear.apply(*(at_least_float32(tensor) for tensor in (features, weight, bias, feedback)))
        return functional.binary_cross_entropy_with_logits(logits, (codes > 0).to(logits.dtype))


def local_loss(prediction: Tensor, similarity: Tensor, beta: float) -> Tensor:
    """``(1 - beta) * prediction + beta * similarity``, the loss "predsim", of two scalars.

    The weight ``beta``, in [0, 1], is 0.99 in the paper, and 0.01 in its backprop-free form.
    """
    check_share(beta=beta)
    return (1 - beta) * prediction + beta * similarity
