"""Runs of the command line in forked processes that are told when to go on, and in several processes; a tiny module."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

import train

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
            out = os.open("terminal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
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


class OneWeight(LightningModule):
    """Learns one weight from eight batches an epoch."""

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


ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def commands(launcher: str, *args: str) -> list[list[str]]:
    """The commands that together are one run of two processes."""
    script = [str(ROOT / "train.py"), *args]
    if launcher == "lightning":
        return [[sys.executable, *script, "--trainer.devices=2", "--trainer.strategy=ddp"]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=1"]
    if launcher == "torchrun":
        one_node = ["--standalone", "--nproc-per-node=2"]
        return [[*torchrun, *one_node, *script, "--trainer.devices=2", "--trainer.strategy=ddp"]]
    node = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-id=zoo", "--rdzv-backend=c10d", "--local-addr=127.0.0.1"]
    node += [f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    two = ["--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.strategy=ddp"]
    return [[*torchrun, *node, *script, *two]] * 2
