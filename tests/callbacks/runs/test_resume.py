"""A run that is interrupted in the middle of an epoch ends like the one that is not: every module, bit for bit."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_runs import CONFS, ONE_A_METHOD, QUIET, build, differences, prepared
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from callbacks import KeptLogs, MidEpochCheckpoint, Randomness, Report, ResumableCSVLogger
from zoo import Classifier

MIDDLE = Path("runs", "it", "version_0", "checkpoints", "last-mid-epoch.ckpt")
ROWS = Path("runs", "it", "version_0", "metrics.csv")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Write(Callback):
    """Writes the state at the end of a fit, from which everything follows that comes after it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        metrics = {name: value.clone() for name, value in trainer.callback_metrics.items()}
        trainer.save_checkpoint(self.path)
        if trainer.is_global_zero:
            torch.save(metrics, f"{self.path}.metrics")


def run(
    conf: dict[str, Any],
    end: str,
    ckpt_path: Path | None = None,
    saved: dict[str, Any] | None = None,
    every_n_batches: int = 5,
    **arguments: Any,
) -> Trainer:
    """Three epochs of three batches, with a checkpoint in the middle of the second."""
    model, data = build(conf)
    torch.rand(7 if ckpt_path else 1)  # whatever else a process draws before it trains
    few = {"max_epochs": 3, "limit_train_batches": 3, "limit_val_batches": 1, "log_every_n_steps": 1}
    own = {"logger": ResumableCSVLogger("runs", "it", 0), "enable_checkpointing": True}
    saved = {"filename": "last", "save_on_train_epoch_end": True} if saved is None else saved
    keep = [MidEpochCheckpoint(every_n_batches), ModelCheckpoint(**saved, enable_version_counter=False)]
    callbacks = [Randomness(), Report(), Write(end), KeptLogs(), *keep]
    trainer = Trainer(**QUIET | few | own | arguments, callbacks=callbacks)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def state(path: str) -> dict[str, Any]:
    """All that is in a checkpoint but the seconds that it took."""
    found = torch.load(path, weights_only=True)
    del found["callbacks"]["Report"]["seconds"]
    return found | {"metrics": torch.load(f"{path}.metrics", weights_only=True)}


def rows() -> list[dict[str, str]]:
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))


def check_that_the_interrupted_run_equals_the_whole_one(
    conf: dict[str, Any], checkpoint: Path = MIDDLE, **arguments: Any
) -> None:
    """Interrupted at the moment of the checkpoint, but with the logs of the whole run still in its folder."""
    run(conf, "whole.ckpt", **arguments)
    whole, logged = state("whole.ckpt"), ROWS.read_bytes()
    middle = torch.load(checkpoint, weights_only=True)
    assert middle["kept_logs"]["rows"][0] < len(rows())  # there is something to take back
    assert whole["state_dict"].keys() == middle["state_dict"].keys()
    assert differences(whole["state_dict"], middle["state_dict"])
    run(conf, "resumed.ckpt", checkpoint, **arguments)
    assert differences(whole, state("resumed.ckpt")) == []
    assert ROWS.read_bytes() == logged


@pytest.mark.parametrize("name", ONE_A_METHOD)
def test_a_run_interrupted_in_the_middle_of_an_epoch_ends_like_the_whole_one(name):
    check_that_the_interrupted_run_equals_the_whole_one(prepared(name))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "jem" else pytest.mark.long) for name in CONFS],
)
def test_two_processes_interrupted_in_the_middle_of_an_epoch_end_like_the_whole_run(name):
    conf = prepared(name)
    check_that_the_interrupted_run_equals_the_whole_one(
        conf, strategy=conf["contract"].get("strategy", "ddp_fork"), devices=2
    )


EPOCHS = {"filename": "{epoch}", "save_top_k": -1, "save_on_train_epoch_end": True}
VALIDATIONS = {"filename": "{step}", "save_top_k": -1, "save_on_train_epoch_end": False, "monitor": "val/loss"}


@pytest.mark.parametrize(
    ("saved", "name", "arguments"),
    [
        pytest.param(EPOCHS, "epoch=0.ckpt", {}, marks=pytest.mark.long),
        pytest.param(EPOCHS, "epoch=0.ckpt", {"max_epochs": -1, "max_steps": 8}, marks=pytest.mark.long),
        pytest.param(
            EPOCHS, "epoch=1.ckpt", {"max_epochs": -1, "max_steps": 8, "limit_val_batches": 0}, marks=pytest.mark.long
        ),
        (EPOCHS, "last-mid-epoch.ckpt", {"max_epochs": -1, "max_steps": 8}),
        pytest.param(VALIDATIONS, "step=3.ckpt", {}, marks=pytest.mark.long),
        (VALIDATIONS, "step=2.ckpt", {"limit_train_batches": 4, "val_check_interval": 2, "max_epochs": 2}),
        (EPOCHS, "last-mid-epoch.ckpt", {"limit_train_batches": 4, "accumulate_grad_batches": 2, "every_n_batches": 3}),
        (EPOCHS, "last-mid-epoch.ckpt", {"limit_train_batches": 6, "val_check_interval": 4, "every_n_batches": 10}),
        (EPOCHS, "last-mid-epoch.ckpt", {"check_val_every_n_epoch": 2, "log_every_n_steps": 2}),
    ],
    ids=[
        "the end of an epoch",
        "... of a number of steps",
        "... without validation",
        "the middle of one, of a number of steps",
        "a validation at the end of an epoch",
        "a validation in the middle of an epoch",
        "an accumulation of gradients, put off",
        "a batch before a validation, put off",
        "a logging step, after a validation some epochs ago",
    ],
)
def test_whatever_a_checkpoint_is_written_after(saved, name, arguments):
    conf = prepared("classifier")
    checkpoint = MIDDLE.with_name(name)
    check_that_the_interrupted_run_equals_the_whole_one(conf, checkpoint, saved=saved, **arguments)


def test_jem_goes_on_with_the_good_states_that_a_recovery_returns_to():
    conf = prepared("jem")
    conf["model"]["init_args"]["snapshot_every_n_steps"] = 4  # one before the checkpoint is still there at the end
    check_that_the_interrupted_run_equals_the_whole_one(conf)


def test_a_schedule_that_asks_for_the_number_of_steps(monkeypatch):
    def configure_optimizers(self: Classifier) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.01)
        steps = int(self.trainer.estimated_stepping_batches)  # draws an order before the place in it is known
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    monkeypatch.setattr(Classifier, "configure_optimizers", configure_optimizers)
    check_that_the_interrupted_run_equals_the_whole_one(prepared("classifier"))
