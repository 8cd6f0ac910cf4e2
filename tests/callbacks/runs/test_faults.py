"""Full disks and folders that cannot be written: the last good checkpoint is safe, and the error is one line."""

import errno
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from child_runs import CHECKPOINTS, FIT, LAST, RANDOMNESS, RUN, Child, command
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

import train
from callbacks.runs.whole_checkpoints import WholeCheckpoints
from zoo.command_line import messages


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class DiskFull(Callback):
    """From the second epoch on, no file can grow beyond 10 kB, as if the disk were full."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


def die_while_writing(path: Path) -> None:
    """Overwrite a checkpoint, and be killed by the kernel when the first half of it is written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    tempfile.tempdir = "/dev/shm"  # another file system, as on most machines: a move from there is a copy
    assert os.stat("/dev/shm").st_dev != path.parent.stat().st_dev

    def limit(event: str, arguments: Any) -> None:
        if event == "open" and str(path.parent) in str(arguments[0]) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, resource.RLIM_INFINITY))

    sys.addaudithook(limit)
    WholeCheckpoints().save_checkpoint({"state_dict": torch.zeros(100_000)}, path)


def test_a_process_that_dies_while_it_writes_a_checkpoint_leaves_the_good_one(folder):
    path = folder / "some" / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"state_dict": torch.ones(100_000)}, path)
    status, text = Child(die_while_writing, path).end()
    assert status == -signal.SIGXFSZ, text
    assert torch.load(path, weights_only=True)["state_dict"].sum() == 100_000
    # what it left behind is no checkpoint to anybody, and the next one takes its place
    (leftover,) = set(path.parent.iterdir()) - {path}
    assert "ckpt" not in leftover.name
    WholeCheckpoints().save_checkpoint({"state_dict": torch.zeros(100_000)}, path)
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_checkpoint_that_cannot_be_finished_leaves_the_good_one_and_nothing_else(folder, monkeypatch, error):
    path = folder / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)) as found:
        WholeCheckpoints().save_checkpoint({"epoch": 2}, path)
    if isinstance(found.value, OSError):
        assert messages.explain(found.value, {}) == (
            1,
            f"cannot use {path}: No space left on device; the earlier file is untouched",
        )
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [*folder.iterdir()] == [path]


def test_the_command_line_writes_whole_checkpoints_unless_the_user_chose_another_writer():
    bare = [*FIT[1:], "--trainer.callbacks=null", "--trainer.logger=false"]
    assert type(train.main(bare, run=False).trainer.strategy.checkpoint_io) is WholeCheckpoints
    own = "--trainer.plugins=lightning.pytorch.plugins.io.AsyncCheckpointIO"
    assert type(train.main([*bare, own], run=False).trainer.strategy.checkpoint_io) is AsyncCheckpointIO


def test_a_full_disk_ends_the_run_with_the_last_good_state_on_disk_and_a_message(folder):
    full = [RANDOMNESS, *CHECKPOINTS, "--trainer.callbacks+=test_faults.DiskFull"]
    status, text = Child(command, *FIT, *full).end()
    assert status == 1
    path = LAST
    assert f"error: cannot use {path}: File too large; the earlier file is untouched" in text
    assert f"the last good state is {path}: the same command with --ckpt_path {path} goes on from there" in text
    assert "Traceback" not in text
    assert torch.load(path, weights_only=True)["global_step"] == 3
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("place", ["file/inside", "/proc/checkpoints"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_training(folder, capsys, place):
    (folder / "file").touch()  # the tests may run as root, whom permissions do not stop: this does, and /proc
    with pytest.raises(SystemExit) as end:
        train.main([*FIT, RANDOMNESS, *CHECKPOINTS, f"--trainer.callbacks.dirpath={place}"])
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert place.partition("/inside")[0] in line
    assert not (folder / RUN / "metrics.csv").exists()


def test_a_run_folder_that_cannot_be_made_ends_with_one_message(folder, capsys):
    (folder / "runs").touch()
    with pytest.raises(SystemExit) as end:
        train.main([*FIT, "--trainer.callbacks=null"])
    assert end.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "runs" in line
