"""A logger that fails, or finds the disk full, ends no training."""

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from child_runs import FIT, Child, OneWeight, trainer_with
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

import train
from callbacks.shared.logger_errors import guarded, survive_logger_errors
from callbacks.shared.loggers import log_images


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Broken(Logger):
    """Raises in one of its methods, always."""

    name, version = "broken", 0

    def __init__(self, where: str = "log_metrics") -> None:
        super().__init__()
        self.where, self.calls = where, 0

    def _call(self, where: str) -> None:
        if where == self.where:
            self.calls += 1
            raise RuntimeError("the server is on fire\nand so on")

    @property
    def experiment(self) -> Any:
        return self._call("experiment")

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self._call("log_metrics")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._call("log_hyperparams")

    def log_image(self, *args: Any, **kwargs: Any) -> None:
        self._call("log_image")

    def save(self) -> None:
        self._call("save")

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._call("after_save_checkpoint")

    def finalize(self, status: str) -> None:
        self._call("finalize")


@pytest.mark.parametrize(
    "where",
    ["experiment", "log_metrics", "log_hyperparams", "log_image", "save", "after_save_checkpoint", "finalize"],
)
def test_a_logger_that_raises_is_named_once_and_training_goes_on(folder, where):
    class Shows(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            log_images(trainer, "white", torch.ones(1, 1, 4, 4))

    loggers = [Broken(where), CSVLogger(folder, "", "")]
    trainer = trainer_with(loggers, callbacks=[Shows(), ModelCheckpoint(folder, "last")])
    survive_logger_errors(trainer)
    model = OneWeight()
    model.save_hyperparameters({"width": 1})
    with pytest.warns(UserWarning, match="Broken") as caught:
        trainer.fit(model)
    told = [str(each.message) for each in caught if "Broken" in str(each.message)]
    assert told == ["Broken failed and logs nothing more, training goes on: RuntimeError: the server is on fire"]
    assert loggers[0].calls == 1
    assert trainer.global_step == 16
    assert len((folder / "metrics.csv").read_text().splitlines()) == 17
    assert (folder / "images" / "white.png").exists()
    assert (folder / "last.ckpt").exists()


def test_loggers_of_the_command_line_may_fail(folder):
    with pytest.warns(UserWarning, match="Broken failed"):
        built = train.main([*FIT, "--trainer.callbacks=null", "--trainer.logger=test_logger_faults.Broken"])
    assert built.trainer.global_step == 9
    assert isinstance(built.trainer.logger, Broken)


def test_a_log_that_finds_the_disk_full_ends_no_training(folder):
    (folder / "metrics.csv").symlink_to("/dev/full")
    trainer = trainer_with(CSVLogger(folder, "", ""), enable_checkpointing=False)
    survive_logger_errors(trainer)
    with pytest.warns(UserWarning, match="CSVLogger failed.*No space left on device"):
        trainer.fit(OneWeight())
    assert trainer.global_step == 16


def test_a_logger_that_survives_its_errors_is_copied_and_sent_like_any_other(folder):
    logger = CSVLogger(folder, "name", 3)
    logger.__class__ = guarded(CSVLogger)
    for other in (copy.deepcopy(logger), pickle.loads(pickle.dumps(logger))):
        assert type(other) is guarded(CSVLogger)
        assert isinstance(other, CSVLogger)
        assert other.log_dir == logger.log_dir


def log_to_wandb(folder: Path) -> None:
    trainer = trainer_with(WandbLogger("line", str(folder), project="p"), enable_checkpointing=False)
    survive_logger_errors(trainer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(OneWeight())
    print(*(each.message for each in caught), sep="\n")
    assert trainer.global_step == 16
    trainer.logger.experiment.finish()


def test_weights_and_biases_without_a_network_goes_on_offline(folder):
    nobody = "http://127.0.0.1:9"
    network = {"WANDB_BASE_URL": nobody, "HTTPS_PROXY": nobody, "HTTP_PROXY": nobody}
    begin = {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2", "WANDB_HTTP_TIMEOUT": "1"}
    status, text = Child(log_to_wandb, folder, **network, **begin).end()
    assert status == 0, text
    assert text.count("WandbLogger cannot reach its server, so it goes on offline") == 1
    (run,) = folder.glob("wandb/offline-run-*/*.wandb")
    assert b"train/loss" in run.read_bytes()
