"""Ctrl-C, SIGTERM and SLURM's signals: training ends with its last state on disk, and says where it is."""

import csv
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from child_runs import (
    CHECKPOINTS,
    FIT,
    LAST,
    MID_EPOCH,
    RANDOMNESS,
    RUN,
    Child,
    OneWeight,
    command,
    trainer_with,
    wait_for,
)
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import TensorDataset

import train
from callbacks.runs.clean_stop import CleanStop, requeued_from
from datamodules.shared.resumable import ResumableLoader


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped_by(signals: list[int], after: int, *arguments: str, **environment: str) -> tuple[int, str]:
    """Send signals to the group of a run that has done so many batches."""
    child = Child(command, *FIT, *arguments, **environment)
    wait_for(Path("there"), child.pid)
    for number in signals:
        os.killpg(child.pid, number)
        time.sleep(0.7)
    Path("go").touch()
    return child.end()


def pausing(after: int) -> list[str]:
    return [RANDOMNESS, *CHECKPOINTS, "--trainer.callbacks+=child_runs.Pauses", f"--trainer.callbacks.after={after}"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_the_run_after_its_step_with_a_checkpoint_and_says_where(folder, number):
    status, text = stopped_by([number], 3, *pausing(3))
    path = MID_EPOCH
    assert status == 128 + number
    assert f"the last good state is {path}: the same command with --ckpt_path {path} goes on from there" in text
    assert "Traceback" not in text
    saved = torch.load(path, weights_only=True)
    assert (saved["global_step"], saved["epoch"]) == (4, 1)  # the step that was under way is done
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 3


def test_sigterm_ends_a_test_at_once_and_not_as_if_it_were_done(folder):
    quiet = [*FIT[3:4], *FIT[-2:], "--trainer.logger=false", "--trainer.callbacks=child_runs.PausesInTest"]
    child = Child(command, "test", "--model=Classifier", *quiet)
    wait_for(Path("there"), child.pid)
    os.kill(child.pid, signal.SIGTERM)
    time.sleep(0.7)
    Path("go").touch()
    status, text = child.end()
    assert status == 128 + signal.SIGTERM
    assert "SIGTERM: ends now" in text
    assert "test/acc" not in text


def test_a_second_ctrl_c_ends_the_run_at_once_and_leaves_the_good_checkpoint(folder):
    status, text = stopped_by([signal.SIGINT, signal.SIGINT], 4, *pausing(4))
    assert status == 1
    assert "Ctrl-C: ends after this step" in text
    assert f"the last good state is {LAST}:" in text
    assert "Traceback" not in text
    assert [*(folder / LAST).parent.iterdir()] == [folder / LAST]
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 3


def test_ctrl_c_before_the_training_is_one_line(monkeypatch, capsys):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "spell_out", interrupted)
    with pytest.raises(SystemExit) as end:
        train.main(FIT)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted before anything was trained\n"


def test_an_epoch_of_one_batch_ends_with_the_checkpoint_of_its_epoch(folder):
    class Interrupts(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.current_epoch == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    callbacks = [CleanStop(), ModelCheckpoint(folder, "last"), Interrupts()]
    trainer = trainer_with(False, max_epochs=9, limit_train_batches=1, callbacks=callbacks)
    with pytest.raises(SystemExit) as end:
        trainer.fit(OneWeight())
    assert end.value.code == 128 + signal.SIGTERM
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == trainer.global_step == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Fails(Callback):
    """In the first epoch."""

    def on_train_batch_end(self, *_: Any) -> None:
        raise RuntimeError("a mistake")


def test_no_earlier_runs_checkpoint_is_named_as_the_last_good_state(folder, capfd):
    torch.save({}, folder / "earlier.ckpt")
    callbacks = [CleanStop(), ModelCheckpoint(folder, "last"), Fails()]
    with pytest.raises(RuntimeError, match="a mistake"):
        trainer_with(False, callbacks=callbacks).fit(OneWeight())
    assert "last good state" not in capfd.readouterr().err


class KilledRank(Callback):
    """One of two processes gets a SIGTERM."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_one_of_two_processes_ends_both_with_one_checkpoint(folder):
    callbacks = [CleanStop(), ModelCheckpoint(folder, "last"), KilledRank()]
    trainer = trainer_with(False, max_epochs=99, callbacks=callbacks, devices=2, strategy="ddp_fork")
    with pytest.raises(ProcessExitedException, match=f"exit code {128 + signal.SIGTERM}"):
        trainer.fit(OneWeight())
    # after the step or, where that was the last of its epoch, after the epoch
    assert max(torch.load(path, weights_only=True)["global_step"] for path in folder.glob("*.ckpt")) > 2


@pytest.fixture
def slurm(folder: Path) -> dict[str, str]:
    """The environment of a SLURM job whose ``scontrol`` writes down what it is asked."""
    scontrol = folder / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" > asked\n')
    scontrol.chmod(0o755)
    job = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    job |= {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "zoo", "SLURM_JOB_ID": "4242"}
    return job | {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_a_requeued_job_of_slurm_goes_on_where_it_stopped(folder, slurm, monkeypatch):
    # SLURM asks for the requeue some time before the end; its SIGTERM may come before the step is done
    status, text = stopped_by([signal.SIGUSR1, signal.SIGTERM], 4, *pausing(4), **slurm)
    assert status == 128 + signal.SIGUSR1, text
    assert (folder / "asked").read_text() == "requeue 4242\n"
    assert torch.load(folder / MID_EPOCH, weights_only=True)["global_step"] == 5
    for number, checkpoint in (("4243", None), ("4242", folder / MID_EPOCH)):  # another job starts anew
        monkeypatch.setenv("SLURM_JOB_ID", number)
        assert requeued_from("runs/classifier") == checkpoint
    status, text = Child(command, *FIT, *pausing(4), **slurm).end()
    assert status == 0, text
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 9
    with (folder / RUN / "metrics.csv").open(newline="") as stream:
        steps = [int(row["step"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert steps == [*range(9)]
    assert requeued_from("runs/classifier") is None


class Requeued(OneWeight):
    """Gets SLURM's signal in its sixth step, and writes down the numbers that it learns from."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(int(batch[0]))
        if len(self.seen) == 6 and "SLURM_SIGNAL" in os.environ:
            os.kill(os.getpid(), signal.SIGUSR1)
        return super().training_step(batch, batch_idx)

    def train_dataloader(self) -> Any:
        return ResumableLoader(TensorDataset(torch.arange(8.0).view(8, 1)), batch_size=1)


def test_lightnings_own_requeue_loses_the_step_trains_on_and_is_resumed_by_another_job(folder, slurm, monkeypatch):
    """Why `CleanStop` has a requeue of its own."""
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_SIGNAL", "once")
    trainer = trainer_with(False, max_epochs=1)
    trainer.fit(first := Requeued())
    assert (folder / "asked").read_text() == "requeue 4242\n"
    assert first.seen == [*range(8)], "it stops"
    monkeypatch.delenv("SLURM_SIGNAL")
    monkeypatch.setenv("SLURM_JOB_ID", "4243")
    trainer = trainer_with(False, max_epochs=1)
    trainer.fit(second := Requeued())
    assert Path(str(trainer.ckpt_path)).name == "hpc_ckpt_1.ckpt", "another job starts anew"
    assert (trainer.global_step, second.seen) == (7, [6, 7]), "the sixth step is made"
