"""Ctrl-C, SIGTERM and SLURM's signals: training ends with its last state on disk, and says where it is."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch import distributed

from .whole_checkpoints import write_whole

INTERRUPT, TERMINATE, REQUEUE = 1, 2, 3  # what was asked for; the largest wins among processes
SIGNALS = {INTERRUPT: signal.SIGINT, TERMINATE: signal.SIGTERM, REQUEUE: signal.SIGUSR1}
SECONDS = 2.0  # between two moments at which several processes tell each other of their signals
SAME_PRESS = 0.5  # seconds in which a second SIGINT is the launcher's for the same Ctrl-C


class Stopped(SystemExit):
    """The run was asked to end, and has saved what it had to save."""


class CleanStop(Callback):
    """Ends a training that is asked to, after the step that is under way and with a checkpoint.

    * Ctrl-C: once, it ends with a checkpoint; a second one ends at once, and the earlier checkpoints stay as they were.
    * SIGTERM: as one Ctrl-C.
    * SLURM's SIGUSR1 (``#SBATCH --signal=SIGUSR1@120``), or whatever its environment plugin is set to: also requeues
      the job. The job that SLURM starts again finds its checkpoint by its number (see `requeued_from`) and no other
      job's, whereas Lightning's own ``hpc_ckpt_`` files are taken up by whatever job starts in that folder next.

    The checkpoint, ``last-mid-epoch.ckpt``, lies beside those of ``ModelCheckpoint``; without one nothing is saved. It
    is written only where Lightning can go on from: not in the middle of an accumulation of gradients, nor before a
    validation or the end of an epoch, whose checkpoint serves as well. A signal to one of several processes stops all.
    The exit status is 128 and the number of the signal. However a training ends, by an error too, the newest checkpoint
    that it wrote is named on the terminal; by an error with a strategy that forks or spawns it is not.

    Outside a training, where there is nothing to save, SIGTERM ends the run at once, its other processes with it.
    Lightning's own handler would end it with status 0, as if the test were done, or have one of several processes wait
    for the others for ever.

    Before a training starts, the folder of the checkpoints must prove writable. ``train.py`` has this callback always.

    Raises:
        OSError: The folder of the checkpoints cannot be written.
    """

    def __init__(self) -> None:
        self._training = False
        self._there: dict[Path, int] = {}
        self._forget()

    def _forget(self) -> None:
        self._asked, self._asked_at, self._agreed = 0, 0.0, 0
        self._batches, self._check_at, self._checked, self._waited = 0, 1, time.monotonic(), 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail now rather than after the first epoch if a checkpoint cannot be written."""
        self._training = False
        for folder in checkpoint_folders(trainer) if trainer.is_global_zero else ():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as stream:
                    stream.write(b"0")
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}, and checkpoints belong there", str(folder)) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which gives all of them back when the fit ends."""
        self._forget()
        self._training, self._there = True, checkpoints(trainer)
        if threading.current_thread() is not threading.main_thread():  # only there may signals be taken
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, or the user's own
            signal.signal(signal.SIGINT, self._interrupt)
        self._take_sigterm(trainer, pl_module)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue and environment.requeue_signal:
            users = trainer._signal_connector._original_handlers.get(environment.requeue_signal)
            if users in (None, signal.SIG_DFL):
                signal.signal(environment.requeue_signal, lambda *_: self._ask(REQUEUE))

    def _take_sigterm(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only a training may go on for a moment; Lightning's handler is in place when the first loop starts."""
        if threading.current_thread() is threading.main_thread():
            before = trainer._signal_connector._original_handlers.get(signal.SIGTERM)
            signal.signal(signal.SIGTERM, functools.partial(self._terminate, trainer, before))

    on_sanity_check_start = on_validation_start = on_test_start = on_predict_start = _take_sigterm

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End here if that was asked for and Lightning can go on from here."""
        self._batches += 1
        if (self._agreed or self._agree(trainer)) and goes_on_from_here(trainer):
            self._end(trainer, self._save(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End here if that was asked for and the epoch before left a checkpoint, or no better place."""
        if not self._agreed:
            return
        self._waited += 1
        steps = [each._last_global_step_saved for each in model_checkpoints(trainer)]
        if trainer.global_step in steps or self._waited > 1:
            self._end(trainer, self._newest(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A job that is done has nothing to go on with."""
        self._training = False
        if (pointer := pointer_of_job(trainer.default_root_dir)) and trainer.is_global_zero:
            pointer.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say where the last good state is."""
        self._tell(trainer, exception)

    def _tell(self, trainer: Trainer, exception: BaseException) -> None:
        if not self._training or not trainer.is_global_zero:
            return
        self._training = False
        if found := self._newest(trainer):
            text = f"the last good state is {found}: the same command with --ckpt_path {found} goes on from there"
        elif isinstance(exception, KeyboardInterrupt | Stopped):
            text = "the run ends before its first checkpoint: nothing was saved"
        else:
            return
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    # ---------------------------------------------------------------- signals

    def _interrupt(self, *_: Any) -> None:
        if self._asked_at and time.monotonic() - self._asked_at > SAME_PRESS:
            raise KeyboardInterrupt
        if not self._asked_at:
            self._asked_at = time.monotonic()
            # no print: this may interrupt one
            os.write(2, b"\nCtrl-C: ends after this step, with a checkpoint; a second one ends at once, without\n")
        self._ask(INTERRUPT)

    def _terminate(self, trainer: Trainer, before: Any, number: int, frame: Any) -> None:
        self._ask(TERMINATE)
        if callable(before) and before is not signal.default_int_handler:
            before(number, frame)
        if self._training:
            return
        os.write(2, b"\nSIGTERM: ends now\n")
        if launcher := trainer.strategy.launcher:
            launcher.kill(signal.SIGTERM)  # the processes that this one started
        raise Stopped(128 + number)

    def _ask(self, what: int) -> None:
        self._asked = max(self._asked, what)

    def _agree(self, trainer: Trainer) -> int:
        """What this process was asked for, or any of several; they talk every few seconds, at the same batch."""
        if trainer.world_size == 1 or not (distributed.is_available() and distributed.is_initialized()):
            self._agreed = self._asked
        elif self._batches >= self._check_at:
            since = self._batches - self._check_at + 1
            seconds = (time.monotonic() - self._checked) / since
            figures = torch.tensor([float(self._asked), seconds], device=trainer.strategy.root_device)
            distributed.all_reduce(figures, distributed.ReduceOp.MAX)
            self._agreed, slowest = int(figures[0]), float(figures[1])
            self._checked = time.monotonic()
            self._check_at = self._batches + max(1, int(SECONDS / max(slowest, 1e-4)))
        return self._agreed

    # ---------------------------------------------------------------- the end

    def _save(self, trainer: Trainer) -> Path | None:
        folders = checkpoint_folders(trainer)
        if not folders:
            return None
        path = folders[0] / "last-mid-epoch.ckpt"
        trainer.save_checkpoint(path)
        return path

    def _end(self, trainer: Trainer, saved: Path | None) -> None:
        end = Stopped(128 + SIGNALS[self._agreed])
        if not trainer.is_global_zero:
            raise Stopped(0)  # a launcher takes another status for a failure, and kills the first process
        pointer = pointer_of_job(trainer.default_root_dir)
        if saved and pointer:
            write_whole(pointer, str(saved.resolve()).encode())
        if self._agreed == REQUEUE:
            requeue()
        self._tell(trainer, end)  # in a forked process Lightning tells no callback of an exception
        raise end

    def _newest(self, trainer: Trainer) -> Path | None:
        """The newest checkpoint that this fit wrote, or the one that it went on from."""
        now = checkpoints(trainer)
        written = [path for path in now if now[path] != self._there.get(path)]
        from_where = [Path(trainer.ckpt_path)] if trainer.ckpt_path else []
        return max(written, key=now.__getitem__) if written else next(iter(from_where), None)


def goes_on_from_here(trainer: Trainer) -> bool:
    """Whether a checkpoint after this batch is one that Lightning goes on from as if nothing had happened."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    ends = loop._should_accumulate() or loop.epoch_loop._num_ready_batches_reached()
    return not ends and (fetcher is None or not loop.epoch_loop._should_check_val_fx(fetcher))


def model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    """Lightning's own among the callbacks that write checkpoints."""
    return [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """Where they write, on this machine."""
    folders = [str(each.dirpath) for each in model_checkpoints(trainer) if each.dirpath]
    return [Path(folder) for folder in dict.fromkeys(folders) if "://" not in folder]


def checkpoints(trainer: Trainer) -> dict[Path, int]:
    """The checkpoints in those folders, with the time of their last change."""
    files = [path for folder in checkpoint_folders(trainer) for path in folder.glob("*.ckpt")]
    return {path: path.stat().st_mtime_ns for path in files if path.exists()}


# ---------------------------------------------------------------- SLURM


def pointer_of_job(folder: str | Path | None) -> Path | None:
    """The file that tells a requeued job of its checkpoint; None outside SLURM's jobs.

    Args:
        folder: The trainer's ``default_root_dir``.
    """
    job = SLURMEnvironment.job_id()
    return None if job is None else Path(folder or ".", f".slurm-job-{job}")


def requeued_from(folder: str | Path | None) -> Path | None:
    """The checkpoint with which this job of SLURM ended before it was requeued, if that is so.

    Args:
        folder: The trainer's ``default_root_dir``.
    """
    pointer = pointer_of_job(folder)
    if pointer is None or not pointer.is_file():
        return None
    path = Path(pointer.read_text(encoding="utf-8"))
    return path if path.exists() else None


def requeue() -> None:
    """Ask SLURM to start this job again; one line if it does not."""
    environment = os.environ
    job = environment.get("SLURM_JOB_ID", "")
    if array := environment.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{environment.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"SLURM did not requeue job {job}: {error}\n")
