"""Full disks, folders that cannot be written, loggers that fail, Ctrl-C, SIGTERM and SLURM: the last state is safe."""

import copy
import csv
import errno
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch.multiprocessing import ProcessExitedException
from torch.utils.data import DataLoader, TensorDataset

import train
from callbacks.runs.clean_stop import CleanStop, requeued_from
from callbacks.runs.whole_checkpoints import WholeCheckpoints
from callbacks.shared.logger_errors import guarded, survive_logger_errors
from callbacks.shared.loggers import log_images
from zoo.command_line import messages as errors
from zoo.command_line import parser as cli

FIT = [
    "fit",
    "--model=Classifier",
    "--model.network_args={width: 4}",
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=3",
    "--trainer.limit_train_batches=3",
    "--trainer.limit_val_batches=0",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
CHECKPOINTS = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename=last"]
CHECKPOINTS += ["--trainer.callbacks.save_on_train_epoch_end=true"]
RANDOMNESS = "--trainer.callbacks=[callbacks.Randomness]"
RUN = Path("runs", "classifier", "version_0")
LAST, MID_EPOCH = RUN / "checkpoints" / "last.ckpt", RUN / "checkpoints" / "last-mid-epoch.ckpt"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Pauses(Callback):
    """Says that so many batches are done, and waits there until it is told to go on, or a signal ends it."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.batch_progress.total.completed == self.after and not Path("go").exists():
            Path("there").touch()
            wait_for(Path("go"))


class PausesInTest(Callback):
    """The same in the first batch of a test."""

    def on_test_batch_start(self, *_: Any) -> None:
        Path("there").touch()
        wait_for(Path("go"))


class DiskFull(Callback):
    """From the second epoch on, no file can grow beyond 10 kB, as if the disk were full."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


def wait_for(path: Path, child: int | None = None) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        if child and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise ChildProcessError(Path("terminal").read_text())
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


class Child:
    """A function in a forked process with a group, a terminal output and an environment of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **environment: str) -> None:
        self.pid = os.fork()  # a new interpreter would import for seconds
        if self.pid:
            return
        status = 70
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            out = os.open("terminal", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115  pytest's are others
            os.environ.update(environment)
            function(*arguments)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def end(self) -> tuple[int, str]:
        """The exit status, minus the signal if one ended it, and what it wrote to the terminal."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return status, Path("terminal").read_text()


def command(*arguments: str) -> None:
    sys.argv = ["train.py", *arguments]
    train.main(list(arguments))


class Line(LightningModule):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch[0]).square().mean()
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=1)


def trainer_with(logger: Any, **arguments: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(logger=logger, log_every_n_steps=1, **{"max_epochs": 2} | quiet | arguments)


# ---------------------------------------------------------------- checkpoints


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
        assert errors.explain(found.value, {}) == (
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


# ---------------------------------------------------------------- loggers


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
    model = Line()
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
        built = train.main([*FIT, "--trainer.callbacks=null", "--trainer.logger=test_faults.Broken"])
    assert built.trainer.global_step == 9
    assert isinstance(built.trainer.logger, Broken)


def test_a_log_that_finds_the_disk_full_ends_no_training(folder):
    (folder / "metrics.csv").symlink_to("/dev/full")
    trainer = trainer_with(CSVLogger(folder, "", ""), enable_checkpointing=False)
    survive_logger_errors(trainer)
    with pytest.warns(UserWarning, match="CSVLogger failed.*No space left on device"):
        trainer.fit(Line())
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
        trainer.fit(Line())
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


# ---------------------------------------------------------------- signals


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
    return [RANDOMNESS, *CHECKPOINTS, "--trainer.callbacks+=test_faults.Pauses", f"--trainer.callbacks.after={after}"]


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
    quiet = [*FIT[3:4], *FIT[-2:], "--trainer.logger=false", "--trainer.callbacks=test_faults.PausesInTest"]
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

    monkeypatch.setattr(cli, "spell_out", interrupted)
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
        trainer.fit(Line())
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
        trainer_with(False, callbacks=callbacks).fit(Line())
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
        trainer.fit(Line())
    # after the step or, where that was the last of its epoch, after the epoch
    assert max(torch.load(path, weights_only=True)["global_step"] for path in folder.glob("*.ckpt")) > 2


def test_a_requeued_job_of_slurm_goes_on_where_it_stopped(folder, monkeypatch):
    scontrol = folder / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$@" > asked\n')
    scontrol.chmod(0o755)
    job = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    job |= {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "zoo", "SLURM_JOB_ID": "4242"}
    job["PATH"] = f"{folder}:{os.environ['PATH']}"
    # SLURM asks for the requeue some time before the end; its SIGTERM may come before the step is done
    status, text = stopped_by([signal.SIGUSR1, signal.SIGTERM], 4, *pausing(4), **job)
    assert status == 128 + signal.SIGUSR1, text
    assert (folder / "asked").read_text() == "requeue 4242\n"
    assert torch.load(folder / MID_EPOCH, weights_only=True)["global_step"] == 5
    for number, found in (("4243", None), ("4242", folder / MID_EPOCH)):  # another job starts anew
        monkeypatch.setenv("SLURM_JOB_ID", number)
        assert requeued_from("runs/classifier") == found
    status, text = Child(command, *FIT, *pausing(4), **job).end()
    assert status == 0, text
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 9
    with (folder / RUN / "metrics.csv").open(newline="") as stream:
        steps = [int(row["step"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert steps == [*range(9)]
    assert requeued_from("runs/classifier") is None
