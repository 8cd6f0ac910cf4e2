"""Local error signals: every block learns from a loss of its own."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn

from ..shared.batches import check_labelled_batch
from ..shared.evaluation import SetMeans, positions
from ..shared.nets import channels_last
from ..shared.schedules import logs_now
from .heads import LocalHead, LossName
from .loss import prediction_loss
from .net import LocalNetwork, make_blocks
from .pipeline import PipelineStrategy
from .processes import Average, learnt_from_batch

Training = Literal["blockwise", "summed", "global"]
Pairs = Literal["local", "global"]


class LocalErrorSignals(LightningModule):
    """Layer-wise training with local losses (Nøkland and Eidnes 2019).

    Each block's input is detached, so its loss trains that block and nothing else; the output layer learns from
    cross-entropy on detached features. Batch: ``(x, y)`` with images ``(B, C, H, W)`` and integer labels ``(B,)``.

    One Adam serves all blocks: it leaves parameters without a gradient alone, so a step after each block's backward
    pass is the step of an optimiser of that block's own, and "blockwise" and "summed" runs end in the same state.
    ``trainer.global_step``, and with it ``max_steps`` and checkpoints every n steps, counts batches.

    On several processes "blockwise" averages the gradients of a block while the next one computes; it needs one device
    or DDP. Batch normalisation sees its own process' batch, unless ``--trainer.sync_batchnorm true``, and similarities
    compare its samples, unless ``similarity_pairs`` is global: so a step of two processes with batches of n is not that
    of one with 2 n. With ``PipelineStrategy`` each process has some of the blocks instead. 16-mixed may leave out a
    block's first step, until torch has found a scale for the loss; `torch.compile` leaves the backward passes and steps
    of "blockwise" as they are.

    Args:
        num_classes: Number of classes, at least 2; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.
        network: ``MLP``, ``VGG8B``, ``VGG11B``, ``VGG`` with layers of your own, ``ResNet18``, ``ResNet34``, ``ResNet``
            or ``WideResNet``.
        network_args: Further arguments of that network, for example ``{width: 2}`` for VGG8B, or
            ``{hidden: [3000, 3000, 3000]}`` for MLP.
        loss: The local loss: a local classifier's (pred), similarity matching (sim), both (predsim), and the same
            without back-propagation through the heads (-bpf).
        beta: Weight of similarity matching in predsim; by default the paper's: 0.99, and 0.01 for predsim-bpf.
        max_dim: Largest number of features of a local classifier, to which maps are pooled.
        dropout: Probability after each block.
        lr: Adam's learning rate.
        milestones: Epochs at whose start the rate is multiplied by ``gamma``; the paper's lie at 1/2, 3/4, 7/8 and
            15/16 of the run.
        gamma: See ``milestones``.
        training: ``blockwise``: each block is updated in the forward sweep, and its graph freed before the next block
            computes. ``summed``: one backward pass of the sum of the local losses, the same weights to the last bit.
            ``global``: plain back-propagation of cross-entropy on the same network without heads, the baseline.
        similarity_pairs: On several processes, whether the similarity compares the samples of one process (``local``)
            or of all (``global``).

    Raises:
        ValueError: For a value that is none of the choices or out of its range, or a network that does not fit the
            images.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (1, 8, 8),
        network: str = "MLP",
        network_args: dict[str, Any] | None = None,
        loss: LossName = "predsim",
        beta: float | None = None,
        max_dim: int = 4096,
        dropout: float = 0.0,
        lr: float = 5e-4,
        milestones: list[int] = [50, 75, 89, 94],  # noqa: B006  the help shows it; it is never changed
        gamma: float = 0.25,
        training: Training = "blockwise",
        similarity_pairs: Pairs = "local",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_shape = image_shape
        for argument, value, choices in (
            ("loss", loss, LossName), ("training", training, Training), ("similarity_pairs", similarity_pairs, Pairs),
        ):  # fmt: skip
            if value not in get_args(choices):
                raise ValueError(f"{argument} is {value!r}; expected one of {', '.join(get_args(choices))}")
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; a classifier needs at least 2 classes")
        if beta is not None and not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}; expected a weight in [0, 1]")
        self.automatic_optimization = training != "blockwise"
        self.beta = (0.01 if loss == "predsim-bpf" else 0.99) if beta is None else beta
        make_head = None if training == "global" else self.make_head
        self.network = LocalNetwork(self.build_blocks(), image_shape, num_classes, make_head)
        channels_last(self.network)
        self._averages: Average | None = None  # of the block before, under way
        self.means = SetMeans()

    def build_blocks(self) -> list[nn.Module]:
        """The blocks, each a module that maps a batch to a batch; override it to train blocks of your own."""
        h: Any = self.hparams
        # The paper's runs: ReLU for back-propagation and for local classifiers alone, leaky ReLU for similarities.
        slope = 0.0 if h.training == "global" or h.loss in ("pred", "pred-bpf") else 0.01
        return [*make_blocks(h.network, self.image_shape, h.dropout, slope, **(h.network_args or {}))]

    def make_head(self, shape: tuple[int, ...]) -> nn.Module:
        """The local head of a block whose output has this shape for each sample; override it for losses of your own."""
        h: Any = self.hparams
        return LocalHead(shape, h.num_classes, h.loss, self.beta, h.max_dim, h.similarity_pairs == "global")

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, C, H, W)``, without the local heads."""
        return self.network(x)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, D)`` of images ``(B, C, H, W)``."""
        return self.network.features(x)

    def block_features(self, x: Tensor) -> list[Tensor]:
        """The features ``[h_1, ..., h_L]`` that the local losses see, each ``(B, ...)``, without gradient."""
        found = []
        for block in self.network.blocks:
            hidden = block(x)
            found.append(hidden.detach())
            x = block.hand_on(hidden, x)
        return found

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One sweep through the blocks; the loss is the sum of all of them."""
        x, y = batch
        log_now, pipeline = logs_now(self.trainer), self._pipeline()
        if pipeline and pipeline.global_rank:
            x, y = pipeline.receive()
        elif log_now or batch_idx == 0 or not x.is_cuda:  # on a GPU the check would stall the queue in each step
            check_labelled_batch(x, y, self.image_shape, self.hparams["num_classes"])
        if self.hparams["training"] == "global":
            logits = self(x)
            losses = [prediction_loss(logits, y)]
        else:
            logits, losses = self._sweep(x, y)
        if log_now:
            figures = losses if logits is None else [*losses, (logits.argmax(1) == y).float().mean()]
            *losses, accuracy = pipeline.figures(figures) if pipeline else figures
            names = [*(f"block_{number}" for number in range(len(losses) - 1)), "output"]
            self.log_dict({f"train/{name}": loss for name, loss in zip(names, losses, strict=True)})
            self.log("train/loss", torch.stack(losses).sum())
            self.log("train/acc", accuracy)
        return torch.stack(losses).sum()

    def _sweep(self, x: Any, y: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The logits, and each local loss with the output layer's at the end; "blockwise" learns on the way.

        In a pipeline, those of this process; it has logits where it has the output layer.
        """
        network, pipeline, losses = self.network, self._pipeline(), []
        own = pipeline.own if pipeline else range(len(network.blocks))
        for number in own:
            block, head = network.blocks[number], network.heads[number]
            hidden = block(x)
            x = block.hand_on(hidden.detach(), x)
            leaves = number + 1 == own.stop < len(network.blocks)
            if pipeline and leaves:  # before this block learns: the next process may be waiting for it
                pipeline.send(x, y)
            loss = head(hidden, y)
            del hidden  # one map less while the block learns
            losses.append(self._learn(loss, block, head, last=leaves))
            del loss  # with what is left of its graph
        logits = None
        if own.stop == len(network.blocks):
            logits = network.classify(x)
            # The official code's factor; Adam is indifferent to it.
            weight = 1 - self.beta if self.hparams["loss"].startswith("predsim") else 1.0
            losses.append(self._learn(weight * prediction_loss(logits, y), network.output, last=True))
        if self.hparams["training"] == "blockwise":
            self._step(last=True)
            if self.trainer.is_last_batch:  # before anything is saved, as Lightning does where it steps by itself
                schedules: Any = self.lr_schedulers() or []
                for schedule in schedules if isinstance(schedules, list) else [schedules]:
                    schedule.step()
        return logits, losses

    @torch.compiler.disable  # else it would compile Lightning's manual optimisation, too, for nothing
    def _learn(self, loss: Tensor, *modules: nn.Module, last: bool) -> Tensor:
        """In "blockwise", backward and step of some modules, whose loss is all that has a graph; returns the loss.

        The last step of a batch is left to the caller.
        """
        if self.hparams["training"] != "blockwise":
            return loss
        if self._averages:  # of the block before: they had this block's forward pass to arrive
            self._step()
        # Lightning calls this step under autocast, which would also round the float32 parts of the backward pass.
        with self._own_reduction(), torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)
        if self.trainer.world_size > 1 and not self._pipeline():
            self._averages = Average(learnt_from_batch(modules))
        elif not last:
            self._step()
        return loss.detach()

    @torch.compiler.disable
    def _step(self, last: bool = False) -> None:
        """Update whatever has a gradient, and let go of the gradients; the last step of a batch is the one that counts.

        ``global_step`` counts the steps of Lightning's wrapper, so the others go to the strategy directly, which does
        for them what the wrapper would: precision, and the hooks before a step.
        """
        if self._averages:
            self._averages.wait()
            self._averages = None
        optimizer: Any = self.optimizers()
        if last:
            optimizer.step()
        else:
            self.trainer.strategy.optimizer_step(optimizer.optimizer, lambda: None)
        optimizer.zero_grad()

    def _pipeline(self) -> PipelineStrategy | None:
        """The strategy, where each process has blocks of its own."""
        strategy = self.trainer.strategy if self.hparams["training"] == "blockwise" else None
        return strategy if isinstance(strategy, PipelineStrategy) else None

    def _own_reduction(self) -> AbstractContextManager[None]:
        """DDP's reduction switched off, see ``processes.py``."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, DDPStrategy) else nullcontext()

    def configure_callbacks(self) -> list[Any]:
        """Nothing; but it is the last hook before Lightning refuses clipping in its own words, which give no reason.

        Raises:
            ValueError: For clipping, accumulation or sharded parameters together with "blockwise".
        """
        trainer = self.trainer
        if self.automatic_optimization or trainer.state.fn != "fit":
            return []
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
        return []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Cross-entropy and accuracy of the output layer on the validation set."""
        self._evaluate(batch, batch_idx, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the in-distribution set, which comes first."""
        return {"logits": self._evaluate(batch, batch_idx, "test") if dataloader_idx == 0 else self(batch[0])}

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> Tensor:
        x, y = batch
        check_labelled_batch(x, y, self.image_shape, self.hparams["num_classes"])
        logits = self(x)
        count = len(positions(self.trainer, batch_idx, len(y)))
        counted, y = logits[: count or None], y[: count or None]
        figures = {
            "loss": prediction_loss(counted, y),
            "acc": (counted.argmax(1) == y).float().mean(),
        }
        self.means.log(self, stage, figures, count)
        return logits

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        return self(x).softmax(1)

    def configure_optimizers(self) -> Any:
        """One Adam over all blocks, heads and the output layer; the rate falls at the milestones."""
        h: Any = self.hparams
        optimizer = torch.optim.Adam(self.parameters(), h.lr)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, h.milestones, h.gamma)]
