"""Unsupervised disentanglement ranking (Duan et al. 2020): how alike the latents of several trained models are."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.linear_model import Lasso

from .checks import check_codes, spread

INFORMATIVE = 0.01  # nats of KL divergence
PENALTY = 0.1  # of the lasso


class Ranking(NamedTuple):
    """UDR score of each model.

    Attributes:
        scores: (M,) median over the other models; larger for a model that others agree with.
        pairwise: (M, M) how alike two models are; the diagonal is NaN.
    """

    scores: np.ndarray
    pairwise: np.ndarray


def lasso_similarity(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Absolute weights (A, B) of a lasso (penalty 0.1) that predicts codes (n, B) from (n, A), both standardised."""
    weights = Lasso(alpha=PENALTY).fit(np.asarray(first), np.asarray(second)).coef_
    return np.abs(weights).reshape(-1, np.asarray(first).shape[1]).T


def spearman_similarity(first: ArrayLike, second: ArrayLike) -> np.ndarray:
    """Absolute Spearman correlation (A, B) of each latent of codes (n, A) and of (n, B); 0 for a constant one."""
    tables = [_standardised(rankdata(np.asarray(table), axis=0)) for table in (first, second)]
    return np.abs(tables[0].T @ tables[1]) / len(tables[0])


def similarity_score(similarity: ArrayLike) -> float:
    """How nearly each latent of one model is like one latent of another, by similarities (A, B) of at least 0.

    It is largest² / sum of each row and column, averaged over rows and over columns, and the mean of the two: 1 for a
    permutation matrix. A row of zeros counts 0, and a matrix without rows or columns is 0.
    """
    matrix = np.asarray(similarity, dtype=np.float64)
    if not matrix.size:
        return 0.0
    halves = []
    for axis in (0, 1):
        total = matrix.sum(axis)
        halves.append((matrix.max(axis) ** 2 / np.where(total > 0, total, 1)).mean())
    return float(sum(halves) / 2)


def udr(codes: Sequence[ArrayLike], kl: Sequence[ArrayLike], spearman: bool = False) -> Ranking:
    """UDR of models that were trained with different seeds only, from their codes of the same images.

    Latents with a KL divergence of at most 0.01 nats are left out. The study of Duan et al. has both similarities, the
    lasso's as the better one; they are not symmetric, so the score of a model is the median over the models that
    predict it, as in the official code.

    Args:
        codes: (n, L) of each of M models, of the same n images.
        kl: (L,) mean KL divergence of each latent of each model, as from `unsupervised.kl_per_latent`.
        spearman: Whether to use Spearman correlations instead of the lasso.

    Raises:
        ValueError: Fewer than two models, codes that are not finite or of different images, or a KL that is NaN.
    """
    if len(codes) < 2 or len(codes) != len(kl):
        raise ValueError(f"expected codes and KL of at least two models, got {len(codes)} and {len(kl)}")
    tables = [check_codes(table) for table in codes]
    if len({len(table) for table in tables}) > 1:
        raise ValueError(f"expected codes of the same images, got {[len(table) for table in tables]} rows")
    kept = []
    for table, divergence in zip(tables, kl, strict=True):
        informative = np.asarray(divergence) > INFORMATIVE
        if informative.shape != table.shape[1:]:
            raise ValueError(f"expected one KL for each of {table.shape[1]} latents, got shape {informative.shape}")
        if np.isnan(divergence).any():
            raise ValueError(f"expected a KL of each latent, got {np.asarray(divergence).tolist()}")
        kept.append(_standardised(table)[:, informative])
    pairwise = np.full((len(kept), len(kept)), np.nan)
    similarity = spearman_similarity if spearman else lasso_similarity
    for i, first in enumerate(kept):
        for j, second in enumerate(kept):
            if i != j:
                empty = not first.shape[1] or not second.shape[1]
                pairwise[i, j] = 0.0 if empty else similarity_score(similarity(first, second))
    return Ranking(np.nanmedian(pairwise, axis=0), pairwise)


def _standardised(table: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1; constant ones become 0."""
    centred, deviation = table - table.mean(0), spread(table)
    return centred / np.where(deviation > 0, deviation, 1) * (deviation > 0)
