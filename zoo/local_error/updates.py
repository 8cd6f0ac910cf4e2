"""When blocks are updated: with ``training="blockwise"`` in the forward sweep, on one process or several."""

from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from ..shared.losses import accuracy
from ..shared.schedules import check_classifier_batch, log_training, logs_now
from .pipeline import PipelineStrategy
from .processes import Average, gradients_and_statistics


class Updates:
    """Updates the blocks of `LocalErrorSignals` as its sweep reaches them, and gathers what several processes know.

    With ``training`` summed or global everything here leaves the losses as they are, and Lightning makes the update.

    On several processes the gradients of a block are averaged while the next block computes. With a `PipelineStrategy`
    each process has blocks of its own, takes what the process before hands over, and hands it over to the next one.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.blockwise = module.hparams["training"] == "blockwise"
        self.averages: Average | None = None  # those of the block before, which may still be on their way

    @property
    def pipeline(self) -> PipelineStrategy | None:
        """The strategy, if each process has blocks of its own."""
        strategy = self.module.trainer.strategy if self.blockwise else None
        return strategy if isinstance(strategy, PipelineStrategy) else None

    @property
    def own(self) -> range:
        """The numbers of this process's blocks."""
        return self.pipeline.own if self.pipeline else range(len(self.module.network.blocks))

    @property
    def own_output(self) -> bool:
        """Whether this process has the output layer: the one that has the last block."""
        return self.own.stop == len(self.module.network.blocks)

    def take(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> tuple[Any, Tensor]:
        """The inputs of the first of this process's blocks, and the labels ``(B,)``, after `check_classifier_batch`."""
        if self.pipeline and self.pipeline.global_rank:
            return self.pipeline.receive()
        check_classifier_batch(self.module, batch, batch_idx)
        return batch

    def hand_over(self, number: int, x: Any, y: Tensor) -> None:
        """Send the inputs of the next block, and the labels, if that block belongs to another process."""
        if number + 1 == self.own.stop and not self.own_output and self.pipeline:
            self.pipeline.send(x, y)

    @torch.compiler.disable  # else it would compile Lightning's manual optimisation, too, for nothing
    def learn(self, loss: Tensor, *modules: nn.Module) -> Tensor:
        """Backward pass and step of the modules of a loss: a block and its head, or the output layer.

        The last step of a batch is made by `finish`. Returns the loss, without its graph if it was used.
        """
        if not self.blockwise:
            return loss
        module, network, strategy = self.module, self.module.network, self.module.trainer.strategy
        if self.averages:  # of the block before, which had this block's forward pass to arrive
            self._step()
        # DDP's own reduction is off, see `processes.py`. Lightning calls a training step under autocast, which would
        # also round the float32 parts of the backward pass.
        reduction_off = strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()
        with reduction_off, torch.autocast(module.device.type, enabled=False):
            module.manual_backward(loss)
        last = network.output if self.own_output else network.blocks[self.own[-1]]
        if module.trainer.world_size > 1 and not self.pipeline:
            self.averages = Average(gradients_and_statistics(modules))
        elif modules[0] is not last:
            self._step()
        return loss.detach()

    def finish(self) -> None:
        """Make the last step of a batch, and after the last batch of an epoch that of the learning rate."""
        if not self.blockwise:
            return
        self._step(last=True)
        if self.module.trainer.is_last_batch:  # before anything is saved, as Lightning does where it steps by itself
            schedules: Any = self.module.lr_schedulers() or []
            for schedule in schedules if isinstance(schedules, list) else [schedules]:
                schedule.step()

    @torch.compiler.disable
    def _step(self, last: bool = False) -> None:
        """Update all parameters that have a gradient, and delete the gradients.

        ``global_step`` counts the steps of Lightning's optimiser wrapper, and is to count one for each batch. So only
        the last step goes through the wrapper. The others go through the strategy, which also takes care of precision
        and of the hooks before a step.
        """
        if self.averages:
            self.averages.wait()
            self.averages = None
        optimizer: Any = self.module.optimizers()
        if last:
            optimizer.step()
        else:
            self.module.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        optimizer.zero_grad()

    def log(self, losses: list[Tensor], logits: Tensor | None, y: Tensor) -> None:
        """Log the loss of each block and of the output layer, their sum, and the accuracy.

        ``losses`` are those of this process, and ``logits`` those of the output layer if this process has it.
        """
        if not logs_now(self.module.trainer):  # in a pipeline, processes wait for each other here
            return
        metrics = losses if logits is None else [*losses, accuracy(logits, y)]
        *losses, right = self.pipeline.gather_metrics(metrics) if self.pipeline else metrics
        names = [*(f"block_{number}" for number in range(len(losses) - 1)), "output"]
        log_training(self.module, **dict(zip(names, losses, strict=True)), loss=torch.stack(losses).sum(), acc=right)

    def check_trainer(self) -> None:
        """Raise ``ValueError`` for clipping, accumulation or sharded parameters together with "blockwise"."""
        trainer = self.module.trainer
        if not self.blockwise or trainer.state.fn != "fit":
            return
        if trainer.gradient_clip_val is not None:
            raise ValueError(
                "gradient_clip_val with training='blockwise': the norm over all blocks does not exist, because a block "
                "is updated before the next one has gradients. Use training='summed', or no clipping"
            )
        if trainer.accumulate_grad_batches != 1:
            raise ValueError(
                "accumulate_grad_batches with training='blockwise': a block's gradients are freed before the next "
                "block computes. Use training='summed', or a larger batch: similarities need one"
            )
        if not isinstance(trainer.strategy, DDPStrategy | SingleDeviceStrategy):
            raise ValueError(
                f"{type(trainer.strategy).__name__} with training='blockwise': it needs one device, or DDP"
            )
