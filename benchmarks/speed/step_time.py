"""Time of one training step against a plain loop: ``python -m benchmarks.speed.step_time jem``, or another paper.

The module's step is the real one, inside ``Trainer.fit``: it is timed from the start of the batch to its end, and the
other contestants take their turn between two batches.

``histogram_loss`` compares the histogram loss with l2 on the same network, both inside ``Trainer.fit``, a few steps
each in turn.

``dann`` compares domain-adversarial training with a plain loop and with its own two parts: the module's network trained
on labels alone with as many images, and the domain head's forward and backward pass on features alone. ``--peer`` adds
pytorch-adapt. glibc hands the memory of large feature maps back to the system after each step, or not, by a rule of its
own, which makes up to a fifth of such a step: without ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` in the
environment (4294967296 each) ratios vary by that much.

``disentanglement`` compares the disentangling autoencoders with their bare networks: forward, and the gradients of the
weights. ``--peer`` adds pythae's models on the same networks, which ``pip install -e '.[peers]'`` brings. FactorVAE
comes in both of its forms, and pythae's is given as many images for the autoencoder, which makes twice as many in all,
and once as many in all.
"""

import argparse
import copy
import logging
import statistics
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from datamodules.factors.draws import draw_factors
from datamodules.factors.render import FACTOR_SIZES, render
from zoo import (
    DANN,
    DIPVAE,
    JEM,
    AnnealedVAE,
    BetaTCVAE,
    BetaVAE,
    FactorVAE,
    HistogramRegression,
    LocalErrorSignals,
    PointRegression,
)
from zoo.histogram_loss.support import TargetTable
from zoo.jem.loss import generative_loss

from ..dann import loop as dann_loop
from ..disentanglement import loop as disentanglement_loop
from ..local_error.loop import PlainVGG8B
from ..shared.timing import alternate, now, print_machine, print_ratios


