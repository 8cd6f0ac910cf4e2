"""Domain-adversarial training of neural networks."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.batches import check_images, check_labelled_batch
from ..shared.evaluation import SetMeans, positions
from ..shared.losses import at_least_float32, cross_entropy
from ..shared.nets import channels_last
from ..shared.schedules import logs_now
from .arguments import check_arguments
from .loss import (
    annealing_factor,
    conditional_features,
    domain_coefficient,
    domain_loss,
    entropy_weights,
    reverse_gradient,
)
from .net import COLUMNS, DomainNetwork, start_shallow
from .normalisation import SOURCE, TARGET, choose_domain, has_batch_norm, with_domain_batch_norm
from .pretrained import load_features

Batch = dict[str, Any]


class DANN(LightningModule):
    """A classifier for an unlabelled target domain, with features that do not tell the domains apart.

    Features and label head minimise ``L_y - lambda L_d``, the domain head minimises ``L_d``, in one backward pass
    through a gradient reversal (section 4.2). ``lambda`` and the learning rate follow the share of optimiser
    steps that are done, of all that the trainer will make; a resumed run goes on where it was.

    Batch: ``{"source": (x, y), "target": x}``: images ``(B, *image_shape)`` in [-1, 1], integer labels ``(B,)`` of the
    source, and ``(B', *image_shape)`` of the target. In validation, test and prediction ``(x, y)`` or ``x``; loss and
    accuracy are those of the first loader, the source. No label of the target is ever looked at.

    With several processes each takes the domain loss of its own batch, and gradients are averaged: a step of two
    processes with batches of n equals one of a single process with 2 n, unless there is batch normalisation, dropout or
    ``cdan_e``, whose weights have mean 1 in each process. 16-mixed may leave out a step or two at the start, until
    torch has found a scale for the loss.

    Args:
        num_classes: Number of classes, at least 2; the command line takes it from the data.
        image_shape: ``(channels, height, width)``, or the shape of whatever a sample is; the command line takes it
            from the data.
        network: ``MNIST``, ``SVHN`` or ``GTSRB`` for the columns of the paper's Figure 4, ``Shallow`` for the one
            hidden layer of section 4.1, ``AlexNet`` for Office-31.
        network_args: ``padding`` of the convolutions, ``hidden`` units (Shallow), ``bottleneck`` (AlexNet),
            ``label_hidden`` and ``domain_hidden`` (lists of units of the heads' hidden layers), ``dropout`` of the
            label head.
        adaptation: ``dann``; ``cdan``, where the domain head sees class probabilities times features; ``cdan_e``,
            which weights images by the confidence of their classification, too (Long et al., 2018); ``none``, the
            control: the domain head learns, but hands no gradient back.
        gamma: Steepness of lambda's way from 0 to ``max_coefficient``; None for ``max_coefficient`` throughout.
        max_coefficient: What lambda ends at.
        domain_weight: Multiplies the whole domain loss, for the domain head as for the features.
        normalisation: ``none``; ``joint``, batch normalisation over source and target together; ``per_domain``, with
            statistics and parameters for each: then ``forward`` takes images for the target's.
        random_features: Inputs of the conditional domain head by random maps, instead of all K D products.
        lr: Learning rate at the start.
        momentum: Of SGD.
        weight_decay: L2 penalty on all parameters.
        lr_annealing: Whether the rate falls by ``(1 + 10 p)^-0.75``; not for MNIST and SVHN, in the paper.
        max_norm: Largest l2-norm of the weights of any unit, restored after each step; None for no limit.
        pretrained: File with a state dict for the feature network, such as torchvision's AlexNet, read when a training
            begins; what the network lacks is ignored.
        features_lr_factor: Learning rate of the feature network, as a multiple of ``lr``.

    Raises:
        ValueError: For an argument out of its range, or a network with batch normalisation and ``normalisation`` none.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, ...] = (3, 28, 28),
        network: str = "MNIST",
        network_args: dict[str, Any] | None = None,
        adaptation: str = "dann",
        gamma: float | None = 10.0,
        max_coefficient: float = 1.0,
        domain_weight: float = 1.0,
        normalisation: str = "none",
        random_features: int | None = None,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        lr_annealing: bool = True,
        max_norm: float | None = None,
        pretrained: str | None = None,
        features_lr_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_arguments(self.hparams)
        self.image_shape = tuple(image_shape)
        self.network = self.build_network()
        self.means = SetMeans()

    def build_features(self) -> nn.Module:
        """The feature network G_f, ``(B, *image_shape)`` to ``(B, …)``; override it to train one of your own."""
        h: Any = self.hparams
        heads = ("label_hidden", "domain_hidden", "dropout")
        arguments = {name: value for name, value in (h.network_args or {}).items() if name not in heads}
        return COLUMNS[h.network][0](self.image_shape, h.normalisation != "none", **arguments)

    def build_network(self) -> DomainNetwork:
        """The feature network with the heads of ``network``."""
        h: Any = self.hparams
        extractor = self.build_features()
        if h.normalisation == "none" and has_batch_norm(extractor):
            raise ValueError(
                "the feature network has batch normalisation: choose normalisation='joint' (statistics of source and "
                "target together) or 'per_domain' (of each)"
            )
        _, label_hidden, domain_hidden = COLUMNS[h.network]
        given = h.network_args or {}
        network = DomainNetwork(
            extractor,
            self.image_shape,
            h.num_classes,
            given.get("label_hidden", label_hidden),
            given.get("domain_hidden", domain_hidden),
            conditional=h.adaptation.startswith("cdan"),
            random_features=h.random_features,
            dropout=given.get("dropout", 0.0),
        )
        if h.normalisation == "per_domain":
            network.extractor = with_domain_batch_norm(network.extractor)
        if h.network == "Shallow":
            start_shallow(network)
        channels_last(network)
        return network

    def setup(self, stage: str) -> None:
        """Reads the pretrained features before a training; a checkpoint that it goes on from overwrites them."""
        h: Any = self.hparams
        if stage == "fit" and h.pretrained is not None:
            load_features(self.network.extractor, Path(h.pretrained))
        if stage != "predict":
            choose_domain(self.network, SOURCE)  # what callbacks fit before a test, they fit on the source

    def teardown(self, stage: str) -> None:
        """Back to the target, for which the module is made."""
        choose_domain(self.network, TARGET)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, *image_shape)``."""
        return self.network.label_output(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the label head's last layer sees, ``(B, D)``, of images ``(B, *image_shape)``."""
        return self.network.label_body(self.domain_features(x))

    def domain_features(self, x: Tensor) -> Tensor:
        """What the domain head sees, G_f, ``(B, D')``, of images ``(B, *image_shape)``."""
        return self.network.domain_features(x)

    def domain_logits(self, x: Tensor) -> Tensor:
        """By the domain head, log P(target) - log P(source), ``(B,)``, of images ``(B, *image_shape)``."""
        features = self.domain_features(x)
        return self._domain_logits(features, self._logits(features))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Label loss of the source and domain loss of both."""
        h: Any = self.hparams
        if not (isinstance(batch, dict) and {"source", "target"} <= batch.keys()):
            found = ", ".join(batch) if isinstance(batch, dict) else type(batch).__name__
            raise ValueError(f"a batch is {found}; expected source and target, such as AdaptationDataModule gives")
        (x_s, y_s), x_t = batch["source"], batch["target"]
        log_now = logs_now(self.trainer)
        if log_now or batch_idx == 0 or not x_s.is_cuda:  # on a GPU the check would stall the queue in each step
            check_labelled_batch(x_s, y_s, self.image_shape, h.num_classes)
            check_images(x_t, self.image_shape)
        f_s, f_t = self._features_of_both(x_s, x_t)
        logits_s = self._logits(f_s)
        label_loss = cross_entropy(logits_s, y_s)

        coefficient = self.coefficient()
        f_s, f_t = (f.detach() if h.adaptation == "none" else reverse_gradient(f, coefficient) for f in (f_s, f_t))
        logits_t: Tensor | None = None
        weights: tuple[Tensor | None, Tensor | None] = (None, None)
        if h.adaptation.startswith("cdan"):
            with torch.no_grad():
                logits_t = self._logits(f_t)
            if h.adaptation == "cdan_e":
                weights = entropy_weights(logits_s), entropy_weights(logits_t)
        d_s, d_t = self._domain_logits(f_s, logits_s), self._domain_logits(f_t, logits_t)
        adversarial_loss = domain_loss(d_s, d_t, *weights)
        loss = label_loss + h.domain_weight * adversarial_loss
        if log_now:
            self.log("train/loss", loss)
            self.log("train/label_loss", label_loss)
            self.log("train/domain_loss", adversarial_loss)
            self.log("train/domain_acc", ((d_s < 0).float().mean() + (d_t > 0).float().mean()) / 2)
            self.log("train/coefficient", coefficient)
        return loss

    def _features_of_both(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass, unless each domain has a batch normalisation of its own."""
        if self.hparams["normalisation"] == "per_domain":
            choose_domain(self.network, SOURCE)
            f_s = self.domain_features(x_s)
            choose_domain(self.network, TARGET)
            return f_s, self.domain_features(x_t)
        f_s, f_t = self.domain_features(torch.cat([x_s, x_t])).split([len(x_s), len(x_t)])
        return f_s, f_t

    def _logits(self, features: Tensor) -> Tensor:
        return self.network.label_output(self.network.label_body(features))

    def _domain_logits(self, features: Tensor, logits: Tensor | None) -> Tensor:
        if logits is not None and self.hparams["adaptation"].startswith("cdan"):
            probabilities = at_least_float32(logits.detach()).softmax(1)
            features = conditional_features(features, probabilities, self.network.maps())
        return self.network.domain_head(features).squeeze(1)

    def progress(self) -> float:
        """Share of the training that is done: optimiser steps made, of all that the trainer will make.

        Raises:
            ValueError: When the trainer does not know where it ends.
        """
        step = self.trainer.global_step
        if not step:  # the total must not be asked for before a resumed run has its random state back: see below
            return 0.0
        total = float(self.trainer.estimated_stepping_batches)
        if not 0 < total < float("inf"):
            raise ValueError(f"the training has {total} steps: progress needs to know where it ends; set max_steps")
        return min(step / total, 1.0)

    def coefficient(self) -> float:
        """lambda, by which the next step reverses the gradient."""
        h: Any = self.hparams
        return h.max_coefficient * (1.0 if h.gamma is None else domain_coefficient(self.progress(), h.gamma))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Restores the weights' largest norm, before a checkpoint of this step can be written."""
        super().optimizer_step(*args, **kwargs)
        limit = self.hparams["max_norm"]
        if limit is not None:
            with torch.no_grad():
                for module in self.network.modules():
                    if isinstance(module, nn.Linear | nn.Conv2d):
                        module.weight.copy_(module.weight.renorm(2, 0, limit))

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The second loader is the target's."""
        choose_domain(self.network, TARGET if dataloader_idx == 1 else SOURCE)

    on_test_batch_start = on_validation_batch_start

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Whatever else callbacks run through the module is the source's."""
        choose_domain(self.network, SOURCE)

    on_test_batch_end = on_validation_batch_end

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the source."""
        return {"logits": self._evaluate(batch, batch_idx, "val") if dataloader_idx == 0 else self(batch[0])}

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the source, which comes first."""
        return {"logits": self._evaluate(batch, batch_idx, "test") if dataloader_idx == 0 else self(batch[0])}

    def _evaluate(self, batch: tuple[Tensor, Tensor], batch_idx: int, stage: str) -> Tensor:
        x, y = batch
        check_labelled_batch(x, y, self.image_shape, self.hparams["num_classes"])
        logits = self(x)
        count = len(positions(self.trainer, batch_idx, len(y)))
        counted, y = logits[: count or None], y[: count or None]
        figures = {
            "loss": cross_entropy(counted, y),
            "acc": (counted.argmax(1) == y).float().mean(),
        }
        self.means.log(self, stage, figures, count)
        return logits

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``, the images taken for the target's."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        return self(x).softmax(1)

    def configure_optimizers(self) -> Any:
        """SGD with momentum; the rate falls with the progress, step by step."""
        h: Any = self.hparams
        if self.trainer.max_epochs == -1 and self.trainer.max_steps == -1:
            raise ValueError(
                "max_epochs is -1 without max_steps: lambda and the learning rate follow the share of the training "
                "that is done, so they need to know where it ends; set max_steps"
            )
        groups = [
            {"params": self.network.extractor.parameters(), "lr": h.lr * h.features_lr_factor},
            {"params": [p for name, p in self.network.named_parameters() if not name.startswith("extractor.")]},
        ]
        optimizer = torch.optim.SGD(groups, h.lr, momentum=h.momentum, weight_decay=h.weight_decay)
        if not h.lr_annealing:
            return optimizer
        # Step 0 comes before a resumed run has its random state back, and the trainer's number of steps creates the
        # loaders' iterators, which draw the shuffling: so `progress` asks for it from step 1 on only.
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: annealing_factor(self.progress()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
