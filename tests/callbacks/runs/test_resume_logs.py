"""What a resumed run knows of the epochs before: metrics that nothing logs again, and rows that were due."""

import csv
from pathlib import Path
from typing import Any

import torch
from contract_runs import QUIET
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from callbacks import KeptLogs, Randomness, ResumableCSVLogger


class Averages(LightningModule):
    """One weight; logs averages of an epoch, for the progress bar, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.layer(batch[0]).square().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def run(folder: Path, ckpt_path: Path | None = None) -> tuple[list[dict[str, float]], str]:
    """Three epochs with a validation after the second: all metrics at the end, and the table."""
    seed_everything(0, verbose=False)
    loader = DataLoader(TensorDataset(torch.ones(6, 1)), batch_size=2)
    keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    own: dict[str, Any] = {"logger": ResumableCSVLogger(folder, "", 0), "enable_checkpointing": True}
    few: dict[str, Any] = {"max_epochs": 3, "check_val_every_n_epoch": 2, "log_every_n_steps": 2}
    trainer = Trainer(**QUIET | own | few, callbacks=[Randomness(), KeptLogs(), keep])
    trainer.fit(Averages(), loader, loader, ckpt_path=ckpt_path, weights_only=True)
    kept = (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics)
    metrics = [{name: float(value) for name, value in each.items()} for each in kept]
    return metrics, (folder / "version_0" / "metrics.csv").read_text()


def test_a_run_that_goes_on_after_its_last_validation_ends_with_all_metrics_and_rows(tmp_path):
    metrics, table = run(tmp_path / "whole")
    assert all("val/loss" in each for each in metrics)  # which the third epoch does not log
    logged = [row["epoch"] for row in csv.DictReader(table.splitlines()) if row["train/loss_epoch"]]
    assert logged == ["0", "1", "2"]  # each after the checkpoint of its epoch was written
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "version_0").rename(tmp_path / "resumed" / "version_0")
    assert run(tmp_path / "resumed", tmp_path / "whole" / "epoch=1.ckpt") == (metrics, table)
