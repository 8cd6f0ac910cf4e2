"""Local error signals: every block learns from a loss of its own."""

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.arguments import check_at_least, check_literals, check_share
from ..shared.evaluation import SetMeans, class_probabilities, judge_classifier
from ..shared.nets import channels_last
from .heads import LocalHead, LossName
from .loss import prediction_loss
from .net import LocalNetwork, make_blocks
from .updates import Updates

Training = Literal["blockwise", "summed", "global"]
Pairs = Literal["local", "global"]


class LocalErrorSignals(LightningModule):
    """A classifier each block of which is trained by a loss of its own (Nøkland and Eidnes 2019).

    The input of each block is detached, so that its loss trains that block alone; the output layer learns from
    cross-entropy on detached features. Batch: ``(x, y)`` with images ``(B, C, H, W)`` and integer labels ``(B,)``.

    Logs ``loss`` and ``acc``: in validation and test the cross-entropy of the output layer, in training the sum of all
    losses, beside the loss of each block, ``block_<number>``, and of the output layer, ``output``.

    One Adam serves all blocks. It leaves parameters without a gradient alone, so a step after each block's backward
    pass equals that of an optimiser for this block, and "blockwise" and "summed" runs end in the same state.
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
        check_literals(self)
        check_at_least(2, num_classes=num_classes)
        check_share(beta=beta)
        self.automatic_optimization = training != "blockwise"
        self.beta = (0.01 if loss == "predsim-bpf" else 0.99) if beta is None else beta
        make_head = None if training == "global" else self.make_head
        self.network = LocalNetwork(self.build_blocks(), image_shape, num_classes, make_head)
        channels_last(self.network)
        self.updates = Updates(self)
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
        features = []
        for block in self.network.blocks:
            hidden = block(x)
            features.append(hidden.detach())
            x = block.hand_on(hidden, x)
        return features

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """One sweep through the blocks; returns the sum of their losses and the output layer's."""
        x, y = self.updates.take(batch, batch_idx)
        if self.hparams["training"] == "global":
            logits = self(x)
            losses = [prediction_loss(logits, y)]
        else:
            logits, losses = self._sweep(x, y)
        self.updates.log(losses, logits, y)
        return torch.stack(losses).sum()

    def _sweep(self, x: Any, y: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """The logits, and each local loss with the output layer's at the end; "blockwise" learns on the way.

        In a pipeline, those of this process, which has logits if it has the output layer.
        """
        losses, logits = [], None
        for number in self.updates.own:
            block, head = self.network.blocks[number], self.network.heads[number]
            hidden = block(x)
            x = block.hand_on(hidden.detach(), x)
            self.updates.hand_over(number, x, y)  # before this block learns: the next process may be waiting for it
            loss = head(hidden, y)
            del hidden  # one map less while the block learns
            losses.append(self.updates.learn(loss, block, head))
            del loss  # with what is left of its graph
        if self.updates.own_output:
            logits = self.network.classify(x)
            # The official code's factor; Adam is indifferent to it.
            weight = 1 - self.beta if self.hparams["loss"].startswith("predsim") else 1.0
            losses.append(self.updates.learn(weight * prediction_loss(logits, y), self.network.output))
        self.updates.finish()
        return logits, losses

    def configure_callbacks(self) -> list[Any]:
        """No callbacks: this is the last hook before Lightning refuses clipping with a message that gives no reason."""
        self.updates.check_trainer()
        return []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log cross-entropy and accuracy of the output layer on the validation set."""
        judge_classifier(self, "val", batch, batch_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the in-distribution set, which comes first."""
        return judge_classifier(self, "test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        return class_probabilities(self, batch)

    def configure_optimizers(self) -> Any:
        """One Adam over all blocks, heads and the output layer; the rate falls at the milestones."""
        h: Any = self.hparams
        optimizer = torch.optim.Adam(self.parameters(), h.lr)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, h.milestones, h.gamma)]
