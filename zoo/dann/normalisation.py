"""Batch normalisation with statistics of its own for each domain."""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SOURCE, TARGET = 0, 1


class DomainBatchNorm(nn.Module):
    """A batch normalisation for the source and another for the target (Chang et al., CVPR 2019).

    ``domain`` says which one the next batch goes through; see :func:`choose_domain`. Both start from ``norm``.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norms = nn.ModuleList([norm, copy.deepcopy(norm)])
        self.domain = TARGET

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.norms[self.domain](x)


def has_batch_norm(network: nn.Module) -> bool:
    """Whether there is a batch normalisation in a network."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def with_domain_batch_norm(network: nn.Module) -> nn.Module:
    """The network with a ``DomainBatchNorm`` in the place of each batch normalisation."""
    if isinstance(network, _BatchNorm):
        return DomainBatchNorm(network)
    for name, child in network.named_children():
        setattr(network, name, with_domain_batch_norm(child))
    return network


def choose_domain(network: Any, domain: int) -> None:
    """Say whether the next batch is of the ``SOURCE`` or the ``TARGET``."""
    for module in network.modules():
        if isinstance(module, DomainBatchNorm):
            module.domain = domain
