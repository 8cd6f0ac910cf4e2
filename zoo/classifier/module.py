"""Supervised classification, the baseline."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.arguments import check_at_least, check_share
from ..shared.evaluation import SetMeans, class_probabilities, judge_classifier
from ..shared.losses import accuracy
from ..shared.nets import build_network
from ..shared.schedules import check_classifier_batch, log_training, per_step, total_steps, warmup_cosine
from .loss import classification_loss


class Classifier(LightningModule):
    """An ordinary image classifier: cross-entropy, SGD, warm-up and cosine annealing; the baseline of the other papers.

    Batch: ``(x, y)`` with images ``(B, C, H, W)`` in [-1, 1] and integer labels ``(B,)``. Logs ``loss``, the
    cross-entropy in nats, and ``acc``, the share of images classified right. A step of two processes with
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
        label_smoothing: Share of the target's mass spread over all classes, in [0, 1].

    Raises:
        ValueError: For a value out of its range, or a network that does not fit the images.
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
        check_at_least(0, lr=lr, momentum=momentum, weight_decay=weight_decay, warmup_steps=warmup_steps)
        check_share(label_smoothing=label_smoothing)
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
        check_classifier_batch(self, batch, batch_idx)
        logits = self(x)
        loss = classification_loss(logits, y, self.hparams["label_smoothing"])
        log_training(self, loss=loss, acc=lambda: accuracy(logits, y))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy on the validation set."""
        judge_classifier(self, "val", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the in-distribution set, which comes first."""
        return judge_classifier(self, "test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        return class_probabilities(self, batch)

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum; warm-up, then cosine annealing over the whole run, step by step."""
        h: Any = self.hparams
        optimizer = torch.optim.SGD(
            self.parameters(), h.lr, momentum=h.momentum, weight_decay=h.weight_decay, nesterov=h.momentum > 0
        )
        return per_step(optimizer, lambda step: warmup_cosine(step, h.warmup_steps, total_steps(self.trainer)))
