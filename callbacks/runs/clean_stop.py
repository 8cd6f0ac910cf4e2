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

from ..shared.private_names import can_resume_from_here, cluster_environment, last_step_saved
from .whole_checkpoints import write_whole

INTERRUPT, TERMINATE, REQUEUE = 1, 2, 3  # what was requested; the largest request of all processes wins
SIGNALS = {INTERRUPT: signal.SIGINT, TERMINATE: signal.SIGTERM, REQUEUE: signal.SIGUSR1}
SYNC_SECONDS = 2.0  # how often several processes compare their requests
SAME_KEYPRESS = 0.5  # seconds within which a second SIGINT is the launcher's copy of the same Ctrl-C


class Stopped(SystemExit):
    """The run was asked to end, and has saved what it had to save."""


class CleanStop(Callback):
    """Ends a training on request, after the step that is under way and with a checkpoint.

    * Ctrl-C: once, training ends with a checkpoint; a second one ends it at once, and earlier checkpoints stay.
    * SIGTERM: as one Ctrl-C.
    * SLURM's SIGUSR1 (``#SBATCH --signal=SIGUSR1@120``), or whatever its environment plugin is set to: also requeues
      the job, which finds its checkpoint by its job number (see `requeued_from`). Lightning's own requeue writes its
      checkpoint inside the signal handler, in the middle of a step, so that the resumed run leaves out that batch; it
      gathers from other processes there, which may wait for something else; it trains on until SLURM kills it; and
      its ``hpc_ckpt_`` file is resumed by whatever job starts in that folder next.

    The checkpoint, ``last-mid-epoch.ckpt``, lies beside those of ``ModelCheckpoint``; without one nothing is saved. It
    is written only where Lightning can resume: not in the middle of an accumulation of gradients, nor before a
    validation or the end of an epoch, whose checkpoint serves as well. A signal to one of several processes stops all.
    The exit status is 128 plus the number of the signal. However a training ends, also by an error, the newest
    checkpoint that it wrote is named on the terminal (not after an error in a process that was forked or spawned).

    Outside a training, where there is nothing to save, SIGTERM ends the run and its other processes at once.
    Lightning's own handler would end a test with status 0, or have one of several processes wait for the others.

    Before a training starts, the folder of the checkpoints must prove writable. ``train.py`` always adds this callback.

    Raises:
        OSError: The folder of the checkpoints cannot be written.
    """

    def __init__(self) -> None:
        self._training = False
        self._earlier: dict[Path, int] = {}
        self._user_handlers: dict[int, Any] = {}
        self._reset()

    def _reset(self) -> None:
        self._requested, self._interrupted_at, self._agreed = 0, 0.0, 0
        self._batches, self._next_sync, self._synced_at, self._epochs_waited = 0, 1, time.monotonic(), 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember the user's signal handlers; Lightning replaces them after the setup."""
        self._training = False
        self._user_handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail now rather than after the first epoch if a checkpoint cannot be written."""
        for folder in checkpoint_folders(trainer) if trainer.is_global_zero else ():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as stream:
                    stream.write(b"0")
            except OSError as error:
                raise OSError(error.errno, f"{error.strerror}, and checkpoints belong there", str(folder)) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's signal handlers; it restores all of them when the fit ends."""
        self._reset()
        self._training, self._earlier = True, checkpoints(trainer)
        self._handle_sigterm(trainer, pl_module)
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else ignored, or the user's own
            signal.signal(signal.SIGINT, self._interrupt)
        slurm = cluster_environment(trainer)
        requeue_signal = isinstance(slurm, SLURMEnvironment) and slurm.auto_requeue and slurm.requeue_signal
        if requeue_signal and self._user_handlers.get(requeue_signal) in (None, signal.SIG_DFL):
            signal.signal(requeue_signal, lambda *_: self._request(REQUEUE))

    def _handle_sigterm(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler, which is in place when the first loop starts."""
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            users_handler = self._user_handlers.get(signal.SIGTERM)
            signal.signal(signal.SIGTERM, functools.partial(self._terminate, trainer, users_handler))

    on_sanity_check_start = on_validation_start = on_test_start = on_predict_start = _handle_sigterm

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End here if that was requested and Lightning can resume from here."""
        self._batches += 1
        if not (self._agreed or self._agree(trainer)) or not can_resume_from_here(trainer):
            return
        path = next((folder / "last-mid-epoch.ckpt" for folder in checkpoint_folders(trainer)), None)
        if path:
            trainer.save_checkpoint(path)
        self._end(trainer, path)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End here if that was requested and the epoch before left a checkpoint, or none can be hoped for."""
        if not self._agreed:
            return
        self._epochs_waited += 1
        if self._epochs_waited > 1 or trainer.global_step in map(last_step_saved, model_checkpoints(trainer)):
            self._end(trainer, self._newest(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Delete the requeue pointer: the job finished."""
        self._training = False
        if (pointer := pointer_of_job(trainer.default_root_dir)) and trainer.is_global_zero:
            pointer.unlink(missing_ok=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Say where the last good state is."""
        if not self._training or not trainer.is_global_zero:
            return
        self._training = False
        if newest := self._newest(trainer):
            text = f"the last good state is {newest}: the same command with --ckpt_path {newest} goes on from there"
        elif isinstance(exception, KeyboardInterrupt | Stopped):
            text = "the run ends before its first checkpoint: nothing was saved"
        else:
            return
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def _interrupt(self, *_: Any) -> None:
        if not self._interrupted_at:
            self._interrupted_at = time.monotonic()
            # os.write, since this handler may interrupt a print
            os.write(2, b"\nCtrl-C: ends after this step, with a checkpoint; a second one ends at once, without\n")
        elif time.monotonic() - self._interrupted_at > SAME_KEYPRESS:
            raise KeyboardInterrupt
        self._request(INTERRUPT)

    def _terminate(self, trainer: Trainer, users_handler: Any, number: int, frame: Any) -> None:
        self._request(TERMINATE)
        if callable(users_handler):
            users_handler(number, frame)
        if self._training:
            return
        os.write(2, b"\nSIGTERM: ends now\n")
        if launcher := trainer.strategy.launcher:
            launcher.kill(signal.SIGTERM)  # the processes that this one started
        raise Stopped(128 + number)

    def _request(self, what: int) -> None:
        self._requested = max(self._requested, what)

    def _agree(self, trainer: Trainer) -> int:
        """The largest request of any process; several processes compare theirs every few seconds, at the same batch."""
        if trainer.world_size == 1 or not (distributed.is_available() and distributed.is_initialized()):
            self._agreed = self._requested
        elif self._batches >= self._next_sync:
            seconds = (time.monotonic() - self._synced_at) / (self._batches - self._next_sync + 1)
            maxima = torch.tensor([float(self._requested), seconds], device=trainer.strategy.root_device)
            distributed.all_reduce(maxima, distributed.ReduceOp.MAX)
            self._agreed, slowest = int(maxima[0]), float(maxima[1])
            self._synced_at = time.monotonic()
            self._next_sync = self._batches + max(1, int(SYNC_SECONDS / max(slowest, 1e-4)))
        return self._agreed

    def _end(self, trainer: Trainer, saved: Path | None) -> None:
        if not trainer.is_global_zero:
            raise Stopped(0)  # a launcher takes another status for a failure, and kills the first process
        end = Stopped(128 + SIGNALS[self._agreed])
        if saved and (pointer := pointer_of_job(trainer.default_root_dir)):
            write_whole(pointer, str(saved.resolve()).encode())
        if self._agreed == REQUEUE:
            requeue()
        self.on_exception(trainer, trainer.lightning_module, end)  # which Lightning does not call in a forked process
        raise end

    def _newest(self, trainer: Trainer) -> Path | None:
        """The newest checkpoint that this fit wrote, or the one that it resumed from."""
        now = checkpoints(trainer)
        written = [path for path in now if now[path] != self._earlier.get(path)]
        if written:
            return max(written, key=now.__getitem__)
        return Path(trainer.ckpt_path) if trainer.ckpt_path else None


def model_checkpoints(trainer: Trainer) -> list[ModelCheckpoint]:
    """The callbacks that write checkpoints and are Lightning's own."""
    return [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]


def checkpoint_folders(trainer: Trainer) -> list[Path]:
    """The folders on this machine that `model_checkpoints` write to."""
    folders = [str(each.dirpath) for each in model_checkpoints(trainer) if each.dirpath]
    return [Path(folder) for folder in dict.fromkeys(folders) if "://" not in folder]


def checkpoints(trainer: Trainer) -> dict[Path, int]:
    """The checkpoints in those folders, with the time of their last change in nanoseconds."""
    files = [path for folder in checkpoint_folders(trainer) for path in folder.glob("*.ckpt")]
    return {path: path.stat().st_mtime_ns for path in files if path.exists()}


def pointer_of_job(folder: str | Path | None) -> Path | None:
    """The file in the trainer's ``default_root_dir`` that names the checkpoint of a SLURM job; None outside jobs."""
    job = SLURMEnvironment.job_id()
    return None if job is None else Path(folder or ".", f".slurm-job-{job}")


def requeued_from(folder: str | Path | None) -> Path | None:
    """The checkpoint with which this SLURM job ended before it was requeued; None if it was not.

    It is found by way of the trainer's ``default_root_dir``.
    """
    pointer = pointer_of_job(folder)
    path = Path(pointer.read_text(encoding="utf-8")) if pointer and pointer.is_file() else None
    return path if path and path.exists() else None


def requeue() -> None:
    """Ask SLURM to start this job again; print one line if it refuses."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"SLURM did not requeue job {job}: {error}\n")
