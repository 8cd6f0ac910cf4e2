"""JEM: a classifier whose logits are also an energy-based model of the images."""

from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.batches import check_images, check_labelled_batch, check_parts
from ..shared.evaluation import SetMeans, class_probabilities, judge_classifier
from ..shared.losses import accuracy, cross_entropy
from ..shared.nets import build_network
from ..shared.schedules import log_training, per_step
from .arguments import check_arguments
from .chains import Chains
from .initialisation import fit_class_gaussians
from .loss import conditional_generative_loss, energy_penalty, generative_loss, log_density, log_odds_of_error
from .persistence import collect_state, load_state, restore_state
from .recovery import Losses, Recovery, repeat_until_healthy, take_snapshot_if_due
from .sampler import sgld
from .schedule import epoch_of_step, learning_rate_factor


class JEM(LightningModule):
    """A joint energy-based model (Grathwohl et al. 2020): a classifier that models its images too, and can draw them.

    Maximises ``log p(x) + log p(y|x)``, the former with samples from Langevin chains that persist in a replay memory.

    Batch: ``{"labelled": (x, y), "unlabelled": x}``, two different minibatches as in the official run, or ``(x, y)``:
    then one half of it serves p(x) and the other p(y|x), unless ``shared_batch``. Images ``(B, C, H, W)`` in [-1, 1].

    Logs in training ``loss``; its parts ``pyx``, ``px`` and ``pxy``; ``acc``; ``log_density``, the mean LSE of the data
    in nats; ``energy_gap``, the mean LSE of data minus that of samples, near 0 in healthy training; ``out_of_range``,
    the share of sample pixels outside [-1, 1]; ``recoveries`` from divergence. In validation and test ``loss`` (the
    cross-entropy), ``acc`` and ``log_density``, on images without dequantisation noise.

    The replay memory belongs to its process: ``memory_size`` slots are shared out over the processes, the checkpoint
    holds all of them, and a resume with another number of processes shares them out anew. Each process runs chains and
    draws noise of its own, so a step of two processes with batches of n is not that of one with 2 n.

    Args:
        num_classes: Number of classes; the command line takes it from the data.
        image_shape: ``(channels, height, width)``; the command line takes it from the data.
        network: Name of a class of ``zoo.shared.nets``.
        network_args: Further arguments of that class.
        weight_px: Weight of ``-log p(x)``.
        weight_pyx: Weight of ``-log p(y|x)``, the cross-entropy.
        weight_pxy: Weight of ``-log p(x|y)``.
        shared_batch: Use all of an ``(x, y)`` batch for every term: a third less work, another gradient.
        class_conditional: Draw a label for each chain and ascend ``f(x)[y]``; the memory is partitioned by class.
        sgld_steps: Steps of each chain in one training step.
        step_size: Factor of the gradient in a step.
        noise_std: Standard deviation of the noise in a step.
        gradient_clip: Clamp the chain's gradient elementwise; 1 is the proximal SGLD of JEM++.
        clamp_samples: Clamp the chain to [-1, 1] after each step, as JEM++ does.
        memory_size: Slots of the replay memory over all processes; 0 starts every chain anew.
        reinit_probability: Probability that a chain starts anew.
        initialisation: Where chains start: ``uniform`` noise, or ``informative`` class Gaussians (JEM++), fitted to one
            pass over the training batches. Batch normalisation is allowed with the latter only, which adds K x D x D
            numbers for D pixels to each checkpoint: 0.4 GB for CIFAR-10, 4 GB for CIFAR-100.
        dequantisation_std: Standard deviation of the noise added to training images, in units of [-1, 1].
        penalty: Weight of the energy penalty.
        chain_precision: Precision of the network inside the chains; their state stays float32.
        optimizer: ``adam`` or ``sgd`` with momentum 0.9.
        lr: Learning rate after warm-up.
        weight_decay: L2 penalty.
        warmup_steps: Steps of linear warm-up from 0.
        decay_epochs: Epochs at whose start the learning rate is multiplied by ``decay_rate``.
        decay_rate: See ``decay_epochs``.
        max_energy_gap: Widest ``|mean LSE(data) - mean LSE(samples)|`` in nats that is not yet divergence.
        max_out_of_range: Largest share of sample pixels beyond 3 that is not yet divergence.
        max_recoveries: Recoveries from divergence before training gives up.
        snapshot_every_n_steps: Steps between the good states that a recovery returns to; checkpoints hold two.

    Raises:
        ValueError: For a value out of its range, no generative term, both kinds of chains on one memory, or batch
            normalisation with uniform starts.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_shape: tuple[int, int, int] = (3, 32, 32),
        network: str = "WideResNet",
        network_args: dict[str, Any] | None = None,
        weight_px: float = 1.0,
        weight_pyx: float = 1.0,
        weight_pxy: float = 0.0,
        shared_batch: bool = False,
        class_conditional: bool = False,
        sgld_steps: int = 20,
        step_size: float = 1.0,
        noise_std: float = 0.01,
        gradient_clip: float | None = None,
        clamp_samples: bool = False,
        memory_size: int = 10000,
        reinit_probability: float = 0.05,
        initialisation: Literal["uniform", "informative"] = "uniform",
        dequantisation_std: float = 0.03,
        penalty: float = 0.0,
        chain_precision: Literal["float32", "bfloat16"] = "float32",
        optimizer: Literal["adam", "sgd"] = "adam",
        lr: float = 1e-4,
        weight_decay: float = 0.0,
        warmup_steps: int = 1000,
        decay_epochs: list[int] = [160, 180],  # noqa: B006  the help shows it; it is never changed
        decay_rate: float = 0.3,
        max_energy_gap: float = 1e3,
        max_out_of_range: float = 0.1,
        max_recoveries: int = 5,
        snapshot_every_n_steps: int = 500,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.image_shape = image_shape
        self.network: Any = self.build_network()
        check_arguments(self)
        bounds = (-1.0, 1.0) if clamp_samples else None
        sampler = partial(sgld, step_size=step_size, noise_std=noise_std, gradient_clip=gradient_clip, bounds=bounds)
        dtype = torch.bfloat16 if chain_precision == "bfloat16" else torch.float32
        self.chains = Chains(image_shape, num_classes, sampler, reinit_probability, dtype)
        self.recovery = Recovery()
        self.means = SetMeans()
        self._restored: dict[str, Any] = {}  # the state of a loaded checkpoint, until training goes on

    def build_network(self) -> nn.Module:
        """The network, with ``forward`` and ``features``; override it to train one of your own."""
        h: Any = self.hparams
        return build_network(h.network, self.image_shape, h.num_classes, **(h.network_args or {}))

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``f(x)`` of shape ``(B, K)`` for images ``(B, C, H, W)``."""
        return self.network(x)

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features ``(B, D)``."""
        return self.network.features(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step of the paper's Algorithm 1; the README of this folder lists its steps with the same numbers.

        Raises:
            ValueError: For a batch of another shape, NaN pixels, or labels out of range.
            RuntimeError: After ``max_recoveries`` recoveries.
        """
        x_p, x_l, y_l = self._minibatches(batch)  # 1: images and labels
        loss, metrics, drawn = repeat_until_healthy(self, lambda: self._losses(x_p, x_l, y_l))  # 2 to 6
        for samples, slots in drawn:
            self.chains.write(slots, samples)  # 8
        log_training(self, loss=loss, **metrics)
        return loss  # 7: Lightning takes its gradient

    def _minibatches(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """``x_p`` and ``(x_l, y_l)``, with dequantisation noise; one tensor serves as both if the batch is shared."""
        if isinstance(batch, dict):
            check_parts(batch, ("labelled", "unlabelled"), "SemiSupervisedDataModule")
            x_p, (x_l, y_l) = batch["unlabelled"], batch["labelled"]
        elif self.hparams["shared_batch"] or self.hparams["weight_px"] == 0 or len(batch[0]) < 2:
            (x_l, y_l), x_p = batch, batch[0]
        else:
            x, y = batch
            half = len(x) // 2
            x_p, x_l, y_l = x[:half], x[half:], y[half:]
        # In each step, though a GPU waits for it: NaN pixels must not be taken for divergence.
        check_labelled_batch(x_l, y_l, self.image_shape, self.hparams["num_classes"])
        check_images(x_p, self.image_shape)
        shared = x_p is x_l
        x_l = self._dequantise(x_l)
        return (x_l if shared else self._dequantise(x_p)), x_l, y_l

    def _dequantise(self, x: Tensor) -> Tensor:
        noise = torch.empty_like(x).normal_(generator=self.chains.generator)
        return x.add(noise, alpha=self.hparams["dequantisation_std"])

    def _losses(self, x_p: Tensor, x_l: Tensor, y_l: Tensor) -> Losses:
        """Steps 2 to 6 of Algorithm 1; as in the official code ``x_p`` is for p(x) and ``(x_l, y_l)`` for the rest."""
        h: Any = self.hparams
        steps = h.sgld_steps * self.recovery.escalation.steps
        penalty = h.penalty + self.recovery.escalation.penalty
        drawn = []  # 3 and 4: start the chains, run them
        if h.weight_px > 0:
            labels = self.chains.random_labels(len(x_p)) if h.class_conditional else None
            drawn.append(self.chains.draw(self.network, len(x_p), labels, steps))
        if h.weight_pxy > 0:
            drawn.append(self.chains.draw(self.network, len(x_l), y_l, steps))
        # One pass for each minibatch: one over all images at once is a little slower on a CPU
        # (benchmarks/jem/step_time.py), and batch statistics forbid it.
        f_l = self(x_l)
        f_q = [self(samples.to(x_l.dtype)) for samples, _ in drawn]
        parts = {"acc": accuracy(f_l, y_l)}
        loss = f_l.new_zeros((), dtype=torch.float32)
        if h.weight_pyx > 0:
            parts["pyx"] = cross_entropy(f_l, y_l)  # 2
            loss = loss + h.weight_pyx * parts["pyx"]
        if h.weight_px > 0:
            f_p = f_l if x_p is x_l else self(x_p)
            parts["log_density"] = log_density(f_p.detach()).mean()
            parts["px"] = generative_loss(f_p, f_q[0])  # 5
            loss = loss + h.weight_px * parts["px"] + penalty * energy_penalty(f_p, f_q[0])  # 6
        if h.weight_pxy > 0:
            parts["pxy"] = conditional_generative_loss(f_l, f_q[-1], y_l)
            loss = loss + h.weight_pxy * parts["pxy"] + penalty * energy_penalty(f_l, f_q[-1])
        gaps = torch.stack([-parts[name].detach() for name in ("px", "pxy") if name in parts])
        return loss, gaps, parts, drawn

    def configure_optimizers(self) -> Any:
        """Adam, or SGD with momentum, with warm-up and decay that are stepped with the optimiser."""
        h: Any = self.hparams
        if h.optimizer == "sgd":
            optimizer: Any = torch.optim.SGD(self.parameters(), h.lr, momentum=0.9, weight_decay=h.weight_decay)
        else:
            optimizer = torch.optim.Adam(self.parameters(), h.lr, weight_decay=h.weight_decay)

        def factor(step: int) -> float:
            epoch = epoch_of_step(self.trainer, step)
            rate = learning_rate_factor(step, epoch, h.warmup_steps, h.decay_epochs, h.decay_rate)
            return rate * self.recovery.escalation.learning_rate

        return per_step(optimizer, factor)

    def on_train_start(self) -> None:
        """Fill this process' share of the replay memory with new starts, or take it from the loaded checkpoint.

        Raises:
            ValueError: When the memory cannot be shared out evenly over classes and processes.
        """
        h: Any = self.hparams
        size, processes = h.memory_size, self.trainer.world_size
        if size % (h.num_classes * processes):
            raise ValueError(
                f"memory_size is {size}; expected a multiple of {h.num_classes} classes x {processes} processes"
            )
        self.chains.seed(0, self.global_rank, self.device)
        restore_state(self._restored, self, self.chains, self.recovery)
        self._restored = {}
        if h.initialisation == "informative" and self.chains.gaussians is None:
            self.chains.gaussians = fit_class_gaussians(self.trainer, self.image_shape, h.num_classes)
        if size and self.chains.memory is None:
            self.chains.fill_memory(size // processes, self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep a good state to go back to; here, because the end of a batch comes after its checkpoint."""
        take_snapshot_if_due(self)

    def on_train_end(self) -> None:
        """Let go of the good states."""
        self.recovery.forget()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add memory, random states, Gaussians and recoveries; or, if not trained since, those that were loaded."""
        checkpoint["jem"] = self._restored or collect_state(self, self.chains, self.recovery)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the checkpoint's state until training goes on; until then samples are drawn from its memory."""
        self._restored = load_state(checkpoint, self.chains)

    def report_notes(self) -> dict[str, Any]:
        """Lines for a report about this run: its recoveries from divergence and their effect."""
        return self.recovery.notes(self._restored.get("recoveries", 0))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log cross-entropy, accuracy and density of the validation set."""
        judge_classifier(self, "val", batch, batch_idx, log_density=log_density)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Logits for the callbacks; the metrics of the in-distribution set, which comes first, are logged."""
        return judge_classifier(self, "test", batch, batch_idx, dataloader_idx, log_density=log_density)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        return class_probabilities(self, batch)

    def ood_scores(self, x: Tensor) -> dict[str, Tensor]:
        """The three scores ``(B,)`` of the paper's section 5.3, turned so that larger is more out-of-distribution.

        For images ``(B, C, H, W)``: ``log_density`` is ``-log p(x)``, ``max_probability`` the log-odds that
        ``max p(y|x)`` is wrong, and ``approximate_mass`` the norm of the gradient of ``log p(x)`` in x.
        """

        def total(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = self(images)
            return log_density(logits).sum(), logits

        # before torch 2.12, torch.func.grad silently gives zeros in inference mode
        with torch.inference_mode(False), torch.no_grad():
            gradient, logits = torch.func.grad(total, has_aux=True)(x)
        return {
            "log_density": -log_density(logits),
            "max_probability": log_odds_of_error(logits),
            "approximate_mass": gradient.flatten(1).norm(dim=1),
        }

    def sample(self, n: int, label: int | None = None, steps: int | None = None) -> Tensor:
        """Draw images: chains from the replay memory, run a little further; the memory stays as it is.

        With a label the chains ascend ``f(x)[label]`` from memory images that the network gives that label. What the
        memory cannot supply starts anew and runs for as long as an average chain lives. Uses the global random state.

        Args:
            n: Number of images, at least 1.
            label: A class, or None for samples of p(x).
            steps: SGLD steps, by default those of a training step.

        Returns:
            ``(n, C, H, W)`` in [0, 1], without gradient.

        Raises:
            ValueError: When n is not positive or the label is out of range.
        """
        h: Any = self.hparams
        if n < 1 or (label is not None and not 0 <= label < h.num_classes):
            raise ValueError(f"sample got n={n} and label={label}; expected n >= 1 and a label below {h.num_classes}")
        labels = None if label is None else torch.full((n,), label, device=self.device)
        with torch.no_grad():
            memory = self._restored.get("memory", self.chains.images)
            if memory is None:
                memory = torch.empty(0, *self.image_shape)
            elif label is not None:
                partitioned = h.class_conditional or h.weight_pxy > 0
                memory = self.chains.images_of_class(self.network, memory, label, partitioned)
            x = memory[torch.randperm(len(memory))[:n].to(memory.device)].to(self.device)
            if missing := n - len(x):
                some = None if labels is None else labels[:missing]
                steps_of_a_slot = round(h.sgld_steps / max(h.reinit_probability, 0.05)) if h.memory_size else 0
                start = self.chains.start(missing, some, self.device, None)
                x = torch.cat([x, self.chains.run(self.network, start, some, steps_of_a_slot, None)])
            x = self.chains.run(self.network, x, labels, h.sgld_steps if steps is None else steps, None)
            return x.add_(1).div_(2).clamp_(0, 1)
