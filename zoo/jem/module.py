"""JEM: a classifier whose logits are also an energy-based model of the images."""

import math
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ..shared.batches import check_labelled_batch
from ..shared.evaluation import SetMeans, positions
from ..shared.losses import cross_entropy
from ..shared.nets import build_network
from ..shared.schedules import logs_now
from .arguments import check_arguments, check_parts
from .chains import Chains
from .initialisation import ClassGaussians, fit_class_gaussians
from .loss import conditional_generative_loss, energy_penalty, generative_loss, log_density, log_odds_of_error
from .recovery import Recovery, diverged
from .schedule import learning_rate_factor


class JEM(LightningModule):
    """Joint energy-based model (Grathwohl et al. 2020): maximises ``log p(x) + log p(y|x)``.

    Batch: ``{"labelled": (x, y), "unlabelled": x}``, two different minibatches as in the official run, or ``(x, y)``:
    then one half of it serves p(x) and the other p(y|x), unless ``shared_batch``. Images ``(B, C, H, W)`` in [-1, 1].

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
        ValueError: For a value that is none of the choices or out of its range, no generative term, both kinds of
            chains on one memory, or batch normalisation with uniform starts.
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
        self.means = SetMeans()
        batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.network.modules())
        check_arguments(self.hparams, batch_norm)
        self.recovery = Recovery()
        self._restored: dict[str, Any] = {}  # from a checkpoint, until training goes on
        self.chains = Chains(
            self.image_shape,
            num_classes,
            step_size,
            noise_std,
            gradient_clip,
            (-1.0, 1.0) if clamp_samples else None,
            reinit_probability,
            torch.bfloat16 if chain_precision == "bfloat16" else torch.float32,
        )

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

    def ood_scores(self, x: Tensor) -> dict[str, Tensor]:
        """The three scores of the paper's section 5.3, turned so that larger is more out-of-distribution.

        Args:
            x: Images ``(B, C, H, W)``.

        Returns:
            ``log_density``: ``-log p(x)``; ``max_probability``: the log-odds that ``max p(y|x)`` is wrong;
            ``approximate_mass``: the norm of the gradient of ``log p(x)`` in x. Each ``(B,)``.
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
            x = self.chains.stored(
                self.network, self._restored.get("memory"), label, h.class_conditional or h.weight_pxy > 0
            )
            x = x[torch.randperm(len(x))[:n].to(x.device)].to(self.device)
            if missing := n - len(x):
                some = None if labels is None else labels[:missing]
                steps_of_a_slot = round(h.sgld_steps / max(h.reinit_probability, 0.05)) if h.memory_size else 0
                start = self.chains.start(missing, some, self.device, None)
                x = torch.cat([x, self.chains.run(self.network, start, some, steps_of_a_slot, None)])
            x = self.chains.run(self.network, x, labels, h.sgld_steps if steps is None else steps, None)
            return x.add_(1).div_(2).clamp_(0, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One step: run the chains, weigh the terms for one backward; recover where it diverged.

        Raises:
            ValueError: For a batch of another shape, NaN pixels, or labels out of range.
            RuntimeError: After ``max_recoveries`` recoveries.
        """
        x_p, x_l, y_l = self._minibatches(batch)
        check_labelled_batch(x_l, y_l, self.image_shape, self.hparams["num_classes"])
        if not torch.isfinite(x_p.sum()):
            raise ValueError("NaN or infinite pixels in a batch of unlabelled images")
        while True:
            loss, gaps, parts, drawn = self._losses(x_p, x_l, y_l)
            samples = torch.cat([ends for ends, _ in drawn])
            bad = diverged(loss, gaps, samples, self.hparams["max_energy_gap"], self.hparams["max_out_of_range"])
            if not self.trainer.strategy.reduce_boolean_decision(bool(bad), all=False):  # all ranks, or none
                break
            self._recover(float(loss.detach()), float(gaps[0]))
        for ends, slots in drawn:
            if slots is not None:
                self.chains.write(slots, ends)
        if logs_now(self.trainer):
            self.log("train/loss", loss, prog_bar=True)
            outside = (samples.abs() > 1).float().mean()
            parts |= {"train/energy_gap": gaps[0], "train/out_of_range": outside}
            self.log_dict({**parts, "train/recoveries": float(self.recovery.count)})
        return loss

    def _minibatches(self, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """``x_p``, and ``(x_l, y_l)``, with dequantisation noise; one tensor serves as both if the batch is shared."""
        if isinstance(batch, dict):
            check_parts(batch)
            x_p, (x_l, y_l) = batch["unlabelled"], batch["labelled"]
        elif self.hparams["shared_batch"] or self.hparams["weight_px"] == 0 or len(batch[0]) < 2:
            (x_l, y_l), x_p = batch, batch[0]
        else:
            x, y = batch
            half = len(x) // 2
            x_p, x_l, y_l = x[:half], x[half:], y[half:]
        shared = x_p is x_l
        x_l = self._dequantise(x_l)
        return (x_l if shared else self._dequantise(x_p)), x_l, y_l

    def _dequantise(self, x: Tensor) -> Tensor:
        noise = torch.empty_like(x).normal_(generator=self.chains.generator)
        return x.add(noise, alpha=self.hparams["dequantisation_std"])

    def _losses(
        self, x_p: Tensor, x_l: Tensor, y_l: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], list[tuple[Tensor, Tensor | None]]]:
        """The weighted loss, the energy gap of each generative term, the parts, and the chains' ends with their slots.

        The terms of the official code: p(x) on ``x_p`` and chains of their own, p(y|x) and p(x|y) on ``x_l, y_l``.
        """
        h: Any = self.hparams
        steps, penalty = h.sgld_steps * self.recovery.rungs.steps, h.penalty + self.recovery.rungs.penalty
        drawn = []
        if h.weight_px > 0:
            labels = self.chains.random_labels(len(x_p), self.device) if h.class_conditional else None
            drawn.append(self.chains.draw(self.network, len(x_p), labels, steps))
        if h.weight_pxy > 0:
            drawn.append(self.chains.draw(self.network, len(x_l), y_l, steps))
        # One pass for each minibatch: one over all images at once is a little slower on a CPU
        # (benchmarks/speed/step_time.py), and batch statistics forbid it.
        f_l = self(x_l)
        f_q = [self(samples.to(x_l.dtype)) for samples, _ in drawn]
        parts, loss = {"train/acc": (f_l.argmax(1) == y_l).float().mean()}, f_l.new_zeros((), dtype=torch.float32)
        gaps = []
        if h.weight_pyx > 0:
            parts["train/pyx"] = cross_entropy(f_l, y_l)
            loss = loss + h.weight_pyx * parts["train/pyx"]
        if h.weight_px > 0:
            f_p = f_l if x_p is x_l else self(x_p)
            parts["train/px"] = generative_loss(f_p, f_q[0])
            parts["train/log_density"] = log_density(f_p.detach()).mean()
            loss = loss + h.weight_px * parts["train/px"] + penalty * energy_penalty(f_p, f_q[0])
            gaps.append(-parts["train/px"].detach())
        if h.weight_pxy > 0:
            parts["train/pxy"] = conditional_generative_loss(f_l, f_q[-1], y_l)
            loss = loss + h.weight_pxy * parts["train/pxy"] + penalty * energy_penalty(f_l, f_q[-1])
            gaps.append(-parts["train/pxy"].detach())
        return loss, torch.stack(gaps), parts, drawn

    def _recover(self, loss: float, gap: float) -> None:
        """Return to the last good weights and memory with another seed and the next rung."""
        limit = self.hparams["max_recoveries"]
        what = f"JEM diverged at step {self.global_step} (loss {loss:.4g}, energy gap {gap:.4g})"
        if self.recovery.count >= limit:
            raise RuntimeError(
                f"{what} and has recovered {limit} times already (max_recoveries). Train anew, or go on from the last "
                "checkpoint, which is untouched, by JEM.load_from_checkpoint(path, lr=...): with a lower lr, more "
                "sgld_steps, a penalty of 0.1, or gradient_clip=1 with clamp_samples"
            )
        self.recovery.go_back(self.network, self.trainer.optimizers[0], self.chains.images)
        self._seed_chains(self.recovery.count)
        rank_zero_warn(f"{what}: recovery {self.recovery.count} of at most {limit}, now with {self.recovery.rungs}")

    def report_notes(self) -> dict[str, str | float]:
        """What a report should say about this run: recoveries and the rungs they led to."""
        count = max(self.recovery.count, self._restored.get("recoveries", 0))
        changed = {f"{name} after recoveries": value for name, value in self.recovery.rungs._asdict().items()}
        return {"recoveries from divergence": count} | (changed if self.recovery.count else {})

    def _seed_chains(self, salt: int) -> None:
        """A random sequence of its own for each rank, so that no two ranks draw the same noise."""
        self.chains.seed(torch.initial_seed() + 1_000_003 * salt + 7919 * (self.global_rank + 1), self.device)

    def on_train_start(self) -> None:
        """Allocate or restore this process' share of the memory and its random state.

        Raises:
            ValueError: When the memory cannot be shared out evenly over classes and processes.
        """
        world = self.trainer.world_size
        h: Any = self.hparams
        if h.memory_size % (h.num_classes * world):
            raise ValueError(
                f"memory_size is {h.memory_size}; expected a multiple of {h.num_classes} classes x {world} processes"
            )
        self._seed_chains(0)
        self.chains.restore(self._restored, world, self.global_rank, self.device)
        if self._restored:
            self.recovery.restore(self._restored, partial(self.chains.share, world_size=world, rank=self.global_rank))
        self._restored = {}
        if h.initialisation == "informative" and self.chains.gaussians is None:
            self.chains.gaussians = fit_class_gaussians(self.trainer, h.num_classes)
        if h.memory_size and self.chains.memory is None:
            self.chains.fill_memory(h.memory_size // world, self.device)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keep a good state to return to; a batch ends after its checkpoint is written."""
        step = self.global_step
        if step % self.hparams["snapshot_every_n_steps"] == 0 or self.recovery.taken_at < 0:
            self.recovery.take_snapshot(step, self.network, self.trainer.optimizers[0], self.chains.images)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add memories and random states of all ranks, Gaussians, good states, and what recoveries changed."""
        if self._restored:  # and not trained since
            checkpoint["jem"] = self._restored
            return
        processes: Any = {"all_gather": self.all_gather, "world_size": self.trainer.world_size}
        recovery = self.recovery.state(partial(self.chains.whole, **processes))
        checkpoint["jem"] = recovery | self.chains.state(**processes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the checkpoint holds until training goes on; until then it serves for sampling."""
        self._restored = dict(checkpoint.get("jem", {}))
        if "mean" in self._restored:
            self.chains.gaussians = ClassGaussians(self._restored["mean"], self._restored["factor"])

    def on_train_end(self) -> None:
        """Let go of the good states."""
        self.recovery.forget()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Cross-entropy and accuracy, on images without dequantisation noise."""
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
        figures = {"acc": (counted.argmax(1) == y).float().mean(), "log_density": log_density(counted).mean()}
        figures["loss"] = cross_entropy(counted, y)
        self.means.log(self, stage, figures, count)
        return logits

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Class probabilities ``(B, K)``."""
        return self(batch if isinstance(batch, Tensor) else batch[0]).softmax(1)

    def configure_optimizers(self) -> Any:
        """Adam, or SGD with momentum, with warm-up and decay that are stepped with the optimiser."""
        h: Any = self.hparams
        if h.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                self.parameters(), h.lr, momentum=0.9, weight_decay=h.weight_decay
            )
        else:
            optimizer = torch.optim.Adam(self.parameters(), h.lr, weight_decay=h.weight_decay)

        def factor(step: int) -> float:
            batches = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
            # Infinite before the loaders are set up, and for a loader without a length.
            epoch = self.current_epoch if math.isinf(batches) else step // max(math.ceil(batches), 1)
            rate = learning_rate_factor(step, epoch, h.warmup_steps, h.decay_epochs, h.decay_rate)
            return rate * self.recovery.rungs.learning_rate

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
