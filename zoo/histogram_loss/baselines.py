"""Baselines of the histogram loss: the same network with other losses.

All learn labels on the scale on which the support is [0, 1], as in the authors' code. Their logged losses are on that
scale too; the errors are in the labels' units.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Laplace, MixtureSameFamily, Normal
from torch.nn import functional

from ..shared.arguments import check_at_least, check_positive, check_share
from ..shared.processes import own_draw
from .loss import gaussian_loss, mixture_loss
from .net import Initialisation
from .regression import RegressionModule

PointLoss = Literal["l2", "l1", "huber"]


class PointRegression(RegressionModule):
    """Predicts a number: regression on the squared, absolute or Huber loss.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. Logs ``loss``, in validation and
    test ``rmse`` and ``mae`` too, and ``train/gradient_norm`` before clipping.

    ``predictive`` is a normal distribution around the prediction; its standard deviation is the root mean square of
    the last validation epoch's residuals. For l1 it is a Laplace distribution; its scale is their mean absolute value.
    Before the first validation the residuals are those of a constant, the mean (for l1 the median) of the training
    labels. A step of two processes with batches of n equals one of a single process with 2 n, given the same noise.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with zero biases; ``torch``, which a single feature needs.
        loss: ``l2``, ``l1`` or ``huber``.
        huber_delta: Where the Huber loss turns from square to linear, as a share of the labels' range.
        output_noise: Standard deviation of normal noise on the output in training, as a share of the labels' range.
        gradient_clip: Largest norm of the gradient of all parameters; None for no clipping.
        low: Smallest label; by default that of the training rows.
        high: Largest label; by default that of the training rows.
        lr: Adam's learning rate.

    Raises:
        ValueError: For a value that is none of the choices or out of its range.
    """

    residual_scale: Tensor

    def __init__(
        self,
        num_features: int = 10,
        hidden: list[int] = [192, 192, 192, 192],  # noqa: B006  the help shows it; it is never changed
        input_dropout: float = 0.0,
        initialisation: Initialisation = "lecun_uniform",
        loss: PointLoss = "l2",
        huber_delta: float = 0.1,
        output_noise: float = 0.0,
        gradient_clip: float | None = None,
        low: float | None = None,
        high: float | None = None,
        lr: float = 1e-3,
    ) -> None:
        check_positive(huber_delta=huber_delta, gradient_clip=gradient_clip)
        check_at_least(0, output_noise=output_noise)
        super().__init__(outputs=1)
        self.register_buffer("residual_scale", torch.tensor(torch.nan))

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """Mean loss of the scaled labels."""
        h: Any = self.hparams
        prediction, y = outputs[:, 0], self.scaled(y)
        if self.training and h.output_noise:
            prediction = prediction + h.output_noise * own_draw(torch.randn, prediction)
        if h.loss == "huber":
            return {"loss": functional.huber_loss(prediction, y, delta=h.huber_delta)}
        return {"loss": (functional.mse_loss if h.loss == "l2" else functional.l1_loss)(prediction, y)}

    def point(self, outputs: Tensor) -> Tensor:
        """The output ``(B,)`` in the labels' units."""
        return self.unscaled(outputs[:, 0])

    def distribution(self, outputs: Tensor) -> Distribution:
        """Normal or Laplace distributions around the predictions, all with the scale of the residuals."""
        if self.residual_scale.isnan():
            raise ValueError("PointRegression knows no residuals yet: fit it, or run a validation epoch")
        return (Laplace if self.hparams["loss"] == "l1" else Normal)(self.point(outputs), self.residual_scale)

    def on_training_labels(self, labels: Tensor) -> None:
        """Start with the residuals of a constant prediction."""
        if self.residual_scale.isnan():
            absolute = (labels - labels.median()).abs().mean()
            self._set_residual_scale(absolute if self.hparams["loss"] == "l1" else labels.std(correction=0))

    def on_validation_epoch_end(self) -> None:
        """Take over the size of the validation residuals."""
        if not self.trainer.sanity_checking:
            error: Any = self.means.metrics["val/mae" if self.hparams["loss"] == "l1" else "val/rmse"]
            self._set_residual_scale(error.compute())

    def _set_residual_scale(self, scale: Tensor) -> None:
        self.residual_scale.copy_(scale).clamp_(min=1e-6 * (self.edges[-1] - self.edges[0]))

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by the module's own ``gradient_clip``, or else as the trainer says."""
        own = self.hparams["gradient_clip"]
        if own is not None and gradient_clip_val is not None:
            raise ValueError(f"gradient_clip={own} and the trainer's gradient_clip_val={gradient_clip_val}: use one")
        if own is not None:
            gradient_clip_val, gradient_clip_algorithm = own, "norm"
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


