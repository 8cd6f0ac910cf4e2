"""What the histogram loss is compared with: the same network with other losses.

All learn labels on the scale on which the training labels' range is [0, 1], as in the authors' code; the losses that
they log are on that scale too, the errors in original units.
"""

from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Laplace, MixtureSameFamily, Normal
from torch.nn import functional

from ..shared.arguments import check_choice
from ..shared.processes import own_draw
from .loss import gaussian_loss, mixture_loss
from .net import Initialisation
from .regression import RegressionModule

PointLoss = Literal["l2", "l1", "huber"]


class PointRegression(RegressionModule):
    """Regression on the squared, absolute or Huber loss.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. ``predictive`` is a normal
    distribution around the point whose deviation is the root mean square of the last validation epoch's residuals; for
    l1 a Laplace distribution whose scale is their mean absolute value. Before there are any, the residuals are those of
    the training labels' mean (median for l1). A step of two processes with batches of n equals one of a single process
    with 2 n, given the same noise.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with biases of zero; or ``torch``, torch's own, without which
            the ReLUs of a network with one feature all bend at its mean.
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
        check_choice("loss", loss, get_args(PointLoss))
        for name, value, least in (
            ("huber_delta", huber_delta, "above"), ("output_noise", output_noise, "at least"),
            ("gradient_clip", gradient_clip, "above"),
        ):  # fmt: skip
            if value is not None and not (value > 0 or (value == 0 and least == "at least")):
                raise ValueError(f"{name} is {value}; expected a number {least} 0")
        super().__init__(outputs=1)
        self.register_buffer("residual_scale", torch.tensor(torch.nan))

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """Mean loss of the scaled labels."""
        h: Any = self.hparams
        found, y = outputs[:, 0], self.scaled(y)
        if self.training and h.output_noise:
            found = found + h.output_noise * own_draw(torch.randn, found)
        if h.loss == "l2":
            return {"loss": functional.mse_loss(found, y)}
        if h.loss == "l1":
            return {"loss": functional.l1_loss(found, y)}
        return {"loss": functional.huber_loss(found, y, delta=h.huber_delta)}

    def point(self, outputs: Tensor) -> Tensor:
        """The output ``(B,)`` in original units."""
        return self.edges[0] + (self.edges[-1] - self.edges[0]) * outputs[:, 0]

    def distribution(self, outputs: Tensor) -> Distribution:
        """Normal or Laplace distributions around the points, all of one width."""
        if self.residual_scale.isnan():
            raise ValueError("PointRegression knows no residuals yet: fit it, or run a validation epoch")
        kind = Laplace if self.hparams["loss"] == "l1" else Normal
        return kind(self.point(outputs), self.residual_scale)

    def learn_of_labels(self, labels: Tensor) -> None:
        """Start with the residuals of a constant prediction."""
        if self.residual_scale.isnan():
            absolute = (labels - labels.median()).abs().mean()
            self._keep_scale(absolute if self.hparams["loss"] == "l1" else labels.std(correction=0))

    def on_validation_epoch_end(self) -> None:
        """Keep the size of the residuals."""
        if not self.trainer.sanity_checking:
            self._keep_scale(
                cast(Any, self.means.metrics["val/mae" if self.hparams["loss"] == "l1" else "val/rmse"]).compute()
            )

    def _keep_scale(self, scale: Tensor) -> None:
        self.residual_scale.copy_(scale).clamp_(min=1e-6 * (self.edges[-1] - self.edges[0]))

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the module's own ``gradient_clip``, or else as the trainer wants it."""
        own = self.hparams["gradient_clip"]
        if own is not None and gradient_clip_val is not None:
            raise ValueError(f"gradient_clip={own} and the trainer's gradient_clip_val={gradient_clip_val}: use one")
        if own is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            self.clip_gradients(optimizer, own, "norm")


class GaussianRegression(RegressionModule):
    """A normal distribution whose mean and deviation the network predicts, on its negative log-likelihood.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. A step of two processes with
    batches of n equals one of a single process with 2 n, given the same dropout. 16-mixed leaves out about five steps
    at the start, until torch has found a scale for the loss that its gradients survive.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with biases of zero; or ``torch``, torch's own, without which
            the ReLUs of a network with one feature all bend at its mean.
        smallest_scale: Smallest standard deviation, as a share of the labels' range.
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
        _check_scale(smallest_scale)
        super().__init__(outputs=2)

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """Mean negative log-density of the scaled labels."""
        return {"loss": gaussian_loss(self.scaled(y), outputs[:, 0], self._scale(outputs))}

    def point(self, outputs: Tensor) -> Tensor:
        """The mean ``(B,)``."""
        return self.edges[0] + (self.edges[-1] - self.edges[0]) * outputs[:, 0]

    def distribution(self, outputs: Tensor) -> Normal:
        """The normal distributions."""
        return Normal(self.point(outputs), (self.edges[-1] - self.edges[0]) * self._scale(outputs))

    def _scale(self, outputs: Tensor) -> Tensor:
        return _deviations(outputs[:, 1], self.hparams["smallest_scale"])


class MixtureDensityNetwork(RegressionModule):
    """A mixture of normal distributions whose parameters the network predicts (Bishop 1994), on its likelihood.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. The means start evenly spread over
    the labels' range. A step of two processes with batches of n equals one of a single process with 2 n, given the same
    dropout. 16-mixed leaves out about five steps at the start, see ``GaussianRegression``.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        hidden: Width of each hidden layer.
        input_dropout: Probability with which an input feature is dropped in training.
        initialisation: ``lecun_uniform``, the paper's, with biases of zero; or ``torch``, torch's own, without which
            the ReLUs of a network with one feature all bend at its mean.
        components: Number of normal distributions, at least 1.
        smallest_scale: Smallest standard deviation, as a share of the labels' range.
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
        _check_scale(smallest_scale)
        if components < 1:
            raise ValueError(f"components is {components}; a mixture needs at least 1")
        super().__init__(outputs=3 * components)
        self.register_buffer("centres", (torch.arange(components) + 0.5) / components)

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """Mean negative log-density of the scaled labels."""
        return {"loss": mixture_loss(self.scaled(y), *self._parts(outputs))}

    def point(self, outputs: Tensor) -> Tensor:
        """The mixture's mean ``(B,)``."""
        logits, means, _ = self._parts(outputs)
        return self.edges[0] + (self.edges[-1] - self.edges[0]) * (logits.softmax(-1) * means).sum(-1)

    def distribution(self, outputs: Tensor) -> MixtureSameFamily:
        """The mixtures, each component a ``Normal``."""
        logits, means, scales = self._parts(outputs)
        low, width = self.edges[0], self.edges[-1] - self.edges[0]
        return MixtureSameFamily(Categorical(logits=logits), Normal(low + width * means, width * scales))

    def _parts(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the weights, means and deviations, each ``(B, components)``."""
        logits, means, raw = outputs.chunk(3, -1)
        return logits, means + self.centres, _deviations(raw, self.hparams["smallest_scale"])


def _check_scale(smallest: float) -> None:
    if not 0 < smallest < 1:
        raise ValueError(f"smallest_scale is {smallest}; expected a share in (0, 1)")


def _deviations(raw: Tensor, smallest: float) -> Tensor:
    """Positive numbers of any; 0 gives a quarter of the labels' range, where training starts."""
    return functional.softplus(raw - 1.26) + smallest
