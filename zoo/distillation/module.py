"""Distillation of a classifier into a smaller one."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.arguments import check_positive, check_share
from ..shared.evaluation import SetMeans, class_probabilities, judge_classifier
from ..shared.losses import accuracy
from ..shared.nets import build_network
from ..shared.schedules import check_classifier_batch, log_training
from ..shared.teacher import Teacher
from .loss import hard_loss, mix, soft_target_loss


class KnowledgeDistillation(LightningModule):
    """A student that learns from a trained teacher's softened probabilities and from the labels (Hinton et al. 2015).

    Batch: ``(x, y)`` with images ``(B, C, H, W)`` in [-1, 1] and integer labels ``(B,)``.

    The teacher is any module whose ``forward`` gives logits ``(B, K)``, of the zoo or your own. It is read when a fit
    starts, sees the student's batch in evaluation mode, and is never changed. It is part of neither the student's
    parameters nor its checkpoints: a trained student works without it, and only a resumed fit needs it again.

    Logs ``loss`` and ``acc``; in training also ``soft``, the soft term with its T², and ``agreement``, the share of
    images to which both give the same class. ``val/loss`` and ``test/loss`` are cross-entropies with the labels at T =
    1, as any classifier's. A step of two processes with batches of n equals one of a single process with 2 n, unless
    the student has batch normalisation.

    Args:
        num_classes: Number of classes K, at least 2; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.
        teacher: Checkpoint of the trained teacher, relative to the working directory; may be None for ``alpha=0``.
        teacher_class: Import path of its class, such as ``zoo.Classifier``; only for a checkpoint that was saved from
            Python: those of the command line name their class.
        temperature: T, by which both sides' logits are divided, above 0. The default is usual today; the paper has
            others.
        alpha: Weight of the soft term, in [0, 1]; that of the labels is ``1 - alpha``. With 0 no teacher is read; with
            1 the labels are ignored.
        network: Name of a class of ``zoo.shared.nets``: the student.
        network_args: Further arguments of that class, for example ``{width: 4}``.
        lr: Adam's learning rate.

    Raises:
        ValueError: For a value out of its range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        teacher: str | None = None,
        teacher_class: str | None = None,
        temperature: float = 4.0,
        alpha: float = 0.9,
        network: str = "SmallConvNet",
        network_args: dict[str, Any] | None = None,
        lr: float = 1e-3,
    ) -> None:
        check_positive(temperature=temperature)
        check_share(alpha=alpha)
        super().__init__()
        self.save_hyperparameters()
        self.image_shape = image_shape
        self.network: Any = self.build_network()
        self.means = SetMeans()
        self.teacher = Teacher()

    def build_network(self) -> nn.Module:
        """The student, with ``forward`` and ``features``; override it to train one of your own."""
        h: Any = self.hparams
        return build_network(h.network, self.image_shape, h.num_classes, **(h.network_args or {}))

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits ``(B, K)`` of images ``(B, C, H, W)``."""
        return self.network(x)

    def features(self, x: Tensor) -> Tensor:
        """The student's penultimate features ``(B, D)`` of images ``(B, C, H, W)``."""
        return self.network.features(x)

    def on_fit_start(self) -> None:
        """Read the teacher; see `Teacher.read` for what it raises."""
        if self.hparams["alpha"] > 0:
            classes = self.hparams["num_classes"]
            self.teacher.read(self, "Classifier", self.image_shape, (classes,), "num_classes", "image_shape")

    def on_fit_end(self) -> None:
        """Drop the teacher."""
        self.teacher.drop()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of distillation; without a weight for the teacher, of cross-entropy."""
        x, y = batch
        h: Any = self.hparams
        check_classifier_batch(self, batch, batch_idx)
        logits = self(x)
        loss = hard = hard_loss(logits, y)
        if h.alpha > 0:
            theirs = self.teacher(x)
            soft = soft_target_loss(logits, theirs, h.temperature)
            loss = mix(hard, soft, h.alpha)
            log_training(self, soft=soft, agreement=lambda: accuracy(logits, theirs.argmax(1)))
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

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the student."""
        return torch.optim.Adam(self.parameters(), self.hparams["lr"])
