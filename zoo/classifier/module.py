"""Supervised classification, the baseline."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.batches import check_labelled_batch
from ..shared.evaluation import SetMeans, positions
from ..shared.nets import build_network
from ..shared.schedules import logs_now, warmup_cosine
from .loss import classification_loss


def _check_arguments(h: Any) -> None:
    for name in ("lr", "momentum", "weight_decay", "warmup_steps"):
        if not 0 <= h[name] < math.inf:  # NaN fails too
            raise ValueError(f"{name} is {h[name]}; expected a number of at least 0")
    if not 0 <= h.label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {h.label_smoothing}; expected a share from 0 to 1")


class Classifier(LightningModule):
    """Cross-entropy training with SGD, warm-up and cosine annealing.

    Batch: ``(x, y)`` with images ``(B, C, H, W)`` in [-1, 1] and integer labels ``(B,)``. A step of two processes with
    batches of n equals one of a single process with 2 n, unless the network has batch normalisation.

    Args:
        num_classes: Number of classes, at least 2; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.
        network: Name of a class of ``zoo.shared.nets``.
        network_args: Further arguments of that class, for example ``{depth: 28, width: 10, norm: batch}``.
        lr: Peak learning rate.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on all parameters.
        warmup_steps: Optimiser steps of linear warm-up before the cosine annealing to zero.
        label_smoothing: Share of the target's mass spread over all classes.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        network: str = "SmallConvNet",
        network_args: dict[str, Any] | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        warmup_steps: int = 0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check_arguments(self.hparams)
        self.image_shape = image_shape
        self.network: Any = self.build_network()
        self.means = SetMeans()

    def build_network(self) -> nn.Module:
        """The network, with ``forward`` and ``features``; override it to train one of your own."""
        h: Any = self.hparams
        return build_network(h.network, self.image_shape, h.num_classes, **(h.network_args or {}))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.network(x)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, D)`` of images ``(B, C, H, W)``."""
        return self.network.features(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of cross-entropy."""
        x, y = batch
        log_now = logs_now(self.trainer)
        if log_now or batch_idx == 0 or not x.is_cuda:  # on a GPU the check would stall the queue in each step
            check_labelled_batch(x, y, self.image_shape, self.hparams["num_classes"])
        logits = self(x)
        loss = classification_loss(logits, y, self.hparams["label_smoothing"])
        if log_now:
            self.log("train/loss", loss)
            self.log("train/acc", (logits.argmax(1) == y).float().mean())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy on the validation set."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the in-distribution set, which comes first."""
        return {"logits": self._evaluate(batch, batch_idx, "test") if dataloader_idx == 0 else self(batch[0])}

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> Tensor:
        x, y = batch
        check_labelled_batch(x, y, self.image_shape, self.hparams["num_classes"])
        logits = self(x)
        count = len(positions(self.trainer, batch_idx, len(y)))
        counted, y = logits[: count or None], y[: count or None]
        figures = {
            "loss": classification_loss(counted, y),
            "acc": (counted.argmax(1) == y).float().mean(),
        }
        self.means.log(self, stage, figures, count)
        return logits

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        return self(x).softmax(1)

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum; warm-up, then cosine annealing over the whole run, step by step."""
        h: Any = self.hparams
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise ValueError("max_epochs is -1 without max_steps; cosine annealing needs to know where the run ends")
        optimizer = torch.optim.SGD(
            self.parameters(), h.lr, momentum=h.momentum, weight_decay=h.weight_decay, nesterov=h.momentum > 0
        )

        def factor(step: int) -> float:
            # Step 0 comes before a resumed run has its random state back, and estimated_stepping_batches creates the
            # loader's iterator, which draws the shuffling: so the total is asked for from step 1 on only.
            total = float(self.trainer.estimated_stepping_batches) if step else math.inf
            return warmup_cosine(step, h.warmup_steps, total)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
