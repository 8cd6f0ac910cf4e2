"""Stochastic gradient Langevin dynamics and the memory that its chains persist in."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..shared.arguments import check_at_least, check_positive


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
    The gradient is that of the sum over the batch, so each chain moves as if it were alone. Returns the ends
    ``(B, ...)``. No parameter receives a gradient and no graph survives; the function works under ``no_grad`` and
    ``inference_mode`` alike, where the tensors that ``log_density_fn`` holds were not made in inference mode.
    With ``gradient_clip`` and ``bounds`` it is the proximal SGLD of JEM++ (Yang and Ji 2021).

    Args:
        log_density_fn: Maps ``(B, ...)`` to ``(B,)``.
        x: Start of the chains ``(B, ...)``, float; left as it is.
        steps: Number of steps, at least 0.
        step_size: Factor of the gradient, at least 0.
        noise_std: Standard deviation of the noise, 0 for plain ascent.
        gradient_clip: Clamp each entry of the gradient to ``[-gradient_clip, gradient_clip]``, if not None.
        bounds: Clamp the state to this range after each step, if not None.
        generator: Source of the noise, on ``x``'s device; the global one by default.

    Raises:
        ValueError: For steps, step size or noise below 0, a clip not above 0, or one of them not finite.
    """
    check_at_least(0, steps=steps, step_size=step_size, noise_std=noise_std)
    check_positive(gradient_clip=gradient_clip)
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
    partitioned: class y owns the slots from ``y * N / K`` up to ``(y + 1) * N / K``. Generators are on its device.

    Args:
        images: ``(N, ...)``, the initial content.
        num_classes: K.

    Raises:
        ValueError: When N is no positive multiple of K.
    """

    def __init__(self, images: Tensor, num_classes: int) -> None:
        if len(images) == 0 or len(images) % num_classes:
            raise ValueError(f"the memory has {len(images)} slots; expected a positive multiple of {num_classes}")
        self.images = images
        self.num_classes = num_classes

    def slots(self, count: int, labels: Tensor | None = None, generator: Generator | None = None) -> Tensor:
        """Draw distinct slots ``(count,)``, with labels ``(count,)`` one in each label's part of the memory.

        Raises:
            ValueError: When the memory, or with labels a class' part of it, has fewer slots than asked for.
        """
        device = self.images.device
        if labels is None:
            if count > len(self.images):
                raise ValueError(f"{count} chains, but the memory has only {len(self.images)} slots")
            return torch.randperm(len(self.images), generator=generator, device=device)[:count]
        per_class = len(self.images) // self.num_classes
        if count > per_class:  # whatever the labels: an error must not depend on the draw
            raise ValueError(f"{count} chains with labels, but each class has only {per_class} slots")
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
        """A copy ``(B, ...)`` of the images of slots ``(B,)``, each with some probability replaced by a new start.

        ``fresh`` maps slots ``(b,)`` to new starts ``(b, ...)``, so that a start can fit the slot's class.
        """
        start = self.images[slots]
        renew = torch.rand(len(slots), generator=generator, device=slots.device) < reinit_probability
        if renew.any():
            start[renew] = fresh(slots[renew])
        return start

    def write(self, slots: Tensor, images: Tensor) -> None:
        """Store images ``(B, ...)`` in their slots ``(B,)``."""
        self.images[slots] = images
