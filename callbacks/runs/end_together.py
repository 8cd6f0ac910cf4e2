"""When one of several processes fails, the others end too, and the first error is on the terminal."""

import os
import signal
import sys

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed


class EndTogether(Callback):
    """Says which of several processes failed, and ends the others, which would wait for it.

    A process that fails keeps its connections for as long as it lives: callbacks may still save a checkpoint, for which
    they gather from processes that wait for something else, and loggers may take their time. So this callback writes
    the error to the terminal at once, before other processes fail in consequence, and then closes the connections (of
    gloo; NCCL has a watchdog for it): whoever waits for this process fails in its turn, and what is saved afterwards
    holds the state of this process alone. If a process fails before there are connections, it ends the processes that
    it started, which would otherwise wait for it for half an hour.

    It also refuses a trainer that does not use the processes that torchrun started: Lightning takes ``devices=1`` for a
    run by itself, so each process would train alone and write into one folder.

    Put it before callbacks that save on an exception. ``train.py`` always adds it.

    Raises:
        ValueError: torchrun started more processes, or fewer, than the trainer uses.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare the number of processes with torchrun's."""
        started, used = int(os.environ.get("WORLD_SIZE", "1")), trainer.num_devices * trainer.num_nodes
        if "TORCHELASTIC_RUN_ID" in os.environ and started != used:
            raise ValueError(
                f"torchrun started {started} processes, but --trainer.devices {trainer.num_devices} times "
                f"--trainer.num_nodes {trainer.num_nodes} makes {used}: set them to the processes of each node, and to "
                "the nodes"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the others: a process that has ended would not hear of a failure in another's last moments."""
        trainer.strategy.barrier("EndTogether")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the error, close the connections."""
        if not isinstance(exception, Exception):  # a signal: it reaches every process
            return
        if not (distributed.is_available() and distributed.is_initialized()):
            if launcher := trainer.strategy.launcher:
                launcher.kill(signal.SIGTERM)
        elif (world := distributed.get_world_size()) > 1:
            what = f"{type(exception).__name__}: {exception}".strip().splitlines()[0]
            sys.stderr.write(f"process {distributed.get_rank()} of {world} failed: {what}\n")
            sys.stderr.flush()
            if distributed.get_backend() == "gloo":
                distributed.destroy_process_group()
