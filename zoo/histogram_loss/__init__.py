"""Histogram loss: regression that learns the distribution of the label.

Paper: Ehsan Imani, Martha White, "Improving Regression Performance with Distributional Losses", ICML 2018,
https://arxiv.org/abs/1806.04613; its follow-up: Imani et al., "Investigating the Histogram Loss in Regression", 2024,
https://arxiv.org/abs/2402.13425.

Implemented: the histogram loss with Gaussian, one-bin, uniform and projected (two-hot) targets; both ways to pad the
support; mean, median and mode; the predictive distribution with exact cdf, quantiles, density and moments; and on the
same network the baselines l2, l1, Huber, l2 with output noise or clipped gradients, and a Gaussian and a mixture of
Gaussians learnt by maximum likelihood.

A target of your own is one method::

    class Mine(HistogramRegression):
        def target(self, y):  # (B,) -> masses (B, k), over the bins between self.edges
            return truncated_gaussian_target(y, self.edges, sigma=2.5)

Departures, from the paper or from the official code, each for a reason:

* The support is padded by 3 sigma, as in the follow-up; ``padding_sigmas=0`` is the paper's.
* Labels outside the support count as its ends; the official code gives NaN or a target without mass.
* The loss is the mean over the batch and takes logits; the official code sums, and clips probabilities at 1e-7.
* Histograms learn in the labels' units, the baselines on labels scaled to [0, 1], as in the official code.
* "l2 with clipped gradients" clips the norm over all parameters.
* Validation rows are held out of the training rows; the official scripts have none.
"""

from .baselines import GaussianRegression, MixtureDensityNetwork, PointRegression
from .distribution import PiecewiseUniform
from .module import HistogramRegression

__all__ = [
    "GaussianRegression",
    "HistogramRegression",
    "MixtureDensityNetwork",
    "PiecewiseUniform",
    "PointRegression",
]
