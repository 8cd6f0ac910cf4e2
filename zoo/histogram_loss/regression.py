"""What the histogram loss and its baselines share: network, support, steps, logging, optimiser."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributions import Distribution

from ..shared.arguments import check_literals
from ..shared.batches import batch_inputs
from ..shared.evaluation import SetMeans, judge_regressor
from ..shared.losses import at_least_float32
from ..shared.schedules import check_regressor_batch, log_training, logs_now
from .net import RegressionNetwork
from .support import label_range, training_labels


class RegressionModule(LightningModule):
    """Shared parts of the histogram loss and its baselines; a subclass is what is trained.

    A subclass defines ``losses``, ``point`` and ``distribution``. Its constructor takes ``num_features``, ``hidden``,
    ``input_dropout``, ``initialisation``, ``low``, ``high`` and ``lr``. ``edges`` is a buffer with the edges of the
    support in the labels' units, NaN until the support is known.

    Args:
        outputs: Number of outputs of the network.
        edges: Number of edges of the support.
    """

    edges: Tensor

    def __init__(self, outputs: int, edges: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["outputs", "edges"])
        check_literals(self)
        self.network: Any = self.build_network(outputs)
        self.register_buffer("edges", torch.full((edges,), torch.nan))
        self._edges_set = False  # spares a GPU the look at the buffer in each step
        low, high = self.hparams["low"], self.hparams["high"]
        if low is not None and high is not None:
            self._set_edges(low, high)
        self.means = SetMeans()

    # ------------------------------------------------------------ what a subclass may change

    def build_network(self, outputs: int) -> nn.Module:
        """The network, with ``forward`` and ``features``; override it to train one of your own."""
        h: Any = self.hparams
        return RegressionNetwork(h.num_features, h.hidden, outputs, h.input_dropout, h.initialisation)

    def make_edges(self, low: float, high: float) -> Tensor:
        """Edges of the support for labels in ``[low, high]``."""
        return torch.tensor([low, high], dtype=torch.float64)

    def losses(self, outputs: Tensor, y: Tensor, everything: bool) -> dict[str, Tensor]:
        """``loss`` of outputs ``(B, outputs)`` and labels ``(B,)``; with ``everything`` all further metrics, too."""
        raise NotImplementedError

    def point(self, outputs: Tensor) -> Tensor:
        """Point predictions ``(B,)`` in the labels' units."""
        raise NotImplementedError

    def distribution(self, outputs: Tensor) -> Distribution:
        """Predictive distributions ``(B,)`` over the labels' units."""
        raise NotImplementedError

    def on_training_labels(self, labels: Tensor) -> None:
        """Called with the training labels ``(N,)`` when a fit starts and the support is known."""

    # ------------------------------------------------------------ what all have

    def forward(self, x: Tensor) -> Tensor:
        """Point predictions ``(B,)`` in the labels' units, of features ``(B, D)``."""
        return self.point(self._outputs(x))

    def features(self, x: Tensor) -> Tensor:
        """Last hidden layer ``(B, hidden[-1])`` of features ``(B, D)``."""
        return self.network.features(x)

    def predictive(self, x: Tensor) -> Distribution:
        """Predictive distributions with batch shape ``(B,)`` over the labels' units, of features ``(B, D)``."""
        return self.distribution(self._outputs(x))

    def scaled(self, y: Tensor) -> Tensor:
        """Labels on the scale on which the support is [0, 1]."""
        return (y - self.edges[0]) / (self.edges[-1] - self.edges[0])

    def unscaled(self, values: Tensor) -> Tensor:
        """Numbers of that scale in the labels' units."""
        return self.edges[0] + (self.edges[-1] - self.edges[0]) * values

    def _outputs(self, x: Tensor) -> Tensor:
        if not self._edges_set:
            if self.edges.isnan().any():
                raise ValueError(
                    f"{type(self).__name__} has no support yet: fit it, load a checkpoint, or give low, high"
                )
            self._edges_set = True
        return at_least_float32(self.network(x))

    def _set_edges(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"the support is [low, high] = [{low}, {high}]; expected finite numbers with low < high")
        edges = self.make_edges(low, high).to(self.edges.dtype)
        if not bool((edges.diff() > 0).all()):
            raise ValueError(
                f"the support [{low}, {high}] is too narrow for {len(edges) - 1} bins in {edges.dtype}: "
                "subtract a constant from the labels, or use fewer bins"
            )
        self.edges.copy_(edges)
        self._edges_set = True

    def on_fit_start(self) -> None:
        """Take the support from the training labels, unless arguments or a checkpoint gave it.

        Raises:
            ValueError: For labels that leave no range, or a precision that would round them.
        """
        if self.edges.dtype.itemsize < 4:
            raise ValueError(f"labels and bins in {self.edges.dtype} would be rounded: use a -mixed precision")
        labels = training_labels(self.trainer)
        if self.edges.isnan().any():
            self._set_edges(*label_range(labels, self.hparams["low"], self.hparams["high"]))
        if labels is not None:
            self.on_training_labels(labels)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        check_regressor_batch(self, batch, batch_idx)
        x, y = batch
        outputs = self._outputs(x)
        losses = self.losses(outputs, y.to(outputs.dtype), logs_now(self.trainer))
        log_training(self, **losses)
        return losses["loss"]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Log the norm of the loss's gradient, before any clipping."""
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        log_training(self, gradient_norm=lambda: nn.utils.get_total_norm(gradients))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and errors on the validation set."""
        judge_regressor(self, "val", batch, batch_idx, self._evaluate)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Point predictions for the callbacks; loss and errors on the data's own test set, which comes first."""
        return judge_regressor(self, "test", batch, batch_idx, self._evaluate, dataloader_idx)

    def _evaluate(self, x: Tensor, y: Tensor, counted: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Predictions of all samples, and the losses of those that count."""
        outputs = self._outputs(x)
        return self.point(outputs), self.losses(outputs[counted], y[counted].to(outputs.dtype), True)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Point predictions ``(B,)`` in the labels' units."""
        return self(batch_inputs(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with the authors' epsilon."""
        return torch.optim.Adam(self.parameters(), self.hparams["lr"], eps=1e-7)
