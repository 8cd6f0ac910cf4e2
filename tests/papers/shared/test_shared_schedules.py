"""When a training step checks and logs, for any number of optimisers; what the learning rates follow."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from zoo.shared.schedules import check_is_due, log_training, logs_now, per_step, total_steps, warmup_cosine

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


def batches(count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(count, 1)), batch_size=1)


class Toy(LightningModule):
    """One step of each of some optimisers for each batch."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(1, 1) for _ in range(optimizers))
        self.automatic_optimization = optimizers == 1
        self.computed: list[int] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        losses = torch.stack([part(batch[0]).square().mean() for part in self.parts])

        def expensive() -> float:
            self.computed.append(self.trainer.fit_loop.total_batch_idx)
            return 0.0

        log_training(self, batch=float(self.trainer.fit_loop.total_batch_idx), loss=losses.sum(), expensive=expensive)
        if not self.automatic_optimization:
            self.manual_backward(losses.sum())
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
        return losses.sum()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in self.parts]


def logged(folder: Path, module: Toy, **arguments: Any) -> list[int]:
    logger = CSVLogger(folder, name="", version="")
    trainer = Trainer(**QUIET, logger=logger, **{"max_epochs": 2, "log_every_n_steps": 10} | arguments)
    trainer.fit(module, batches(50))
    with Path(logger.log_dir, "metrics.csv").open(encoding="utf-8") as file:
        return [int(float(row["train/batch"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("optimizers", [1, 2, 3])
def test_every_nth_batch_has_a_row_whatever_the_number_of_optimisers(optimizers, tmp_path):
    module = Toy(optimizers)
    assert logged(tmp_path, module) == list(range(9, 100, 10))
    assert module.computed == list(range(9, 100, 10))  # nothing is computed for the other steps


def test_accumulated_gradients_have_a_row_for_every_nth_step_and_none_is_logged_where_nothing_is_wanted(tmp_path):
    assert logged(tmp_path / "accumulated", Toy(), accumulate_grad_batches=2, log_every_n_steps=5) == [
        *range(9, 100, 10)
    ]
    trainer = Trainer(**QUIET, logger=False, max_steps=3, log_every_n_steps=0)
    module = Toy()
    trainer.fit(module, batches(5))
    assert module.computed == []
    assert not logs_now(trainer)


def test_the_progress_bar_shows_the_loss_and_no_other_metric_of_a_training_step():
    trainer = Trainer(**QUIET, logger=False, max_steps=2, log_every_n_steps=1)
    trainer.fit(Toy(), batches(5))
    assert list(trainer.progress_bar_metrics) == ["train/loss"]


class OnDevice:
    """Stands for a tensor."""

    def __init__(self, is_cuda: bool) -> None:
        self.is_cuda = is_cuda


def test_a_batch_is_checked_always_on_a_cpu_and_on_a_gpu_where_it_is_the_first_or_logged():
    due: dict[bool, list[int]] = {True: [], False: []}

    class Checking(Toy):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            for is_cuda, found in due.items():
                x: Any = OnDevice(is_cuda)
                if check_is_due(self, batch_idx, x):
                    found.append(self.trainer.global_step)
            return super().training_step(batch, batch_idx)

    Trainer(**QUIET, logger=False, max_epochs=2, log_every_n_steps=4).fit(Checking(), batches(5))
    assert due == {False: list(range(10)), True: [0, 3, 5, 7]}


class Annealed(Toy):
    """A linear decay to 0, whose totals and rates are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.totals: list[float] = []
        self.rates: list[float] = []

    def factor(self, step: int) -> float:
        self.totals.append(total_steps(self.trainer))
        return 1 - step / self.totals[-1]

    def on_train_batch_end(self, *_: Any) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self) -> Any:
        return per_step(torch.optim.SGD(self.parameters(), 0.1), self.factor)


def test_a_learning_rate_follows_each_step_and_the_total_is_unknown_before_the_first_only():
    module = Annealed()
    Trainer(**QUIET, logger=False, max_epochs=2).fit(module, batches(4))
    assert module.totals == [math.inf, *[8.0] * 8]
    assert module.rates == pytest.approx([0.1 * (1 - step / 8) for step in range(1, 9)])


class Endless(IterableDataset[tuple[Tensor]]):
    def __iter__(self) -> Any:
        while True:
            yield (torch.ones(1),)


def test_a_training_without_an_end_is_refused():
    trainer = Trainer(**QUIET, logger=False, max_epochs=-1)
    with pytest.raises(ValueError, match=r"max_epochs is -1 without max_steps; .*set max_steps"):
        trainer.fit(Annealed(), batches(4))
    trainer = Trainer(**QUIET, logger=False, max_epochs=1)
    with pytest.raises(ValueError, match=r"the training has \S+ steps; .*set max_steps"):
        trainer.fit(Annealed(), DataLoader(Endless(), batch_size=2))


def test_warmup_cosine_rises_falls_and_ends_at_zero():
    factors = [warmup_cosine(step, 10, 110) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == pytest.approx(0.0, abs=1e-12)
    assert warmup_cosine(0, 0, math.inf) == 1.0
