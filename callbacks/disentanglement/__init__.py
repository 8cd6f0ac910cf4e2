"""Metrics of disentanglement, as functions of codes (n, L) and factors (n, K).

After Locatello et al., "Challenging Common Assumptions in the Unsupervised Learning of Disentangled Representations",
ICML 2019, https://arxiv.org/abs/1811.12359. The defaults are those of their code; where it is known to go wrong, there
is a corrected variant beside the official one, and the docstring says what a perfect code and what noise score.

Codes are arrays of finite numbers, factors arrays of integers. A factor with one value is left out. Each function
raises a ``ValueError`` that names the value for codes that are not finite, too few samples, shapes that do not fit,
arguments out of range, and where no factor varies.
"""

from . import report as report  # adds the room's section to the report
from .callback import DisentanglementEvaluation
from .latents import LatentPictures
from .metrics.dci import DCI, completeness_of_importance, dci, dci_exact, disentanglement_of_importance
from .metrics.downstream import Accuracy, boosted_trees, boosted_trees_exact, efficiency, logistic_regression
from .metrics.explicitness import Explicitness, explicitness
from .metrics.information import (
    code_mutual_information,
    discretise,
    enough_bins,
    entropies,
    mig,
    mig_of_matrix,
    modularity,
    modularity_of_matrix,
    mutual_information_matrix,
)
from .metrics.irs import Robustness, irs
from .metrics.pairs import Points, Votes, beta_vae_score, factor_vae_score, pair_differences, vote_variances
from .metrics.sap import Separation, sap, sap_continuous, sap_of_matrix
from .metrics.udr import Ranking, lasso_similarity, similarity_score, spearman_similarity, udr
from .metrics.unsupervised import Correlation, correlation_of_covariance, gaussian_correlation, kl_per_latent

__all__ = [
    "DCI",
    "Accuracy",
    "Correlation",
    "DisentanglementEvaluation",
    "Explicitness",
    "LatentPictures",
    "Points",
    "Ranking",
    "Robustness",
    "Separation",
    "Votes",
    "beta_vae_score",
    "boosted_trees",
    "boosted_trees_exact",
    "code_mutual_information",
    "completeness_of_importance",
    "correlation_of_covariance",
    "dci",
    "dci_exact",
    "discretise",
    "disentanglement_of_importance",
    "efficiency",
    "enough_bins",
    "entropies",
    "explicitness",
    "factor_vae_score",
    "gaussian_correlation",
    "irs",
    "kl_per_latent",
    "lasso_similarity",
    "logistic_regression",
    "mig",
    "mig_of_matrix",
    "modularity",
    "modularity_of_matrix",
    "mutual_information_matrix",
    "pair_differences",
    "sap",
    "sap_continuous",
    "sap_of_matrix",
    "similarity_score",
    "spearman_similarity",
    "udr",
    "vote_variances",
]