class GaussianRegression(RegressionModule):
    """Predicts a normal distribution, its mean and its deviation, by maximum likelihood.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. Logs the negative log-likelihood
    ``loss``, in validation and test ``rmse`` and ``mae`` too, and ``train/gradient_norm`` before clipping. A step of
    two processes with batches of n equals one of a single process with 2 n, given the same dropout. 16-mixed leaves out
    about five steps at the start, until torch has found a scale for the loss that its gradients survive.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with zero biases; ``torch``, which a single feature needs.
        smallest_scale: Smallest standard deviation, above 0, as a share of the labels' range.
        low: Smallest label; by default that of the training rows.
        high: Largest label; by default that of the training rows.
        lr: Adam's learning rate.

    Raises:
        ValueError: For a value out of its range.
    """

    def __init__(
        self,
        num_features: int = 10,
        hidden: list[int] = [192, 192, 192, 192],  # noqa: B006  the help shows it; it is never changed
        input_dropout: float = 0.0,
        initialisation: Initialisation = "lecun_uniform",
        smallest_scale: float = 1e-3,
        low: float | None = None,
        high: float | None = None,
        lr: float = 1e-3,
    ) -> None:
        check_positive(smallest_scale=smallest_scale)
        check_share(smallest_scale=smallest_scale)
        super().__init__(outputs=2)

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """Mean negative log-density of the scaled labels."""
        return {"loss": gaussian_loss(self.scaled(y), outputs[:, 0], self._scale(outputs))}

    def point(self, outputs: Tensor) -> Tensor:
        """The mean ``(B,)``."""
        return self.unscaled(outputs[:, 0])

    def distribution(self, outputs: Tensor) -> Normal:
        """The normal distributions."""
        return Normal(self.point(outputs), (self.edges[-1] - self.edges[0]) * self._scale(outputs))

    def _scale(self, outputs: Tensor) -> Tensor:
        return _deviations(outputs[:, 1], self.hparams["smallest_scale"])


class MixtureDensityNetwork(RegressionModule):
    """Predicts a mixture of normal distributions by maximum likelihood (Bishop 1994).

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. Logs what ``GaussianRegression``
    does. The means start evenly spread over the labels' range. A step of two processes with batches of n equals one of
    a single process with 2 n, given the same dropout. 16-mixed leaves out about five steps at the start.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with zero biases; ``torch``, which a single feature needs.
        components: Number of normal distributions, at least 1.
        smallest_scale: Smallest standard deviation, above 0, as a share of the labels' range.
        low: Smallest label; by default that of the training rows.
        high: Largest label; by default that of the training rows.
        lr: Adam's learning rate.

    Raises:
        ValueError: For a value out of its range.
    """

    centres: Tensor

    def __init__(
        self,
        num_features: int = 10,
        hidden: list[int] = [192, 192, 192, 192],  # noqa: B006  the help shows it; it is never changed
        input_dropout: float = 0.0,
        initialisation: Initialisation = "lecun_uniform",
        components: int = 5,
        smallest_scale: float = 1e-3,
        low: float | None = None,
        high: float | None = None,
        lr: float = 1e-3,
    ) -> None:
        check_positive(smallest_scale=smallest_scale)
        check_share(smallest_scale=smallest_scale)
        check_at_least(1, components=components)
        super().__init__(outputs=3 * components)
        self.register_buffer("centres", (torch.arange(components) + 0.5) / components)

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """Mean negative log-density of the scaled labels."""
        return {"loss": mixture_loss(self.scaled(y), *self._parts(outputs))}

    def point(self, outputs: Tensor) -> Tensor:
        """The mixture's mean ``(B,)``."""
        logits, means, _ = self._parts(outputs)
        return self.unscaled((logits.softmax(-1) * means).sum(-1))

    def distribution(self, outputs: Tensor) -> MixtureSameFamily:
        """The mixtures, each component a ``Normal``."""
        logits, means, scales = self._parts(outputs)
        parts = Normal(self.unscaled(means), (self.edges[-1] - self.edges[0]) * scales)
        return MixtureSameFamily(Categorical(logits=logits), parts)

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the weights, means and deviations, each ``(B, components)``."""
        logits, means, raw = outputs.chunk(3, -1)
        return logits, means + self.centres, _deviations(raw, self.hparams["smallest_scale"])


def _deviations(raw: Tensor, smallest: float) -> Tensor:
    """Standard deviations of any numbers; 0, where training starts, gives a quarter of the labels' range."""
    return functional.softplus(raw - 1.26) + smallest
