"""Ctrl-C and SIGTERM to whatever starts several processes: all end within a minute, with a checkpoint."""

import os
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from child_runs import ROOT, commands

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(400)]  # 150 to start on a busy machine

WAITING = '''
import os
import time
from pathlib import Path

from lightning.pytorch import Callback


class Slow(Callback):
    """Says which process it is in, in a run that takes its time."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.tell(trainer, trainer.fit_loop.epoch_loop.batch_progress.total.completed == 3)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.tell(trainer, batch_idx == 0)
        time.sleep(2)

    def tell(self, trainer, now):
        if now:
            Path("new").mkdir(exist_ok=True)
            own = Path("new", f"process-{trainer.global_rank}")
            own.write_text(str(os.getpid()))
            own.rename(own.name)
        time.sleep(0.1)
'''
SLOW = [
    "--model=Classifier", "--model.network_args={width: 4}", "--trainer.accelerator=cpu", "--data.batch_size=8",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=1000",
    "--trainer.callbacks=waiting.Slow", "--trainer.callbacks+=callbacks.Randomness",
    "--trainer.callbacks+=ModelCheckpoint", "--trainer.limit_val_batches=1", "--trainer.limit_test_batches=3",
]  # fmt: skip
CHECKPOINT = Path("runs", "classifier", "version_0", "checkpoints", "last-mid-epoch.ckpt")


class Run:
    """Commands that are one run of two processes, each command in a group of its own as in a terminal."""

    def __init__(self, folder: Path, commands: list[list[str]], **own: str) -> None:
        (folder / "waiting.py").write_text(WAITING)
        own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
        environment = os.environ | own | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
        self.folder, self.terminal = folder, folder / "terminal"
        self.workers: list[int] = []
        with self.terminal.open("w") as out:
            as_in_a_terminal: dict[str, Any] = {
                "start_new_session": True,
                "preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
            }
            self.started = [
                subprocess.Popen(each, cwd=folder, env=environment, stdout=out, stderr=out, **as_in_a_terminal)
                for each in commands
            ]

    def wait_until_both_are_at_work(self, limit: float = 150) -> None:
        deadline = time.monotonic() + limit
        while len([*self.folder.glob("process-*")]) < 2:
            assert all(each.poll() is None for each in self.started), self.terminal.read_text()
            assert time.monotonic() < deadline, self.terminal.read_text()
            time.sleep(0.1)
        self.workers = [int(path.read_text()) for path in sorted(self.folder.glob("process-*"))]

    def seconds_to_the_end(self, limit: float = 60) -> float:
        """Until no process is left; what is left after the limit is killed, and a failure."""
        begin = time.monotonic()
        while self.alive() and time.monotonic() < begin + limit:
            time.sleep(0.1)
        took, left = time.monotonic() - begin, {*self.alive()}
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        shown = self.terminal.read_text()
        assert not left, f"{left} of {[each.pid for each in self.started]}, {self.workers} live on:\n{shown}"
        return took

    def alive(self) -> list[int]:
        launchers = [each.pid for each in self.started if each.poll() is None]
        return launchers + [pid for pid in self.workers if lives(pid)]


def lives(pid: int) -> bool:
    """Whether the process is there and no zombie, which a container's first process may not collect."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def launched(launcher: str, *args: str) -> list[list[str]]:
    if launcher != "fork":
        return commands(launcher, *args)
    (command,) = commands("lightning", *args)
    return [[*command[:-1], "--trainer.strategy=ddp_fork"]]


@pytest.mark.parametrize(
    ("launcher", "sent", "whole_group", "status"),
    [
        ("lightning", signal.SIGINT, True, [130]),
        ("lightning", signal.SIGTERM, False, [143]),
        ("fork", signal.SIGINT, True, [1]),
        ("fork", signal.SIGTERM, False, [-signal.SIGTERM]),  # the kernel tells the children
        ("torchrun", signal.SIGINT, True, [1]),  # its processes are in groups of their own: it tells them
        ("torchrun", signal.SIGTERM, False, [1]),
        ("two nodes", signal.SIGINT, True, [1, 0]),
    ],
)
def test_a_signal_to_a_launcher_ends_all_processes_within_a_minute_with_a_checkpoint(
    tmp_path, launcher, sent, whole_group, status
):
    run = Run(tmp_path, launched(launcher, "fit", *SLOW))
    run.wait_until_both_are_at_work()
    (os.killpg if whole_group else os.kill)(run.started[0].pid, sent)
    run.seconds_to_the_end()
    shown = run.terminal.read_text()
    assert [each.returncode for each in run.started] == status, shown
    saved = [*tmp_path.glob(str(CHECKPOINT.parent / "*.ckpt"))]
    assert max(torch.load(path, weights_only=True)["global_step"] for path in saved) >= 3
    assert shown.count(f"the last good state is {CHECKPOINT.parent}") == 1, shown
    assert " of 2 failed: " not in shown


@pytest.mark.parametrize(("launcher", "rank"), [("lightning", 0), ("lightning", 1), ("torchrun", None)])
def test_sigterm_ends_a_test_on_all_processes_within_a_minute(tmp_path, launcher, rank):
    run = Run(tmp_path, launched(launcher, "test", *SLOW))
    run.wait_until_both_are_at_work()
    os.kill(run.started[0].pid if rank is None else run.workers[rank], signal.SIGTERM)
    run.seconds_to_the_end()
    assert run.started[0].returncode != 0, "as if the test were done"
    assert "SIGTERM: ends now" in run.terminal.read_text()


def test_a_first_process_that_cannot_start_leaves_no_other_waiting_for_it(tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        run = Run(tmp_path, launched("lightning", "fit", *SLOW), MASTER_PORT=port)
        deadline = time.monotonic() + 150
        while run.started[0].poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        assert run.started[0].poll() not in (None, 0), run.terminal.read_text()
        end = time.monotonic() + 60
        while group_lives(run.started[0].pid) and time.monotonic() < end:
            time.sleep(0.1)
        left = group_lives(run.started[0].pid)
        if left:
            os.killpg(run.started[0].pid, signal.SIGKILL)
        assert not left, run.terminal.read_text()
        assert port in run.terminal.read_text()


def group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