def jem_loop(network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Callable[[], None]:
    """JEM's official algorithm, written down plainly: float32, contiguous, three passes, the graph retained."""
    network = copy.deepcopy(network).to(x.device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    memory = torch.rand(10_000, *x.shape[1:], device=x.device) * 2 - 1

    def step() -> None:
        x_p = x + 0.03 * torch.randn_like(x)
        x_l = x + 0.03 * torch.randn_like(x)
        network.eval()
        slots = torch.randint(len(memory), (len(x),), device=x.device)
        renew = (torch.rand(len(x), device=x.device) < 0.05).float()[:, None, None, None]
        x_q = (renew * (torch.rand_like(x) * 2 - 1) + (1 - renew) * memory[slots]).requires_grad_()
        for _ in range(steps):
            (gradient,) = torch.autograd.grad(network(x_q).logsumexp(1).sum(), [x_q], retain_graph=True)
            x_q.data += gradient + 0.01 * torch.randn_like(x_q)
        network.train()
        x_q = x_q.detach()
        memory[slots] = x_q
        loss = network(x_q).logsumexp(1).mean() - network(x_p).logsumexp(1).mean()
        loss = loss + nn.functional.cross_entropy(network(x_l), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


class OnePass(JEM):
    """With one pass over real images and samples, in the module's place of three."""

    def _losses(self, x_p: Tensor, x_l: Tensor, y_l: Tensor) -> Any:
        drawn = self.chains.draw(self.network, len(x_p), None, self.hparams["sgld_steps"])
        f_p, f_q, f_l = self(torch.cat([x_p, drawn[0], x_l])).split(len(x_p))
        px = generative_loss(f_p, f_q)
        return px + nn.functional.cross_entropy(f_l, y_l), -px.detach()[None], {}, [drawn]


class Turns(L.Callback):
    """Times the module's step, and lets the other contestants step between two batches."""

    def __init__(self, others: dict[str, Callable[[], None]], warmup: int) -> None:
        self.others = others
        self.warmup = warmup
        self.seconds: list[float] = []
        self.of_others: dict[str, list[float]] = {name: [] for name in others}
        self.start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        """The module's turn begins."""
        self.start = now()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, i: int
    ) -> None:
        """It ends, and the others' begin."""
        steps = [now() - self.start]
        for step in self.others.values():
            start = now()
            step()
            steps.append(now() - start)
        if i >= self.warmup:
            for seconds, step_seconds in zip((self.seconds, *self.of_others.values()), steps, strict=True):
                seconds.append(step_seconds)


def take_turns(
    module: L.LightningModule, batches: Any, others: dict[str, Callable[[], None]], precision: Any, warmup: int = 1
) -> Turns:
    """Alternate the module's training step with other steps."""
    turns = Turns(others, warmup)
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=1, callbacks=[turns], enable_model_summary=False, devices=1, precision=precision, **quiet
    )
    trainer.fit(module, batches)
    return turns


def compare(
    module: L.LightningModule, batches: DataLoader, other: Callable[[], None], name: str, precision: Any
) -> None:
    """Alternate the module's training step with another step and print their ratio."""
    turns = take_turns(module, batches, {"plain loop": other}, precision)
    print_ratios({**turns.of_others, name: turns.seconds})


def jem(arguments: argparse.Namespace) -> None:
    """JEM on a wide ResNet: each lever alone and all together."""
    size, rounds = arguments.batch_size or 32, arguments.rounds
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % 10
    # Each half of a batch is one minibatch; the plain loop trains on as many images.
    batches = DataLoader(TensorDataset(x.repeat(2 * (rounds + 1), 1, 1, 1), y.repeat(2 * (rounds + 1))), 2 * size)
    network_args = {"depth": arguments.depth, "width": arguments.width}
    variants: dict[str, tuple[type[JEM], Any, torch.memory_format, Any]] = {
        "channels-last": (JEM, "float32", torch.channels_last, "32-true"),
        "channels-last, bfloat16 chain": (JEM, "bfloat16", torch.channels_last, "32-true"),
        "channels-last, bfloat16 chain, bf16-mixed": (JEM, "bfloat16", torch.channels_last, "bf16-mixed"),
    }
    if arguments.all:
        variants |= {
            "contiguous": (JEM, "float32", torch.contiguous_format, "32-true"),
            "contiguous, one pass": (OnePass, "float32", torch.contiguous_format, "32-true"),
            "channels-last, one pass": (OnePass, "float32", torch.channels_last, "32-true"),
            "contiguous, bfloat16 chain": (JEM, "bfloat16", torch.contiguous_format, "32-true"),
        }
    for name, (module_class, chain_precision, layout, precision) in variants.items():
        module = module_class(network_args=network_args, sgld_steps=arguments.steps, chain_precision=chain_precision)
        module.network.to(memory_format=layout)
        loop = jem_loop(module.network, x.to(device), y.to(device), arguments.steps)
        compare(module, batches, loop, name, precision)


def local_error(arguments: argparse.Namespace) -> None:
    """Local error signals on VGG8B, predsim: each variant against the official algorithm, in float32."""
    size = arguments.batch_size or 128
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % 10
    batches = DataLoader(TensorDataset(*(t.repeat(arguments.rounds + 1, *[1] * (t.dim() - 1)) for t in (x, y))), size)
    plain, x, y = PlainVGG8B().to(device), x.to(device), y.to(device)
    variants: dict[str, tuple[Any, torch.memory_format, Any, bool]] = {
        "channels-last": ("blockwise", torch.channels_last, "32-true", True),
        "channels-last, bf16-mixed": ("blockwise", torch.channels_last, "bf16-mixed", True),
    }
    if arguments.all:
        variants |= {
            "channels-last, all maps held": ("blockwise", torch.channels_last, "32-true", False),
            "contiguous": ("blockwise", torch.contiguous_format, "32-true", True),
            "channels-last, back-propagation": ("global", torch.channels_last, "32-true", False),
        }
    for name, (training, layout, precision, frugal) in variants.items():
        module = LocalErrorSignals(10, (3, 32, 32), "VGG8B", max_dim=2048, dropout=0.2, training=training)
        module.network.to(memory_format=layout)
        module.network.blocks[1].body.frugal = frugal
        compare(module, batches, lambda: plain(x, y), name, precision)


class Steps(L.Callback):
    """Times the module's steps."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        """A step begins."""
        self.start = now()

    def on_train_batch_end(self, *_: Any) -> None:
        """It ends."""
        self.seconds.append(now() - self.start)


class Direct(HistogramRegression):
    """With targets computed in each step."""

    def learn_of_labels(self, labels: Tensor) -> None:
        """No table."""


def histogram_loss(arguments: argparse.Namespace) -> None:
    """The histogram loss on the 4x192 network of CT slices against l2, and the share of the targets in the step."""
    size, steps = arguments.batch_size or 256, 60
    torch.manual_seed(0)
    x, y = torch.randn(steps * size, 384), torch.rand(steps * size) * 100
    batches = DataLoader(TensorDataset(x, y), size)
    modules: dict[str, L.LightningModule] = {
        "l2": PointRegression(384, input_dropout=0.05),
        "histogram loss": HistogramRegression(384, input_dropout=0.05),
        "histogram loss, targets in each step": Direct(384, input_dropout=0.05),
    }
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for turn in range(arguments.rounds + 1):
        for name, module in modules.items():
            timed = Steps()
            L.Trainer(max_epochs=1, callbacks=[timed], enable_model_summary=False, devices=1, **quiet).fit(
                module, batches
            )
            if turn:  # the first one warms up
                seconds[name].append(statistics.median(timed.seconds))
    print_ratios(seconds, "ms", 1e3)
    module = modules["histogram loss"].to("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(module, HistogramRegression)
    device_y = y[:size].to(module.device)
    contestants: dict[str, Callable[[], Any]] = {"targets in each step": lambda: module.target(device_y)}
    if module.device.type == "cpu":
        table = TargetTable(y, module.target)
        contestants["targets looked up"] = lambda: table.find(device_y)
    whole = statistics.median(seconds["histogram loss"])
    for name, times in alternate(contestants, 200, warmup=10).items():
        found = statistics.median(times)
        print(f"{name}: {1e6 * found:.0f} us, {found / whole:.2%} of the step")


class TwoPasses(DANN):
    """With a pass for each domain, in the module's place of one over both."""

    def _features_of_both(self, x_s: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor]:
        return self.domain_features(x_s), self.domain_features(x_t)


class ReLUFirst(DANN):
    """With ReLU before the pooling."""

    def build_features(self) -> nn.Module:
        """As the paper draws it."""
        return dann_loop.features()


def dann(arguments: argparse.Namespace) -> None:
    """The paper's MNIST network with 3x28x28 images of both domains; a round is the median of 20 turns."""
    size, turns_in_round, warmup = arguments.batch_size or 64, 20, 5
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y, target = torch.rand(size, 3, 28, 28) * 2 - 1, torch.arange(size) % 10, torch.rand(size, 3, 28, 28) * 2 - 1
    turns = arguments.rounds * turns_in_round + warmup
    source: list[Tensor] = [x.repeat(turns, 1, 1, 1), y.repeat(turns)]
    batches = {
        "source": DataLoader(TensorDataset(*source), size),
        "target": DataLoader(TensorDataset(target.repeat(turns, 1, 1, 1)), size, collate_fn=first),
    }
    x, y, target = x.to(device), y.to(device), target.to(device)
    variants: dict[str, tuple[type[DANN], Any, torch.memory_format, Any]] = {
        "DANN": (DANN, "dann", torch.channels_last, "32-true"),
        "CDAN": (DANN, "cdan", torch.channels_last, "32-true"),
        "CDAN+E": (DANN, "cdan_e", torch.channels_last, "32-true"),
        "DANN, bf16-mixed": (DANN, "dann", torch.channels_last, "bf16-mixed"),
    }
    if arguments.all:
        variants |= {
            "DANN, contiguous": (DANN, "dann", torch.contiguous_format, "32-true"),
            "DANN, ReLU before pooling": (ReLUFirst, "dann", torch.channels_last, "32-true"),
            "DANN, two passes": (TwoPasses, "dann", torch.channels_last, "32-true"),
        }
    for name, (module_class, adaptation, layout, precision) in variants.items():
        module = module_class(adaptation=adaptation)
        module.network.to(memory_format=layout)
        both, labels = torch.cat([x, target]), torch.cat([y, y])
        others = {
            "plain loop": dann_loop.plain_loop((x, y), target),
            "labels alone": dann_loop.labels_alone(module.network, both, labels),
            "domain head alone": dann_loop.head_alone(module.network, both),
        }
        if arguments.peer:
            others["pytorch-adapt"] = dann_loop.pytorch_adapt((x, y), target)
        timed = take_turns(module, batches, others, precision, warmup)
        seconds = medians_of_rounds({**timed.of_others, name: timed.seconds}, turns_in_round)
        parts = zip(seconds.pop("labels alone"), seconds.pop("domain head alone"), strict=True)
        print_ratios({"labels alone + domain head alone": [sum(part) for part in parts], **seconds}, "ms", 1e3)


def first(samples: list[tuple[Tensor]]) -> Tensor:
    """A batch of the images of samples that are nothing else."""
    return torch.stack([image for (image,) in samples])


def disentanglement(arguments: argparse.Namespace) -> None:
    """Each method, with as many sprites for its autoencoder."""
    size = arguments.batch_size or 64
    torch.manual_seed(0)
    x = render(draw_factors(FACTOR_SIZES, 2 * size, torch.Generator().manual_seed(0)))[:, None].float()
    # images of a batch, and of pythae's, if it has the method: half of FactorVAE's are for its autoencoder
    methods: dict[str, tuple[Callable[[], Any], int, tuple[int, ...]]] = {
        "BetaVAE": (BetaVAE, size, (size,)),
        "BetaTCVAE": (BetaTCVAE, size, (size,)),
        "FactorVAE": (FactorVAE, size, (2 * size, size)),
        "FactorVAE, second batch": (lambda: FactorVAE(second_batch=True), 2 * size, (2 * size,)),
        "AnnealedVAE": (AnnealedVAE, size, ()),
        "DIPVAE": (DIPVAE, size, ()),
    }
    variants: dict[str, tuple[torch.memory_format, Any, bool]] = {
        "channels-last": (torch.channels_last, "32-true", True),
        "channels-last, bf16-mixed": (torch.channels_last, "bf16-mixed", True),
    }
    levers: dict[str, tuple[torch.memory_format, Any, bool]] = {
        "contiguous": (torch.contiguous_format, "32-true", True),
        "channels-last, plain Adam": (torch.channels_last, "32-true", False),
        "contiguous, plain Adam": (torch.contiguous_format, "32-true", False),
    }
    if arguments.all:
        methods["FactorVAE, weight gradients of the total correlation"] = (
            disentanglement_loop.WeightGradients,
            size,
            (),
        )
    for title, (build, images, of_peer) in methods.items():
        for variant, (layout, precision, fused) in (
            variants | levers if arguments.all and of_peer else variants
        ).items():
            module = build()
            module.to(memory_format=layout)
            if not fused:
                disentanglement_loop.plain_adam(module)
            peers = {f"pythae, {number} images": number for number in of_peer if arguments.peer}
            time_autoencoder(f"{title}, {images} images, {variant}", module, x, images, peers, precision, arguments)


def time_autoencoder(
    name: str, module: Any, x: Tensor, images: int, peers: dict[str, int], precision: Any, arguments: argparse.Namespace
) -> None:
    """Print the module's step beside its bare networks, then beside each peer; a round is the median of 10 turns.

    Args:
        name: What is printed.
        module: The method.
        x: Images (n, C, 64, 64) in [0, 1] for the largest batch.
        images: Of the module's batch.
        peers: The names of pythae's contestants and the images of their batches.
        precision: Of the module.
        arguments: Of the command line.
    """
    turns_in_round, warmup = 10, 5
    layouts = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
    on_device = x.to("cuda" if torch.cuda.is_available() else "cpu")
    others = {
        f"bare, {kind}": disentanglement_loop.bare(module, on_device[:images], layout)
        for kind, layout in layouts.items()
    }
    for peer, number in peers.items():
        others[peer] = disentanglement_loop.pythae(module, on_device[:number])
        if arguments.all:
            layout = torch.channels_last
            others[f"{peer}, channels-last"] = disentanglement_loop.pythae(module, on_device[:number], layout)
    turns = arguments.rounds * turns_in_round + warmup
    batches = DataLoader(TensorDataset((2 * x[:images] - 1).repeat(turns, 1, 1, 1)), images)
    timed = take_turns(module, batches, others, precision, warmup)
    seconds = medians_of_rounds({**timed.of_others, name: timed.seconds}, turns_in_round)
    print_ratios(seconds, "ms", 1e3)
    for peer in peers:
        print_ratios({each: seconds[each] for each in (peer, name)}, "ms", 1e3)


def medians_of_rounds(seconds: dict[str, list[float]], turns: int) -> dict[str, list[float]]:
    """The median of each round of so many turns."""
    return {
        name: [statistics.median(found[i : i + turns]) for i in range(0, len(found), turns)]
        for name, found in seconds.items()
    }


def main() -> None:
    """Read the command line and run one paper's comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    papers = {
        "jem": jem,
        "local_error": local_error,
        "histogram_loss": histogram_loss,
        "dann": dann,
        "disentanglement": disentanglement,
    }
    parser.add_argument("paper", choices=papers)
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each pair")
    parser.add_argument(
        "--batch-size", type=int, help="default: 32 for jem, 128 for local_error, 256; 64 of a domain or sprites"
    )
    parser.add_argument("--depth", type=int, default=16, help="of jem's wide ResNet")
    parser.add_argument("--width", type=int, default=4, help="of jem's wide ResNet")
    parser.add_argument("--steps", type=int, default=20, help="SGLD steps in a training step of jem")
    parser.add_argument("--all", action="store_true", help="each lever alone, too")
    parser.add_argument("--peer", action="store_true", help="pytorch-adapt beside dann, pythae beside disentanglement")
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print_machine()
    papers[arguments.paper](arguments)


if __name__ == "__main__":
    main()
