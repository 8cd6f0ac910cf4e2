"""Scores for choosing checkpoints and hyper-parameters of domain adaptation without target labels.

Pure functions that compute in float64, whatever the type of their input. All are larger for a better model. None takes
target labels: they judge the target by its logits or features. A NaN in the input and an empty input give NaN.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shared.rows import unit_rows

Floats = NDArray[np.float64]


def source_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of source samples whose most probable class, by logits (N, K), is the label (N,); NaN for a NaN logit."""
    if bool(logits.isnan().any()):
        return math.nan
    return (logits.argmax(1) == labels).double().mean().item()


def entropy_score(logits: Tensor) -> float:
    """Minus the mean entropy in nats of target predictions, logits (N, K), in [-log K, 0]: 0 if all are certain.

    It does not tell certain and wrong predictions from certain and right ones; one class for all samples scores best.
    """
    log_p = logits.double().log_softmax(1)
    # p log p is 0 where p is 0 and its logarithm infinite
    return (log_p.exp() * log_p).where(log_p != -math.inf, 0.0).sum(1).mean().item()


def diversity_score(logits: Tensor) -> float:
    """Entropy in nats of the mean target prediction, logits (N, K), in [0, log K]: log K if classes are as frequent."""
    p = logits.double().softmax(1).mean(0)
    return -torch.special.xlogy(p, p).sum().item()


def information_maximisation(logits: Tensor) -> float:
    """Mutual information of sample and predicted class in nats, in [0, log K]: `entropy_score` + `diversity_score`.

    It is 0 where all samples have one prediction, whether certain or not, and log K where all predictions are certain
    and the classes equally frequent. Krause, Perona & Gomes 2010, "Discriminative Clustering by Regularized Information
    Maximization".
    """
    return entropy_score(logits) + diversity_score(logits)


def soft_neighbourhood_density(features: Tensor, temperature: float = 0.05, block: int = 1024) -> float:
    """How evenly each sample's neighbours surround it in nats, in [0, log(N - 1)]; Saito et al. 2021 ("SND").

    The cosine similarities of a sample to all others are divided by the temperature and turned into probabilities; the
    score is the mean entropy of these. It is large for dense clusters. Collapsed features have a large one too: where
    all samples coincide it is log(N - 1), the largest value. Compare only values of equal N, and look at the diversity
    too.

    Features (N, D) are any of unlabelled target data, or class probabilities as in the authors' code; a row of zeros
    has the similarity 0 to all others. The similarity matrix is in memory ``block`` rows at a time.

    Raises:
        ValueError: Fewer than two samples.
    """
    if len(features) < 2:
        raise ValueError(f"expected features of at least two samples, got shape {tuple(features.shape)}")
    unit = unit_rows(features)
    entropies = []
    for start in range(0, len(unit), block):
        similarity = unit[start : start + block] @ unit.T / temperature
        rows = torch.arange(len(similarity))
        similarity[rows, start + rows] = -math.inf  # a sample is no neighbour of itself
        log_p = similarity.log_softmax(1)
        p = log_p.exp()
        log_p[rows, start + rows] = 0  # its p is 0, and 0 * -inf would be NaN
        entropies.append(-(p * log_p).sum(1))
    return torch.cat(entropies).mean().item()


def deep_embedded_validation(losses: Floats, weights: Floats) -> float:
    """Minus the importance-weighted source risk, with a control variate; You et al. 2019 ("DEV").

    -(mean(w l) + eta mean(w) - eta) with eta = -Cov(w l, w) / Var(w): the weights of an exact density ratio have the
    mean 1, so that the term with eta vanishes on average and reduces the variance. Where all weights are equal up to
    rounding, eta is 0. No weight is clipped or rescaled here: a few huge ones make the score worthless, so look at the
    largest too.

    Args:
        losses: (N,) of source validation samples; the callback gives cross-entropies in nats, as published code does.
        weights: (N,) density ratios target / source at these samples, at least 0; see `density_ratio`.

    Raises:
        ValueError: There is no sample, not one weight for each loss, or a weight is negative.
    """
    losses, weights = np.asarray(losses, np.float64), np.asarray(weights, np.float64)
    if losses.ndim != 1 or losses.shape != weights.shape or not len(losses):
        raise ValueError(f"expected losses (N,) and weights (N,), got shapes {losses.shape} and {weights.shape}")
    if (weights < 0).any():
        raise ValueError(f"expected weights of at least 0, got {weights.min()}")
    weighted = weights * losses
    centred = weights - weights.mean()
    variance = np.mean(centred**2)
    # for equal weights both moments are rounding errors, and their ratio may be anything
    varies = np.sqrt(variance) > 1e-12 * weights.mean()
    eta = -np.mean((weighted - weighted.mean()) * centred) / variance if varies else 0.0
    return -float(weighted.mean() + eta * weights.mean() - eta)
