"""A histogram regressor that learns from another regressor."""

from contextvars import Context
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributions import Distribution

from ..shared.batches import check_regression_batch
from ..shared.evaluation import SetMeans, log_errors, positions
from ..shared.schedules import logs_now
from .loss import check_alpha, check_temperature, hard_loss, mix, rebin, soft_target_loss
from .teacher import check_same, find_class, load_teacher


class HistogramDistillation(LightningModule):
    """A histogram regressor that learns from a trained regressor and from the labels.

    Batch: ``(x, y)`` with features ``(B, D)`` and labels ``(B,)`` in original units. The teacher sees the features as
    they come: they must be standardised as they were for it, so train both on the same data module, seed included.

    What the soft term compares the student's histogram with depends on what the teacher offers:

    * ``predictive(x)`` with ``edges`` and ``probs``, a histogram: its masses, in the student's bins, both sides
      softened by the temperature, as for classes. Other bins than the student's are translated by the cdf.
    * else ``forward(x)``, a point: the student's own target around that point (for a Gaussian target, a Gaussian), at
      temperature 1.

    For a histogram of Gaussian shape a temperature T keeps the mean and widens sigma by the root of T.

    The teacher is read when a fit starts and is neither trained nor saved with the student. Logs the histogram loss on
    the labels (``hard``; ``val/loss`` and ``test/loss`` too) and T² KL (``soft``). A step of two processes with batches
    of n equals one of a single process with 2 n.

    Args:
        num_features: Number of input features D; the command line takes it from the data.
        teacher: Checkpoint of the trained teacher, from the working directory on; may be None for ``alpha=0``.
        teacher_class: Import path of its class, such as ``zoo.HistogramRegression``; only for a checkpoint that was
            saved from Python, since the command line's names it.
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
        check_temperature(temperature)
        check_alpha(alpha)
        super().__init__()
        self.save_hyperparameters()
        self.student: Any = self.build_student()
        self._teacher: tuple[Any, ...] = ()  # in a tuple: a child would be trained, moved and saved
        self._gives_histograms = False
        self.means = SetMeans()

    def build_student(self) -> LightningModule:
        """The student; override it for one that plain arguments do not describe."""
        h: Any = self.hparams
        kind, arguments = find_class("student", h.student), h.student_args or {}
        missing = [name for name in ("predictive", "target") if not hasattr(kind, name)]
        if missing:
            raise ValueError(f"student is {h.student!r}, which has no {' and no '.join(missing)}")
        taken = signature(kind).parameters
        known = [name for name, found in taken.items() if name != "num_features" and found.kind != found.VAR_KEYWORD]
        unknown = sorted(arguments.keys() - set(known))
        if unknown and not any(found.kind == found.VAR_KEYWORD for found in taken.values()):
            raise ValueError(f"student_args has {unknown}, which {h.student} does not take; it takes {known}")
        # In a context of its own: the command line's holds these arguments, and the student would save them as its own.
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

    def setup(self, stage: str) -> None:
        """Read the teacher when a fit starts, and try it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: There is no teacher, or it is damaged, or made for other features.
        """
        h: Any = self.hparams
        if stage != "fit" or h.alpha == 0:
            return
        teacher = load_teacher(h.teacher, h.teacher_class, "HistogramRegression")
        check_same(teacher, h.teacher, num_features=h.num_features)
        what = f"teacher={h.teacher} ({type(teacher).__name__})"
        x = torch.zeros(2, h.num_features)
        try:
            with torch.no_grad():
                point, found = teacher(x), histogram(teacher, x)
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"{what} does not take {h.num_features} features: {first}") from error
        if not isinstance(point, Tensor) or point.shape != (2,):
            got = tuple(point.shape) if isinstance(point, Tensor) else type(point).__name__
            raise ValueError(f"{what} gives {got} for two rows; expected point predictions (2,)")
        self._teacher, self._gives_histograms = (teacher,), found is not None
        rank_zero_info(
            f"{what} predicts {f'histograms of {len(found.edges) - 1} bins' if found is not None else 'points'}."
        )

    def on_fit_start(self) -> None:
        """Let the student learn its support; bring the teacher to its device and precision."""
        self.student.on_fit_start()
        for teacher in self._teacher:
            teacher.to(device=self.device, dtype=self.dtype)

    def on_fit_end(self) -> None:
        """Let go of the teacher."""
        self.student.on_fit_end()
        self._teacher = ()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One step of distillation; without a teacher, of the histogram loss."""
        x, y = batch
        log_now = logs_now(self.trainer)
        if log_now or batch_idx == 0 or not x.is_cuda:  # on a GPU the check would stall the queue in each step
            check_regression_batch(x, y, self.hparams["num_features"])
        mine = self.student.predictive(x)
        hard = hard_loss(mine.logits, self.student.target(y))
        figures, loss = {"hard": hard}, hard
        if self._teacher:
            figures["soft"] = self._soft_term(x, mine)
            loss = mix(hard, figures["soft"], self.hparams["alpha"])
        if log_now:
            figures["loss"] = loss
            self.log_dict({f"train/{name}": value.detach() for name, value in figures.items()})
        return loss

    def _soft_term(self, x: Tensor, mine: Any) -> Tensor:
        """T² KL between the teacher's masses and the student's, in the student's bins."""
        (teacher,) = self._teacher
        with torch.no_grad():
            if not self._gives_histograms:
                wanted, temperature = self.student.target(teacher(x)).log(), 1.0
            else:
                theirs, temperature = teacher.predictive(x), self.hparams["temperature"]
                if not same_bins(theirs.edges, mine.edges):
                    wanted = rebin(theirs.probs, theirs.edges, mine.edges).log()
                else:  # logits keep what is too small for a probability
                    wanted = theirs.logits if hasattr(theirs, "logits") else theirs.probs.log()
        return soft_target_loss(mine.logits, wanted, temperature)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and errors on the validation set."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Point predictions for the callbacks; loss and errors on the data's own test set, which comes first."""
        return {"prediction": self._evaluate(batch, batch_idx, "test") if dataloader_idx == 0 else self(batch[0])}

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> Tensor:
        x, y = batch
        check_regression_batch(x, y, self.hparams["num_features"])
        count = len(positions(self.trainer, batch_idx, len(y)))
        loss = hard_loss(self.student.predictive(x).logits[: count or None], self.student.target(y[: count or None]))
        prediction = self(x)
        self.means.log(self, stage, {"loss": loss}, count)
        log_errors(self.means, self, stage, (prediction - y)[: count or None], count)
        return prediction

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Point predictions ``(B,)`` in original units."""
        return self(batch if isinstance(batch, Tensor) else batch[0])

    def configure_optimizers(self) -> Any:
        """The student's own."""
        return self.student.configure_optimizers()


def histogram(teacher: Any, x: Tensor) -> Any:
    """A module's predictive distribution, if it is a histogram over bins that all rows share."""
    if not hasattr(teacher, "predictive"):
        return None
    try:
        found = teacher.predictive(x)
    except ValueError:  # such as a point regressor that never saw a validation set, whose points are fine
        return None
    edges = getattr(found, "edges", None)
    return found if hasattr(found, "probs") and isinstance(edges, Tensor) and edges.dim() == 1 else None


def same_bins(edges: Tensor, others: Tensor) -> bool:
    """Whether two supports have the same bins, but for rounding: a millionth of the range."""
    return edges.shape == others.shape and bool((edges - others).abs().max() <= 1e-6 * (edges[-1] - edges[0]))
