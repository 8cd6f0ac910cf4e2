"""Out-of-distribution scores from penultimate features, in float64; a larger score is more out-of-distribution.

Three kinds, one signature each: from features and the classifier's last linear layer (`HEAD_SCORES`), fitted on
training features (`fit_…`), and both. A fit returns the score as a function of features (B, D).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..shared.rows import unit_rows

Score = Callable[[Tensor], Tensor]

RIDGE = 1e-6  # added to the diagonal of covariances


class Head(NamedTuple):
    """The last linear layer: logits = features @ weight.T + bias, with weight (K, D) and bias (K,) in float64."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """(B, D) features to (B, K) logits."""
        return features @ self.weight.T + self.bias


def find_head(module: nn.Module, features: Tensor, logits: Tensor, tolerance: float) -> Head | None:
    """Find the linear layer of a module that turns its features into its logits, by trying them all.

    Features (B, D) and logits (B, K) are of the same samples. ``tolerance`` is the largest deviation allowed, relative
    to the largest logit.
    """
    features, logits = features.double(), logits.double()
    smallest, head = tolerance * max(logits.abs().max().item(), 1e-12), None
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and tuple(layer.weight.shape) == (logits.shape[1], features.shape[1]):
            weight = layer.weight.detach().to(features)
            bias = torch.zeros(len(weight)).to(features) if layer.bias is None else layer.bias.detach().to(features)
            deviation = (Head(weight, bias)(features) - logits).abs().max().item()
            if deviation <= smallest:
                smallest, head = deviation, Head(weight, bias)
    return head


# Scores from features and head


def ash_s(features: Tensor, head: Head, prune: float = 0.65) -> Tensor:
    """Energy (B,) after setting a share ``prune`` of each sample's features (B, D) to zero and scaling up the rest.

    ASH-S: the smallest go, and the scale is exp(sum before / sum after). Djurisic et al. 2023, for features after a
    ReLU.
    """
    kept, ratio = _keep_largest(features.double(), prune)
    return -head(kept * ratio.exp()[:, None]).logsumexp(dim=1)


def scale(features: Tensor, head: Head, prune: float = 0.85) -> Tensor:
    """Energy after scaling all features by ASH-S's factor, with none pruned. Xu et al. 2024."""
    features = features.double()
    return -head(features * _keep_largest(features, prune)[1].exp()[:, None]).logsumexp(dim=1)


def gradnorm(features: Tensor, head: Head) -> Tensor:
    """Negative L1 norm of the last layer's weight gradient of the cross-entropy to the uniform target.

    In closed form: sum |h| times sum |K p - 1|, for the sum over classes of -log p. Huang, Geng & Li 2021.
    """
    features = features.double()
    p = head(features).softmax(dim=1)
    return -features.abs().sum(dim=1) * (p * p.shape[1] - 1).abs().sum(dim=1)


def _keep_largest(features: Tensor, prune: float) -> tuple[Tensor, Tensor]:
    """Features with all but the largest set to zero (B, D), and sum before / sum after (B,)."""
    width = features.shape[1]
    largest = features.topk(max(width - round(width * prune), 1), dim=1)
    kept = torch.zeros_like(features).scatter_(1, largest.indices, largest.values)
    after = kept.sum(dim=1)
    # a sample without any activation stays as it is
    return kept, torch.where(after > 0, features.sum(dim=1) / after, 0.0)


# Scores fitted on training features


def fit_knn(features: Tensor, k: int = 50) -> Score:
    """Distance to the k-th nearest training feature, all on the unit sphere. Sun et al. 2022.

    Args:
        features: (N, D) of the training data.
        k: Neighbour; the farthest one if the bank is smaller.

    Raises:
        ValueError: No training feature, or k below 1.
    """
    if not len(features) or k < 1:
        raise ValueError(f"expected a training feature and k >= 1, got shape {tuple(features.shape)} and k={k}")
    bank = unit_rows(features)
    squares = bank.square().sum(dim=1)  # 1, or 0 for features that are all 0
    k = min(k, len(bank))

    def score(h: Tensor) -> Tensor:
        h = unit_rows(h)
        nearest = torch.addmm(-squares, h, bank.T, alpha=2).topk(k, dim=1).indices[:, -1]
        # from the difference: the inner product alone gives 1e-8 for a distance of 0
        return (h - bank[nearest]).norm(dim=1)

    return score


def fit_mahalanobis(features: Tensor, labels: Tensor, ridge: float = RIDGE) -> Score:
    """Squared Mahalanobis distance to the nearest class mean, one covariance for all. Lee et al. 2018.

    From features (N, D) and labels (N,) of the training data. ``ridge`` is added to the diagonal of the covariance,
    which is divided by N.
    """
    distances = _class_distances(features.double(), labels, ridge)
    return lambda h: distances(h.double()).amin(dim=1)


def fit_relative_mahalanobis(features: Tensor, labels: Tensor, ridge: float = RIDGE) -> Score:
    """`fit_mahalanobis` minus the distance to one Gaussian around all features. Ren et al. 2021."""
    features = features.double()
    distances = _class_distances(features, labels, ridge)
    background = _class_distances(features, torch.zeros_like(labels), ridge)
    return lambda h: (distances(h.double()) - background(h.double())).amin(dim=1)


def fit_react(features: Tensor, head: Head, percentile: float = 90.0) -> Score:
    """Energy after clipping features from above at a percentile of the training activations. Sun et al. 2021."""
    # all activations at once, of which torch.quantile refuses more than 16 million
    flat = features.double().flatten()
    limit = flat.kthvalue(max(1, round(percentile / 100 * len(flat)))).values
    return lambda h: -head(h.double().clamp(max=limit)).logsumexp(dim=1)


def fit_vim(features: Tensor, head: Head) -> Score:
    """Virtual-logit matching: scaled norm outside the principal space, minus log-sum-exp. Wang et al. 2022.

    The principal space has 1000 dimensions for more than 1500 features, 512 for more than 768, else half.

    Raises:
        ValueError: The training features (N, D) fill no more than the principal space.
    """
    features = features.double()
    width = features.shape[1]
    dimensions = 1000 if width > 1500 else 512 if width > 768 else width // 2
    origin = -torch.linalg.pinv(head.weight) @ head.bias
    centred = features - origin
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    residual = vectors[:, : width - dimensions]
    length = (centred @ residual).norm(dim=1).mean()
    if not values.sum() > 0 or length <= 1e-7 * values.sum().sqrt():
        raise ValueError(f"training features of {width} dimensions span at most {dimensions}: no residual for ViM")
    alpha = head(features).amax(dim=1).mean() / length
    return lambda h: alpha * ((h.double() - origin) @ residual).norm(dim=1) - head(h.double()).logsumexp(dim=1)


def _class_distances(features: Tensor, labels: Tensor, ridge: float) -> Score:
    """Squared Mahalanobis distances (B, D) to (B, C), to the C classes that occur, covariance tied over them."""
    _, group, count = labels.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), features.shape[1]).to(features).index_add_(0, group, features)
    means = sums / count[:, None]
    centred = features - means[group]
    covariance = centred.T @ centred / len(centred)
    covariance.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(covariance)

    def whiten(h: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(factor, h.T, upper=False).T

    centres = whiten(means)

    def distances(h: Tensor) -> Tensor:
        white = whiten(h)
        # one class at a time: (B, C, D) at once would be large for many classes
        return torch.stack([(white - centre).square().sum(dim=1) for centre in centres], dim=1)

    return distances


HEAD_SCORES: dict[str, Callable[..., Tensor]] = {"ash_s": ash_s, "scale": scale, "gradnorm": gradnorm}
