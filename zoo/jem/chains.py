"""The Langevin chains of one process: their frozen network, their memory and their random state."""

import copy
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .initialisation import ClassGaussians, uniform_start
from .loss import class_log_density
from .sampler import ReplayMemory, sgld


class Chains:
    """Persistent SGLD chains on the density of a classifier.

    The chains use a frozen copy of the network, refreshed before each run. It holds the chains' precision, spares them
    the bookkeeping of parameters that require gradients, and leaves mode and running statistics of the trained network
    alone. Its batch normalisation, if any, uses the statistics of the chains: in JEM++ sampling stays in training mode.

    Args:
        image_shape: ``(channels, height, width)``.
        num_classes: K.
        step_size: Factor of the gradient.
        noise_std: Standard deviation of the noise.
        gradient_clip: Clamp the gradient elementwise, or None.
        bounds: Range that the state is clamped to after each step, or None.
        reinit_probability: Probability that a chain starts anew.
        dtype: Precision of the network; the state of the chains stays float32.
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        num_classes: int,
        step_size: float,
        noise_std: float,
        gradient_clip: float | None,
        bounds: tuple[float, float] | None,
        reinit_probability: float,
        dtype: torch.dtype,
    ) -> None:
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes
        self.step_size = step_size
        self.noise_std = noise_std
        self.gradient_clip = gradient_clip
        self.bounds = bounds
        self.reinit_probability = reinit_probability
        self.dtype = dtype
        self.memory: ReplayMemory | None = None
        self.gaussians: ClassGaussians | None = None
        self.generator = Generator()
        self._frozen: nn.Module | None = None

    def _freeze(self, network: nn.Module) -> nn.Module:
        device = next(network.parameters()).device
        with torch.inference_mode(False), torch.no_grad():  # a copy made in a test must serve in training too
            if self._frozen is None or next(self._frozen.parameters()).device != device:
                self._frozen = copy.deepcopy(network).to(self.dtype).eval().requires_grad_(False)
                for module in self._frozen.modules():
                    if isinstance(module, _BatchNorm):
                        module.track_running_stats = False
                        module.running_mean = module.running_var = module.num_batches_tracked = None
            state = network.state_dict()
            for name, frozen in self._frozen.state_dict().items():  # buffers too, but for the statistics left out
                frozen.copy_(state[name])
        return self._frozen

    def run(
        self, network: nn.Module, x: Tensor, labels: Tensor | None, steps: int, generator: Generator | None
    ) -> Tensor:
        """Run chains from a given start.

        Args:
            network: Its frozen copy is refreshed first.
            x: ``(B, C, H, W)``, the start.
            labels: ``(B,)`` integers to ascend ``f(x)[y]``, or None to ascend ``LSE f(x)``.
            steps: Number of steps, at least 0.
            generator: Source of the noise, the global one by default.

        Returns:
            ``(B, C, H, W)`` float32, the chains' ends.
        """
        frozen = self._freeze(network)
        with torch.inference_mode(False):
            labels = None if labels is None else labels.clone()

        def target(images: Tensor) -> Tensor:
            return class_log_density(frozen(images.to(self.dtype)), labels)

        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False):  # fp16 underflows at gradients near 1e-3 an image
            return sgld(target, x, steps, self.step_size, self.noise_std, self.gradient_clip, self.bounds, generator)

    def start(self, count: int, labels: Tensor | None, device: torch.device, generator: Generator | None) -> Tensor:
        """New starts ``(count, C, H, W)``: uniform, or from the Gaussians of these labels or of random ones."""
        if self.gaussians is not None and self.gaussians.mean.device != device:
            self.gaussians = ClassGaussians(self.gaussians.mean.to(device), self.gaussians.factor.to(device))
        if self.gaussians is None:
            return uniform_start(count, self.image_shape, device, generator)
        if labels is None:
            labels = torch.randint(self.num_classes, (count,), device=device, generator=generator)
        return self.gaussians.sample(labels, self.image_shape, generator)

    def random_labels(self, count: int, device: torch.device) -> Tensor:
        """Labels ``(count,)``, uniform over the classes."""
        return torch.randint(self.num_classes, (count,), device=device, generator=self.generator)

    def draw(self, network: nn.Module, count: int, labels: Tensor | None, steps: int) -> tuple[Tensor, Tensor | None]:
        """Run chains from the memory, or from new starts where there is none.

        Args:
            network: Its frozen copy is refreshed first.
            count: Number of chains B.
            labels: ``(B,)`` integers for chains of these classes, or None.
            steps: Number of steps, at least 0.

        Returns:
            The chains' ends ``(B, C, H, W)``, and the slots ``(B,)`` to write them to, if there is a memory.
        """
        memory = self.memory
        if memory is None:
            start = self.start(count, labels, next(network.parameters()).device, self.generator)
            return self.run(network, start, labels, steps, self.generator), None
        slots = memory.slots(count, labels, self.generator)
        per_class = len(memory.images) // self.num_classes

        def fresh(places: Tensor) -> Tensor:
            return self.start(len(places), places // per_class, places.device, self.generator)

        start = memory.read(slots, fresh, self.reinit_probability, self.generator)
        return self.run(network, start, labels, steps, self.generator), slots

    @property
    def images(self) -> Tensor | None:
        """The memory's images ``(N, C, H, W)``, if there is a memory."""
        return None if self.memory is None else self.memory.images

    def stored(self, network: nn.Module, loaded: Tensor | None, label: int | None, partitioned: bool) -> Tensor:
        """Images to sample from: those of a checkpoint loaded since the training, else the memory's.

        Args:
            network: Its frozen copy decides which images belong to the label, unless the memory is partitioned.
            loaded: ``(N, C, H, W)`` of the checkpoint, or None.
            label: Only images of this class, or None for all.
            partitioned: Whether the memory holds the classes one after the other.

        Returns:
            ``(n, C, H, W)``, n at least 0; none where there is neither.
        """
        images = self.images if loaded is None else loaded
        if images is None or label is None:
            return torch.empty(0, *self.image_shape) if images is None else images
        if partitioned:
            return images.view(self.num_classes, -1, *self.image_shape)[label]
        frozen, device = self._freeze(network), next(network.parameters()).device
        found = [frozen(part.to(device, self.dtype)).argmax(1).to(part.device) == label for part in images.split(500)]
        return images[torch.cat(found)]

    def write(self, slots: Tensor, images: Tensor) -> None:
        """Let these images ``(B, C, H, W)`` be where the chains of these slots ``(B,)`` go on."""
        if self.memory is not None:
            self.memory.write(slots, images)

    def seed(self, seed: int, device: torch.device) -> None:
        """Begin a new random sequence."""
        self.generator = Generator(device)
        self.generator.manual_seed(seed % 2**63)

    def fill_memory(self, size: int, device: torch.device) -> None:
        """A memory of new starts, ``size / K`` of each class where starts have classes."""
        labels = torch.arange(self.num_classes, device=device).repeat_interleave(size // self.num_classes)
        self.memory = ReplayMemory(self.start(size, labels, device, self.generator).contiguous(), self.num_classes)

    def state(self, all_gather: Any, world_size: int) -> dict[str, Tensor]:
        """What a checkpoint must hold of the chains of all processes; every process has to call it.

        Args:
            all_gather: Stacks a tensor of all processes along a new first dimension.
            world_size: Number of processes.

        Returns:
            ``memory`` ``(N, C, H, W)`` ordered by class, ``generators`` ``(processes, bytes)``, and the Gaussians.
        """
        state = {}
        if self.memory is not None:
            state["memory"] = self.whole(self.memory.images, all_gather, world_size)
        generator = self.generator.get_state()
        generators = generator[None]
        if world_size > 1:
            generators = all_gather(generator.to(self.generator.device))
        state["generators"] = generators.cpu()
        if self.gaussians is not None:
            state |= {"mean": self.gaussians.mean.cpu(), "factor": self.gaussians.factor.cpu()}
        return state

    def whole(self, images: Tensor, all_gather: Any, world_size: int) -> Tensor:
        """The memory of all processes ``(N, C, H, W)``, ordered by class, on the CPU, of this process' share."""
        images = images.view(self.num_classes, -1, *self.image_shape)
        if world_size > 1:
            images = all_gather(images.to(self.generator.device)).transpose(0, 1).flatten(1, 2)
        return images.flatten(0, 1).cpu()

    def share(self, images: Tensor, world_size: int, rank: int) -> Tensor:
        """This process' share of what `whole` gave."""
        return images.view(self.num_classes, world_size, -1, *self.image_shape)[:, rank].flatten(0, 1)

    def restore(self, state: dict[str, Tensor], world_size: int, rank: int, device: torch.device) -> None:
        """Take this process' share of a checkpoint's state; the random state only for the same number of processes."""
        if "memory" in state:
            images = self.share(state["memory"], world_size, rank)
            self.memory = ReplayMemory(images.to(device, copy=True), self.num_classes)
        if "mean" in state:
            self.gaussians = ClassGaussians(state["mean"].to(device), state["factor"].to(device))
        if len(state.get("generators", ())) == world_size:
            # A copy: torch reads the state from the start of its storage, where another rank's may lie.
            self.generator.set_state(state["generators"][rank].cpu().clone())
