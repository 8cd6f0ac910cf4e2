"""SIGKILL in the middle of an epoch, and the same command again: as if nothing had happened."""

import csv
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_runs import differences
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from teachers import save_teacher_of_recipe

import train
import zoo

FEW = [
    "--ckpt_path=last",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=3",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.callbacks+=test_resume_killed.Killed",
    "--trainer.callbacks+=callbacks.MidEpochCheckpoint",
    "--trainer.callbacks.every_n_batches=4",
]
PROCESSES = [
    pytest.param([], id="one"),
    pytest.param(["--trainer.devices=2", "--trainer.strategy=ddp_fork"], id="two", marks=pytest.mark.long),
]


class Killed(Callback):
    """Kills all processes of the run when so many batches are done, if told to by the environment."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if os.environ.get("KILLED_AFTER") == str(done):
            trainer.strategy.barrier()
            os.killpg(0, signal.SIGKILL)


def start(arguments: list[str]) -> None:
    os.setsid()  # a group of processes of its own, which is killed together
    # Of a process in which inductor has asked for a GPU, as in a test before this one, no fork may fork without this.
    torch.cuda._is_in_bad_fork = lambda: False
    torch.rand(len(os.environ.get("KILLED_AFTER", "")))
    sys.argv = ["train.py", *arguments]
    train.main(arguments)


def run(arguments: list[str], killed_after: int | None = None) -> int:
    """The exit code of the command in a process of its own, forked, for a new one would import for seconds."""
    os.environ.pop("KILLED_AFTER", None)
    if killed_after:
        os.environ["KILLED_AFTER"] = str(killed_after)
    process = multiprocessing.get_context("fork").Process(target=start, args=(arguments,))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def run_folder() -> Path:
    (found,) = Path("runs").glob("*/version_*/metrics.csv")  # of a teacher there is nothing but its checkpoint
    return found.parent


def rows() -> list[dict[str, str]]:
    with (run_folder() / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def end_state() -> dict[str, Any]:
    found = torch.load(run_folder() / "checkpoints" / "last.ckpt", weights_only=True)
    del found["callbacks"]["Report"]["seconds"], found["command_line_config"]
    for name, kept in found["callbacks"].items():
        if name.startswith("ModelCheckpoint"):
            kept.clear()  # the folder
    return found


def check_that_a_killed_run_goes_on(command: list[str], teachers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "killed"):
        shutil.copytree(teachers, name)
    monkeypatch.chdir("whole")
    assert run(command) == 0
    whole, logged = end_state(), rows()
    monkeypatch.chdir("../killed")
    assert run(command, killed_after=5) == -signal.SIGKILL  # a batch after the checkpoint
    assert run(command) == 0
    assert rows() == logged
    assert differences(whole, end_state()) == []


@pytest.mark.parametrize("more", PROCESSES)
def test_a_killed_run_goes_on_with_the_same_command_as_if_nothing_had_happened(more, tmp_path, monkeypatch):
    command = ["fit", "--model=Classifier", "--model.network_args={width: 4}", "--data.augment=true", *FEW, *more]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teachers").mkdir()
    check_that_a_killed_run_goes_on(command, tmp_path / "teachers", monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("more", PROCESSES)
@pytest.mark.parametrize("name", zoo.__all__)
def test_every_recipe_goes_on_after_a_kill(name, more, tmp_path, monkeypatch):
    (tmp_path / "teachers").mkdir()
    monkeypatch.chdir(tmp_path / "teachers")
    (recipe,) = train.starting_points({"--model": name})
    save_teacher_of_recipe(Path(recipe.removeprefix("--config=")))
    monkeypatch.chdir(tmp_path)
    check_that_a_killed_run_goes_on(["fit", f"--model={name}", *FEW, *more], tmp_path / "teachers", monkeypatch)
