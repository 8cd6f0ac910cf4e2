"""The Langevin chains of one process: their frozen network, their memory and their random state."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .initialisation import ClassGaussians, uniform_start
from .loss import class_log_density
from .sampler import ReplayMemory


@dataclass(eq=False)
class Chains:
    """Persistent SGLD chains on the density of a classifier.

    The chains use a frozen copy of the network, refreshed before each run. It holds the chains' precision, spares them
    the bookkeeping of parameters that require gradients, and leaves mode and running statistics of the trained network
    alone. Its batch normalisation, if any, uses the statistics of the chains: in JEM++ sampling stays in training mode.

    Attributes:
        sampler: :func:`sgld` with its settings; gets the log-density, the start and the number of steps.
        reinit_probability: Probability that a chain starts anew.
        dtype: Precision of the network; the state of the chains stays float32.
        memory: This process' share of the replay memory, or None where every chain starts anew.
        gaussians: The distribution of new starts, or None for uniform noise.
        generator: Source of all randomness of the training's chains.
    """

    image_shape: tuple[int, ...]
    num_classes: int
    sampler: Callable[..., Tensor]
    reinit_probability: float
    dtype: torch.dtype
    memory: ReplayMemory | None = None
    gaussians: ClassGaussians | None = None
    generator: Generator = field(default_factory=Generator)
    _frozen: nn.Module | None = None

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
        """Run chains from the start ``x``, up ``f(x)[y]`` for labels ``(B,)`` or up ``LSE f(x)`` for None.

        The noise comes from the generator, or from the global one for None. Start and ends are ``(B, C, H, W)``.
        """
        frozen = self._freeze(network)
        with torch.inference_mode(False):
            labels = None if labels is None else labels.clone()

        def target(images: Tensor) -> Tensor:
            return class_log_density(frozen(images.to(self.dtype)), labels)

        with torch.autocast(x.device.type, enabled=False):  # fp16 underflows at gradients near 1e-3 an image
            return self.sampler(target, x, steps, generator=generator)

    def random_labels(self, count: int) -> Tensor:
        """Labels ``(count,)``, uniform over the classes."""
        return torch.randint(self.num_classes, (count,), device=self.generator.device, generator=self.generator)

    def start(self, count: int, labels: Tensor | None, device: torch.device, generator: Generator | None) -> Tensor:
        """New starts ``(count, C, H, W)``: uniform, or from the Gaussians of these labels or of random ones."""
        if self.gaussians is None:
            return uniform_start(count, self.image_shape, device, generator)
        self.gaussians = ClassGaussians(*(part.to(device) for part in self.gaussians))
        if labels is None:
            labels = torch.randint(self.num_classes, (count,), device=device, generator=generator)
        return self.gaussians.sample(labels, self.image_shape, generator)

    def draw(self, network: nn.Module, count: int, labels: Tensor | None, steps: int) -> tuple[Tensor, Tensor | None]:
        """Run ``count`` chains from the memory, or from new starts where there is none.

        With labels ``(count,)`` these are chains of their classes. Returns the ends ``(count, C, H, W)``, and the slots
        ``(count,)`` to write them to, if there is a memory.
        """
        memory, slots = self.memory, None
        if memory is None:
            start = self.start(count, labels, next(network.parameters()).device, self.generator)
        else:
            slots = memory.slots(count, labels, self.generator)

            def fresh(places: Tensor) -> Tensor:
                classes = places // (len(memory.images) // self.num_classes)
                return self.start(len(places), classes, places.device, self.generator)

            start = memory.read(slots, fresh, self.reinit_probability, self.generator)
        return self.run(network, start, labels, steps, self.generator), slots

    def write(self, slots: Tensor | None, images: Tensor) -> None:
        """Write the ends ``(B, C, H, W)`` of chains to their slots ``(B,)`` of the memory, if there is one."""
        if self.memory is not None and slots is not None:
            self.memory.write(slots, images)

    @property
    def images(self) -> Tensor | None:
        """The memory's images ``(N, C, H, W)``, if there is a memory."""
        return None if self.memory is None else self.memory.images

    def images_of_class(self, network: nn.Module, images: Tensor, label: int, partitioned: bool) -> Tensor:
        """The images of one class, by their slots in a partitioned memory, else by what the network takes them for."""
        if partitioned:
            return images.view(self.num_classes, -1, *self.image_shape)[label]
        frozen, device = self._freeze(network), next(network.parameters()).device
        classes = [frozen(part.to(device, self.dtype)).argmax(1).to(part.device) for part in images.split(500)]
        return images[torch.cat(classes) == label]

    def seed(self, recoveries: int, rank: int, device: torch.device) -> None:
        """Begin a random sequence that no other process and no earlier recovery has."""
        seed = torch.initial_seed() + 1_000_003 * recoveries + 7919 * (rank + 1)
        self.generator = Generator(device)
        self.generator.manual_seed(seed % 2**63)

    def fill_memory(self, size: int, device: torch.device) -> None:
        """Make a memory of ``size`` new starts, as many of each class where starts have classes."""
        labels = torch.arange(self.num_classes, device=device).repeat_interleave(size // self.num_classes)
        self.memory = ReplayMemory(self.start(size, labels, device, self.generator), self.num_classes)
