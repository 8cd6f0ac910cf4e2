"""A classifier that learns from another one."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.batches import check_labelled_batch
from ..shared.evaluation import SetMeans, class_probabilities, judge_classifier
from ..shared.nets import build_network
from ..shared.schedules import check_is_due, log_training
from .loss import check_alpha, check_temperature, distillation_loss, hard_loss, soft_target_loss
from .teacher import check_same, load_teacher


class KnowledgeDistillation(LightningModule):
    """A student that learns from a trained teacher's softened probabilities and from the labels (Hinton et al. 2015).

    Batch: ``(x, y)`` with images ``(B, C, H, W)`` in [-1, 1] and integer labels ``(B,)``.

    The teacher is any module whose ``forward`` gives logits ``(B, K)``: of the zoo, or of yours. It is read when a fit
    starts, sees the batch that the student sees, in evaluation mode, and is never changed. It is neither in the
    student's parameters nor in its checkpoints: a trained student works without it, only a fit that goes on needs it.

    Logs ``train/soft``, the soft term with its T², and ``train/agreement``, the share of images on which both choose
    the same class. ``val/loss`` and ``test/loss`` are cross-entropies with the labels at T = 1, as any classifier's. A
    step of two processes with batches of n equals one of a single process with 2 n, unless the student has batch
    normalisation.

    Args:
        num_classes: Number of classes K, at least 2; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.
        teacher: Checkpoint of the trained teacher, from the working directory on; may be None for ``alpha=0``.
        teacher_class: Import path of its class, such as ``zoo.Classifier``; only for a checkpoint that was saved from
            Python, since the command line's names it.
        temperature: T, by which both sides' logits are divided, above 0. The default is today's habit,
            not the paper's.
        alpha: Weight of the soft term, in [0, 1]; the labels' is ``1 - alpha``. 0 is the student without a teacher,
            which is not even read. 1 ignores the labels.
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
        check_temperature(temperature)
        check_alpha(alpha)
        super().__init__()
        self.save_hyperparameters()
        self.image_shape = image_shape
        self.network: Any = self.build_network()
        self.means = SetMeans()
        self._teacher: tuple[LightningModule, ...] = ()  # in a tuple: a child would be trained, moved and saved

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

    def setup(self, stage: str) -> None:
        """Read the teacher when a fit starts, and try it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: There is no teacher, or it is damaged, or made for other images or classes.
        """
        h: Any = self.hparams
        if stage != "fit" or h.alpha == 0:
            return
        teacher = load_teacher(h.teacher, h.teacher_class, "Classifier")
        check_same(teacher, h.teacher, num_classes=h.num_classes, image_shape=self.image_shape)
        what = f"teacher={h.teacher} ({type(teacher).__name__})"
        try:
            with torch.no_grad():
                logits = teacher(torch.zeros(2, *self.image_shape))
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"{what} does not take images of shape {tuple(self.image_shape)}: {first}") from error
        if not isinstance(logits, Tensor) or logits.shape != (2, h.num_classes):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"{what} gives {found} for two images; expected logits (2, {h.num_classes})")
        self._teacher = (teacher,)

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device and precision."""
        for teacher in self._teacher:
            teacher.to(device=self.device, dtype=self.dtype)

    def on_fit_end(self) -> None:
        """Let go of the teacher."""
        self._teacher = ()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of distillation; without a teacher, of cross-entropy."""
        x, y = batch
        h: Any = self.hparams
        if check_is_due(self, batch_idx, x):
            check_labelled_batch(x, y, self.image_shape, h.num_classes)
        logits = self(x)
        more: dict[str, Any] = {"acc": lambda: (logits.argmax(1) == y).float().mean()}
        if self._teacher:
            with torch.no_grad():
                theirs = self._teacher[0](x)
            loss = distillation_loss(logits, theirs, y, h.temperature, h.alpha)
            more["soft"] = lambda: soft_target_loss(logits, theirs, h.temperature)
            more["agreement"] = lambda: (logits.argmax(1) == theirs.argmax(1)).float().mean()
        else:
            loss = hard_loss(logits, y)
        log_training(self, loss=loss, **more)
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
