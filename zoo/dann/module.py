"""Domain-adversarial training of neural networks."""

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.arguments import check_at_least, check_literals, check_positive
from ..shared.batches import check_images, check_parts
from ..shared.evaluation import SetMeans, class_probabilities, judge_classifier
from ..shared.losses import at_least_float32, cross_entropy
from ..shared.nets import channels_last
from ..shared.schedules import check_classifier_batch, check_is_due, log_training, per_step, total_steps
from .loss import (
    annealing_factor,
    conditional_features,
    domain_coefficient,
    domain_loss,
    entropy_weights,
    reverse_gradient,
)
from .net import COLUMNS, DomainNetwork, check_network, initialise_shallow_heads
from .normalisation import SOURCE, TARGET, choose_domain, has_batch_norm, with_domain_batch_norm
from .pretrained import load_features

Adaptation = Literal["none", "dann", "cdan", "cdan_e"]
Normalisation = Literal["none", "joint", "per_domain"]


class DANN(LightningModule):
    """A classifier for an unlabelled target domain, whose features do not tell the domains apart (Ganin et al. 2016).

    Features and label head minimise ``L_y - lambda L_d``, the domain head minimises ``L_d``, in one backward pass
    through a gradient reversal (section 4.2). ``lambda`` and the learning rate follow the share of optimiser
    steps that are done, of all that the trainer will make; a resumed run goes on where it was.

    Batch: ``{"source": (x, y), "target": x}``: images ``(B, *image_shape)`` in [-1, 1], integer labels ``(B,)`` of the
    source, and ``(B', *image_shape)`` of the target. In validation, test and prediction ``(x, y)`` or ``x``; loss and
    accuracy are those of the first loader, the source. No label of the target is ever used.

    Logs ``loss`` and ``acc``; in training ``loss``, ``label_loss``, ``domain_loss``, ``domain_acc`` and lambda,
    ``coefficient``.

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
        gamma: Steepness of the rise of lambda from 0 to ``max_coefficient``; None for ``max_coefficient`` throughout.
        max_coefficient: Value of lambda at the end of the training.
        domain_weight: Weight of the whole domain loss, for the domain head and the features alike.
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
        adaptation: Adaptation = "dann",
        gamma: float | None = 10.0,
        max_coefficient: float = 1.0,
        domain_weight: float = 1.0,
        normalisation: Normalisation = "none",
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
        check_literals(self)
        check_network(network, network_args or {}, normalisation)
        check_at_least(2, num_classes=num_classes)
        if not image_shape or min(image_shape) < 1:
            raise ValueError(f"image_shape is {tuple(image_shape)}; expected positive sizes")
        names = ("max_coefficient", "domain_weight", "momentum", "weight_decay", "features_lr_factor")
        check_at_least(0, **{name: self.hparams[name] for name in names})
        check_positive(gamma=gamma, lr=lr, max_norm=max_norm, random_features=random_features)
        if random_features is not None and not adaptation.startswith("cdan"):
            raise ValueError(f"random_features={random_features} is for a conditional domain head, not {adaptation!r}")
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
            initialise_shallow_heads(network)
        channels_last(network)
        return network

    def setup(self, stage: str) -> None:
        """Read the pretrained features before a training; a checkpoint that is resumed overwrites them."""
        h: Any = self.hparams
        if stage == "fit" and h.pretrained is not None:
            load_features(self.network.extractor, Path(h.pretrained))
        if stage != "predict":
            choose_domain(self.network, SOURCE)  # on which callbacks fit what they need before a test

    def teardown(self, stage: str) -> None:
        """Return to the target, for which the module is made."""
        choose_domain(self.network, TARGET)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K)`` of images ``(B, *image_shape)``."""
        return self.network.label_output(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the label head's last layer, ``(B, D)``, of images ``(B, *image_shape)``."""
        return self.network.label_body(self.domain_features(x))

    def domain_features(self, x: Tensor) -> Tensor:
        """The features G_f(x), which both heads see, ``(B, D')``, of images ``(B, *image_shape)``."""
        return self.network.domain_features(x)

    def domain_logits(self, x: Tensor) -> Tensor:
        """The domain head's log P(target) - log P(source), ``(B,)``, of images ``(B, *image_shape)``."""
        features = self.domain_features(x)
        return self._domain_logits(features, self._logits(features))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Label loss of the source, and domain loss of both behind the gradient reversal."""
        h: Any = self.hparams
        check_parts(batch, ("source", "target"), "AdaptationDataModule")
        (x_s, y_s), x_t = batch["source"], batch["target"]
        check_classifier_batch(self, (x_s, y_s), batch_idx)
        if check_is_due(self, batch_idx, x_t):
            check_images(x_t, self.image_shape)
        f_s, f_t = self._features_of_both(x_s, x_t)
        logits_s = self._logits(f_s)
        label_loss = cross_entropy(logits_s, y_s)

        coefficient = self.coefficient()
        f_s, f_t = (f.detach() if h.adaptation == "none" else reverse_gradient(f, coefficient) for f in (f_s, f_t))
        logits_t, weights = self._conditions(logits_s, f_t)
        d_s, d_t = self._domain_logits(f_s, logits_s), self._domain_logits(f_t, logits_t)
        adversarial_loss = domain_loss(d_s, d_t, *weights)
        loss = label_loss + h.domain_weight * adversarial_loss
        log_training(self, loss=loss, label_loss=label_loss, domain_loss=adversarial_loss, coefficient=coefficient)
        log_training(self, domain_acc=lambda: ((d_s < 0).float().mean() + (d_t > 0).float().mean()) / 2)
        return loss

    def _conditions(self, logits_s: Tensor, f_t: Tensor) -> tuple[Tensor | None, list[Tensor]]:
        """What CDAN adds to DANN: the target's logits, which its domain head sees, and for CDAN+E both weights."""
        if not self.hparams["adaptation"].startswith("cdan"):
            return None, []
        with torch.no_grad():
            logits_t = self._logits(f_t)
        both = (logits_s, logits_t) if self.hparams["adaptation"] == "cdan_e" else ()
        return logits_t, [entropy_weights(logits) for logits in both]

    def _features_of_both(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Features of source and target, in one pass unless each domain has its own batch normalisation."""
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
        """Share of the training that is done: optimiser steps made, of all that the trainer will make."""
        return min(self.trainer.global_step / total_steps(self.trainer), 1.0)

    def coefficient(self) -> float:
        """Lambda, the factor with which the next step reverses the gradient."""
        h: Any = self.hparams
        return h.max_coefficient * (1.0 if h.gamma is None else domain_coefficient(self.progress(), h.gamma))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then restore the largest norm of the weights, before a checkpoint of this step can be written."""
        super().optimizer_step(*args, **kwargs)
        if self.hparams["max_norm"] is not None:
            self.network.limit_norms(self.hparams["max_norm"])

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Choose the domain of the loader: the second one is the target's."""
        choose_domain(self.network, TARGET if dataloader_idx == 1 else SOURCE)

    on_test_batch_start = on_validation_batch_start

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Return to the source's statistics, which callbacks use between batches."""
        choose_domain(self.network, SOURCE)

    on_test_batch_end = on_validation_batch_end

    def validation_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the source, which comes first."""
        return judge_classifier(self, "val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; loss and accuracy on the source, which comes first."""
        return judge_classifier(self, "test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``; the images are taken as the target's."""
        return class_probabilities(self, batch)

    def configure_optimizers(self) -> Any:
        """SGD with momentum; the learning rate falls with the progress, step by step."""
        h: Any = self.hparams
        groups = [
            {"params": self.network.extractor.parameters(), "lr": h.lr * h.features_lr_factor},
            {"params": [p for name, p in self.network.named_parameters() if not name.startswith("extractor.")]},
        ]
        optimizer = torch.optim.SGD(groups, h.lr, momentum=h.momentum, weight_decay=h.weight_decay)
        return per_step(optimizer, lambda _: annealing_factor(self.progress())) if h.lr_annealing else optimizer
