"""Stochastic gradient Langevin dynamics and the memory that its chains persist in."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def sgld(
    log_density_fn: Callable[[Tensor], Tensor],
    x: Tensor,
    steps: int,
    step_size: float,
    noise_std: float,
    gradient_clip: float | None = None,
    bounds: tuple[float, float] | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Ascend a log-density with noise: ``x <- x + step_size * grad log p(x) + noise_std * N(0, I)``.

    Step and noise are decoupled, as in JEM's code; Langevin dynamics proper has ``noise_std = sqrt(2 * step_size)``.
    The gradient is that of the sum over the batch, so each chain moves as if it were alone. No parameter receives a
    gradient and no graph survives; the function works under ``no_grad`` and ``inference_mode`` alike, where the tensors
    that ``log_density_fn`` holds were not made in inference mode.
    With ``gradient_clip`` and ``bounds`` it is the proximal SGLD of JEM++ (Yang and Ji 2021).

    Args:
        log_density_fn: Maps ``(B, ...)`` to ``(B,)``.
        x: Start of the chains ``(B, ...)``, float; left as it is.
        steps: Number of steps, at least 0.
        step_size: Factor of the gradient.
        noise_std: Standard deviation of the noise, 0 for plain ascent.
        gradient_clip: Clamp each entry of the gradient to ``[-gradient_clip, gradient_clip]``.
        bounds: Clamp the state to this range after each step.
        generator: Source of the noise, on ``x``'s device; the global one by default.

    Returns:
        The chains' ends ``(B, ...)``, without a graph.

    Raises:
        ValueError: For a negative number of steps or noise, a step size or noise that is not finite, a clip that is not
            above 0, bounds in the wrong order, or a start that is not floating-point.
    """
    if not (steps >= 0 and 0 <= noise_std < math.inf and math.isfinite(step_size)):
        raise ValueError(
            f"sgld got steps={steps}, step_size={step_size} and noise_std={noise_std}; expected finite numbers, and no "
            "negative steps or noise"
        )
    if gradient_clip is not None and not gradient_clip > 0:
        raise ValueError(f"gradient_clip is {gradient_clip}; expected a number above 0, or None")
    if bounds is not None and not bounds[0] <= bounds[1]:
        raise ValueError(f"bounds is {bounds}; expected (low, high) with low <= high")
    if not x.is_floating_point():
        raise ValueError(f"the chains start from {x.dtype}; expected floating-point images")
    # Plain autograd, right in inference mode too thanks to the copy made inside; torch.func.grad, which would need no
    # context, also builds the graph of the gradient: 7 % slower on a wide ResNet.
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone()
        noise = torch.empty(x.shape, dtype=x.dtype, device=x.device)  # contiguous: normal_ is far faster
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(log_density_fn(x.requires_grad_()).sum(), x)
            x = x.detach()
            if gradient_clip is not None:
                gradient = gradient.clamp_(-gradient_clip, gradient_clip)
            x.add_(gradient, alpha=step_size)
            if noise_std > 0:
                x.add_(noise.normal_(generator=generator), alpha=noise_std)
            if bounds is not None:
                x.clamp_(*bounds)
    return x.detach()


class ReplayMemory:
    """Images in which Langevin chains persist from one training step to the next.

    Slots are drawn without replacement, so no two chains of a batch write to the same one. With labels the memory is
    partitioned: class y owns the slots from ``y * N / K`` up to ``(y + 1) * N / K``.

    Args:
        images: ``(N, ...)``, the initial content; N must be a multiple of ``num_classes``.
        num_classes: K.

    Raises:
        ValueError: When N is zero or no multiple of K, or K is below 1.
    """

    def __init__(self, images: Tensor, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}; expected 1 at least")
        if len(images) == 0 or len(images) % num_classes:
            raise ValueError(f"the memory has {len(images)} slots; expected a positive multiple of {num_classes}")
        self.images = images
        self.num_classes = num_classes

    def slots(self, count: int, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Draw distinct slots, with labels one in each label's part of the memory.

        Args:
            count: Number of slots, at least 0.
            labels: ``(count,)`` integers, or None for slots of any class.
            generator: Source of randomness, on the memory's device.

        Returns:
            ``(count,)`` integers, all different.

        Raises:
            ValueError: When the memory, or with labels a class' part of it, has fewer slots than asked for, or labels
                are no ``count`` integers.
        """
        device = self.images.device
        if count < 0:
            raise ValueError(f"{count} chains; expected 0 at least")
        if labels is None:
            if count > len(self.images):
                raise ValueError(f"{count} chains, but the memory has only {len(self.images)} slots")
            return torch.randperm(len(self.images), generator=generator, device=device)[:count]
        per_class = len(self.images) // self.num_classes
        if count > per_class:  # whatever the labels: an error must not depend on the draw
            raise ValueError(f"{count} chains with labels, but each class has only {per_class} slots")
        if labels.shape != (count,) or labels.is_floating_point():
            raise ValueError(
                f"labels {tuple(labels.shape)} of {labels.dtype} for {count} chains: expected an integer each"
            )
        labels = labels.long()
        # The j-th chain of a class takes the j-th entry of one shuffled order: different within each class.
        members = torch.nn.functional.one_hot(labels, self.num_classes)
        turn = (members.cumsum(0) * members).sum(1) - 1
        return labels * per_class + torch.randperm(per_class, generator=generator, device=device)[turn]

    def read(
        self,
        slots: Tensor,
        fresh: Callable[[Tensor], Tensor],
        reinit_probability: float,
        generator: Generator | None = None,
    ) -> Tensor:
        """The images of these slots, some replaced by new starts.

        Args:
            slots: ``(B,)`` from :meth:`slots`.
            fresh: Maps slots ``(b,)`` to new starts ``(b, ...)``, so that a start can fit the slot's class.
            reinit_probability: Probability, for each chain on its own, of a new start.
            generator: Source of randomness, on the memory's device.

        Returns:
            ``(B, ...)``, a copy.
        """
        start = self.images[slots]
        renew = torch.rand(len(slots), generator=generator, device=slots.device) < reinit_probability
        if renew.any():
            start[renew] = fresh(slots[renew])
        return start

    def write(self, slots: Tensor, images: Tensor) -> None:
        """Store images ``(B, ...)`` in their slots ``(B,)``."""
        self.images[slots] = images
