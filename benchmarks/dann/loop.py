"""Domain-adversarial training (Ganin et al. 2016) on the paper's MNIST network, written down plainly, and by its peer.

What the module's step is compared with. In float32; each function gives a function that makes one training step.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Step = Callable[[], None]


class Reversal(torch.autograd.Function):
    """The gradient reversal layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, coefficient: float) -> Tensor:
        """Identity."""
        ctx.coefficient = coefficient
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The gradient times minus the coefficient."""
        return -ctx.coefficient * gradients[0], None


def features() -> nn.Sequential:
    """Figure 4, MNIST: (B, 3, 28, 28) to (B, 768), with ReLU before the pooling as drawn."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 48, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
    )


def label_head() -> nn.Sequential:
    """(B, 768) to ten logits."""
    return nn.Sequential(nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))


def domain_head() -> nn.Sequential:
    """(B, 768) to one logit."""
    return nn.Sequential(nn.Linear(768, 100), nn.ReLU(), nn.Linear(100, 1))


def plain_loop(source: tuple[Tensor, Tensor], target: Tensor, coefficient: float = 0.5) -> Step:
    """The paper's algorithm: contiguous images, both halves in one pass, one optimiser."""
    parts = nn.ModuleList([features(), label_head(), domain_head()]).to(target.device)
    extractor, labels, domains = parts
    optimizer = torch.optim.SGD(parts.parameters(), 0.01, momentum=0.9)
    x, y = source
    domain = torch.cat([torch.zeros(len(x)), torch.ones(len(target))]).to(target.device)

    def step() -> None:
        optimizer.zero_grad()
        both = extractor(torch.cat([x, target]))
        loss = functional.cross_entropy(labels(both[: len(x)]), y)
        logits = domains(Reversal.apply(both, coefficient)).squeeze(1)
        for half, truth in zip(logits.split(len(x)), domain.split(len(x)), strict=True):
            loss = loss + functional.binary_cross_entropy_with_logits(half, truth)
        loss.backward()
        optimizer.step()

    return step


def labels_alone(network: Any, x: Tensor, y: Tensor) -> Step:
    """The module's own network without a domain head, trained on labels for both halves of the batch.

    Args:
        network: ``zoo.DANN``'s, with whatever layout it has.
        x: (B, 3, 28, 28), both halves.
        y: (B,)
    """
    network = copy.deepcopy(network).to(x.device)
    parts = nn.ModuleList([network.extractor, network.label_body, network.label_output])
    optimizer = torch.optim.SGD(parts.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(network.label_output(network.label_body(network.domain_features(x))), y)
        loss.backward()
        optimizer.step()

    return step


def head_alone(network: Any, x: Tensor) -> Step:
    """The domain head's own arithmetic: forward and backward, to its input too, and its share of the update.

    Args:
        network: ``zoo.DANN``'s; a conditional head gets as many inputs as it takes, ready-made.
        x: (B, 3, 28, 28), both halves; only their number counts.
    """
    head = copy.deepcopy(network.domain_head).to(x.device)
    width = next(head.parameters()).shape[1]
    inputs = torch.rand(len(x), width, device=x.device, requires_grad=True)
    optimizer = torch.optim.SGD(head.parameters(), 0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        inputs.grad = None
        source, target = head(inputs).squeeze(1).chunk(2)
        (functional.softplus(source).mean() + functional.softplus(-target).mean()).backward()
        optimizer.step()

    return step


def pytorch_adapt(source: tuple[Tensor, Tensor], target: Tensor) -> Step:
    """pytorch-adapt's ``DANNHook`` on the same network, with the same optimiser.

    Raises:
        SystemExit: It is not installed.
    """
    try:
        from pytorch_adapt.hooks import DANNHook
    except ImportError as error:
        raise SystemExit(
            f"--peer needs pytorch-adapt, in an environment of its own ({error}): pip install pytorch-adapt "
            "'setuptools<81', then this project's requirements; its hooks run without the torchmetrics that it asks for"
        ) from error
    parts = nn.ModuleList([features(), label_head(), domain_head()]).to(target.device)
    hook = DANNHook(opts=[torch.optim.SGD(parts.parameters(), 0.01, momentum=0.9)])
    models = {"G": parts[0], "C": parts[1], "D": nn.Sequential(parts[2], nn.Flatten(0))}
    x, y = source
    domains = {"src_domain": torch.zeros(len(x)), "target_domain": torch.ones(len(target))}
    batch = {"src_imgs": x, "src_labels": y, "target_imgs": target}
    batch |= {name: domain.to(target.device) for name, domain in domains.items()}
    return lambda: hook({**models, **batch})
