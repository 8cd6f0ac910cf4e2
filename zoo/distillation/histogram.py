"""Distillation of a regressor into a histogram regressor."""

from contextvars import Context
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributions import Distribution

from ..shared.arguments import check_names, check_positive, check_share
from ..shared.batches import batch_inputs
from ..shared.evaluation import SetMeans, judge_regressor
from ..shared.schedules import check_regressor_batch, log_training
from ..shared.teacher import Teacher, find_class
from .loss import hard_loss, mix, rebin, soft_target_loss


class HistogramDistillation(LightningModule):
    """A histogram regressor that learns from a trained regressor and from the labels.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. The teacher needs features that
    are standardised as they were for its own training, so train both on the same data module, seed included.

    The soft term compares the student's histogram with what the teacher offers:

    * ``predictive(x)`` with ``edges`` and ``probs``, a histogram: its masses, brought to the student's bins where it
      has others, both sides softened by the temperature, as for classes.
    * else ``forward(x)``, a point: the student's own target around that point (for a Gaussian target, a Gaussian), at
      temperature 1.

    For a histogram of Gaussian shape a temperature T keeps the mean and widens sigma by the root of T.

    The teacher is read when a fit starts and is neither trained nor saved with the student. Logs ``loss``; in training
    also its two terms, ``hard``, the histogram loss on the labels, and ``soft``, T² KL. ``val/loss`` and ``test/loss``
    are the histogram loss on the labels; ``mae`` and ``rmse`` are in original units. A step of two processes with
    batches of n equals one of a single process with 2 n.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        teacher: Checkpoint of the trained teacher, relative to the working directory; may be None for ``alpha=0``.
        teacher_class: Import path of its class, such as ``zoo.HistogramRegression``; only for a checkpoint that was
            saved from Python: those of the command line name their class.
        temperature: T, for a teacher that predicts histograms, above 0.
        alpha: Weight of the soft term, in [0, 1]; that of the label's own target is ``1 - alpha``.
        student: Import path of the student's class: its ``predictive(x)`` has ``edges`` and ``logits``, and its
            ``target(y)`` gives the masses of a label. Its hooks for the start and the end of a fit, and its
            ``configure_optimizers``, are called.
        student_args: Further arguments of that class, for example ``{hidden: [16, 16], bins: 50, lr: 1.0e-3}``.

    Raises:
        ValueError: For a value out of its range, or a class that does not fit.
    """

    def __init__(
        self,
        num_features: int = 10,
        teacher: str | None = None,
        teacher_class: str | None = None,
        temperature: float = 1.0,
        alpha: float = 0.5,
        student: str = "zoo.HistogramRegression",
        student_args: dict[str, Any] | None = None,
    ) -> None:
        check_positive(temperature=temperature)
        check_share(alpha=alpha)
        super().__init__()
        self.save_hyperparameters()
        self.student: Any = self.build_student()
        self.teacher = Teacher()
        self._gives_histograms = False
        self.means = SetMeans()

    def build_student(self) -> LightningModule:
        """The student; override it for one that plain arguments do not describe."""
        h: Any = self.hparams
        kind, arguments = find_class("student", h.student), h.student_args or {}
        missing = [name for name in ("predictive", "target") if not hasattr(kind, name)]
        if missing:
            raise ValueError(f"student is {h.student!r}, which has no {' and no '.join(missing)}")
        taken = signature(kind).parameters.values()
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in taken):
            known = [parameter.name for parameter in taken if parameter.name != "num_features"]
            check_names("student_args", arguments, h.student, known)
        # In a context of its own: from the command line's, the student would save these arguments as its own.
        return Context().run(kind, num_features=h.num_features, **arguments)

    def forward(self, x: Tensor) -> Tensor:
        """The student's point predictions ``(B,)`` in original units, of features ``(B, D)``."""
        return self.student(x)

    def features(self, x: Tensor) -> Tensor:
        """The student's last hidden layer, of features ``(B, D)``."""
        return self.student.features(x)

    def predictive(self, x: Tensor) -> Distribution:
        """The student's histograms over the original units, of features ``(B, D)``."""
        return self.student.predictive(x)

    def on_fit_start(self) -> None:
        """Let the student find its support, and read the teacher; see `Teacher.read` for what it raises."""
        self.student.on_fit_start()
        h: Any = self.hparams
        if h.alpha > 0:
            self.teacher.read(self, "HistogramRegression", (h.num_features,), (), "num_features")
            bins = histogram(self.teacher.module, next(self.parameters()).new_zeros(2, h.num_features))
            self._gives_histograms = bins is not None
            kind = "points" if bins is None else f"histograms of {len(bins.edges) - 1} bins"
            rank_zero_info(f"teacher={h.teacher} ({type(self.teacher.module).__name__}) predicts {kind}.")

    def on_fit_end(self) -> None:
        """Drop the teacher."""
        self.student.on_fit_end()
        self.teacher.drop()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of distillation; without a weight for the teacher, of the histogram loss."""
        x, y = batch
        check_regressor_batch(self, batch, batch_idx)
        mine = self.student.predictive(x)
        loss = hard = hard_loss(mine.logits, self.student.target(y))
        if self.hparams["alpha"] > 0:
            soft = self._soft_term(x, mine)
            loss = mix(hard, soft, self.hparams["alpha"])
            log_training(self, soft=soft)
        log_training(self, loss=loss, hard=hard)
        return loss

    def _soft_term(self, x: Tensor, mine: Any) -> Tensor:
        """T² KL between the teacher's masses and the student's, in the student's bins."""
        with torch.no_grad():
            if not self._gives_histograms:
                wanted, temperature = self.student.target(self.teacher(x)).log(), 1.0
            else:
                theirs, temperature = self.teacher.module.predictive(x), self.hparams["temperature"]
                if not same_bins(theirs.edges, mine.edges):
                    wanted = rebin(theirs.probs, theirs.edges, mine.edges).log()
                else:  # logits keep what is too small for a probability
                    wanted = theirs.logits if hasattr(theirs, "logits") else theirs.probs.log()
        return soft_target_loss(mine.logits, wanted, temperature)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and errors on the validation set."""
        judge_regressor(self, "val", batch, batch_idx, self._evaluate)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Point predictions for the callbacks; loss and errors on the data's own test set, which comes first."""
        return judge_regressor(self, "test", batch, batch_idx, self._evaluate, dataloader_idx)

    def _evaluate(self, x: Tensor, y: Tensor, counted: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """Point predictions of all rows, and the histogram loss of those that count."""
        loss = hard_loss(self.student.predictive(x[counted]).logits, self.student.target(y[counted]))
        return self(x), {"loss": loss}

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Point predictions ``(B,)`` in original units."""
        return self(batch_inputs(batch))

    def configure_optimizers(self) -> Any:
        """The student's own."""
        return self.student.configure_optimizers()


def histogram(teacher: Any, x: Tensor) -> Any:
    """A module's predictive distribution if it is a histogram over bins that all rows share, else None."""
    if not hasattr(teacher, "predictive"):
        return None
    try:
        predictive = teacher.predictive(x)
    except ValueError:  # such as a point regressor without residuals, whose points are fine
        return None
    edges = getattr(predictive, "edges", None)
    return predictive if hasattr(predictive, "probs") and isinstance(edges, Tensor) and edges.dim() == 1 else None


def same_bins(edges: Tensor, others: Tensor) -> bool:
    """Whether two supports have the same bins up to rounding, a millionth of the range."""
    return edges.shape == others.shape and bool((edges - others).abs().max() <= 1e-6 * (edges[-1] - edges[0]))
