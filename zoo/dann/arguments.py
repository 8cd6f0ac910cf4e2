"""Checks of the constructor arguments of `DANN`."""

from typing import Any

from ..shared.arguments import check_at_least, check_positive
from .net import check_network


def check_arguments(h: Any) -> None:
    """Check that numbers are in their range, and that the arguments go together.

    Args:
        h: The module's hyper-parameters.

    Raises:
        ValueError: One is out of its range, or does not go with another.
    """
    check_network(h.network, h.network_args or {}, h.normalisation)
    check_at_least(2, num_classes=h.num_classes)
    if not h.image_shape or min(h.image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(h.image_shape)}; expected positive sizes")
    names = ("max_coefficient", "domain_weight", "momentum", "weight_decay", "features_lr_factor")
    check_at_least(0, **{name: h[name] for name in names})
    check_positive(gamma=h.gamma, lr=h.lr, max_norm=h.max_norm, random_features=h.random_features)
    if h.random_features is not None and not h.adaptation.startswith("cdan"):
        raise ValueError(f"random_features={h.random_features} is for a conditional domain head, not {h.adaptation!r}")
