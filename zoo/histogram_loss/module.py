"""Regression with the histogram loss."""

from typing import Any, Literal

import torch
from torch import Tensor

from .distribution import PiecewiseUniform
from .loss import (
    bin_edges,
    dirac_target,
    histogram_loss,
    histogram_mean,
    histogram_median,
    histogram_mode,
    projected_target,
    target_entropy,
    truncated_gaussian_target,
    uniform_mix_target,
)
from .net import Initialisation
from .regression import RegressionModule
from .support import TargetTable, warn_of_clamped

Target = Literal["gaussian", "dirac", "uniform", "projected"]
Point = Literal["mean", "median", "mode"]


class HistogramRegression(RegressionModule):
    """Predicts a histogram over the label's range, learnt by cross-entropy with soft targets (Imani and White 2018).

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. Logs the cross-entropy ``loss``
    and its excess ``kl`` over the targets' own entropy, the least that it can be; in validation and test ``rmse`` and
    ``mae`` too, and ``train/gradient_norm`` before clipping.

    The support comes from the training labels when a fit starts, unless ``low`` and ``high`` give it, and stays with
    the weights: a resumed run or a fit of a loaded module keeps it. A label outside it counts as its nearer end. A step
    of two processes with batches of n equals one of a single process with 2 n, given the same dropout.

    The predictive variance contains the target's: ``sigma²`` and a twelfth of the squared bin width.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with zero biases; ``torch``, which a single feature needs.
        target: ``gaussian``, a normal distribution around the label, cut off at the support's ends (HL-Gaussian);
            ``dirac``, the label's bin (HL-OneBin); ``uniform``, that with some mass in every other bin (HL-Uniform);
            ``projected``, the two bins around the label (HL-Projected).
        bins: Number of bins, at least 2, with those of the padding.
        sigma_ratio: Standard deviation of the Gaussian target in bins. The paper has 1, its follow-up 2, "Stop
            Regressing" 0.75: with 0.25 the mean of a target is off its label by up to a tenth of a bin, with 0.5 and
            more it is right, and the wider it is, the wider the predictive distribution. 0 is the limit, ``dirac``.
        padding_sigmas: Padding of the support beyond the labels on each side, in sigma. The paper has none, so that the
            target of the largest label has a mean 0.8 sigma below it; with 3 it is 0.004 sigma, for 6 of 100 bins.
        padding_share: The same as a share of the labels' range; set ``padding_sigmas`` to 0 for it.
        low: Smallest label; by default that of the training rows.
        high: Largest label; by default that of the training rows.
        clamp_warning: Warn when more than this share of the training labels lies outside the support.
        uniform_mass: Mass in each other bin, for the target ``uniform``.
        prediction: What ``forward`` gives: the histogram's ``mean``, ``median`` or ``mode``.
        lr: Adam's learning rate.

    Raises:
        ValueError: For a value that is none of the choices or out of its range.
    """

    def __init__(
        self,
        num_features: int = 10,
        hidden: list[int] = [192, 192, 192, 192],  # noqa: B006  the help shows it; it is never changed
        input_dropout: float = 0.0,
        initialisation: Initialisation = "lecun_uniform",
        target: Target = "gaussian",
        bins: int = 100,
        sigma_ratio: float = 1.0,
        padding_sigmas: float = 3.0,
        padding_share: float = 0.0,
        low: float | None = None,
        high: float | None = None,
        clamp_warning: float = 0.01,
        uniform_mass: float = 1e-3,
        prediction: Point = "mean",
        lr: float = 1e-3,
    ) -> None:
        edges = bin_edges(0, 1, bins, padding_sigmas, sigma_ratio, padding_share)  # refused now, not when a fit starts
        if target == "uniform":
            uniform_mix_target(torch.zeros(1), edges, uniform_mass)
        super().__init__(outputs=bins, edges=bins + 1)
        self._table: TargetTable | None = None

    def make_edges(self, low: float, high: float) -> Tensor:
        """Edges ``(k + 1,)`` of the bins for labels in ``[low, high]``; override it for bins of your own."""
        h: Any = self.hparams
        return bin_edges(low, high, h.bins, h.padding_sigmas, h.sigma_ratio, h.padding_share)

    def target(self, y: Tensor) -> Tensor:
        """Masses ``(B, k)`` of labels ``(B,)``; override it for a target of your own."""
        h: Any = self.hparams
        if h.target == "projected":
            return projected_target(y, self.edges)
        if h.target == "uniform":
            return uniform_mix_target(y, self.edges, h.uniform_mass)
        if h.target == "dirac" or h.sigma_ratio == 0:
            return dirac_target(y, self.edges)
        return truncated_gaussian_target(y, self.edges, h.sigma_ratio * (self.edges[-1] - self.edges[0]) / h.bins)

    def on_training_labels(self, labels: Tensor) -> None:
        """Warn of labels outside the support; on a CPU compute the targets of all labels once."""
        warn_of_clamped(labels, self.edges, self.hparams["clamp_warning"])
        labels = labels.to(self.edges.dtype)
        if self.device.type == "cpu" and TargetTable.fits(labels, self.hparams["bins"]):
            self._table = TargetTable(labels, self.target)

    def on_fit_end(self) -> None:
        """Free the table of targets."""
        self._table = None

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """The histogram loss in nats, and its excess ``kl`` over the targets' entropy."""
        known = self._table.find(y) if self._table else None
        target = self.target(y) if known is None else known
        loss = histogram_loss(outputs, target)
        return {"loss": loss, "kl": loss.detach() - target_entropy(target).mean()} if everything else {"loss": loss}

    def point(self, outputs: Tensor) -> Tensor:
        """Mean, median or mode ``(B,)`` of the predicted histograms."""
        statistics = {"mean": histogram_mean, "median": histogram_median, "mode": histogram_mode}
        return statistics[self.hparams["prediction"]](outputs.softmax(-1), self.edges)

    def distribution(self, outputs: Tensor) -> PiecewiseUniform:
        """The predicted histograms."""
        return PiecewiseUniform(self.edges, outputs)
