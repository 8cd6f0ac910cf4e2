"""What `DANN` refuses before anything is built."""

from typing import Any

from .net import check_network

ADAPTATIONS = ("none", "dann", "cdan", "cdan_e")
NORMALISATIONS = ("none", "joint", "per_domain")


def check_arguments(h: Any) -> None:
    """Refuse arguments out of their range.

    Args:
        h: The module's hyper-parameters.

    Raises:
        ValueError: With the name, the value and what was expected.
    """
    for name, choices in (("adaptation", ADAPTATIONS), ("normalisation", NORMALISATIONS)):
        if h[name] not in choices:
            raise ValueError(f"{name} is {h[name]!r}; expected one of {', '.join(choices)}")
    check_network(h.network, h.network_args or {}, h.normalisation)
    if h.num_classes < 2:
        raise ValueError(f"num_classes is {h.num_classes}; a classifier needs at least 2 classes")
    if not h.image_shape or min(h.image_shape) < 1:
        raise ValueError(f"image_shape is {tuple(h.image_shape)}; expected positive sizes")
    for name in ("max_coefficient", "domain_weight", "momentum", "weight_decay", "features_lr_factor"):
        if not 0 <= h[name] < float("inf"):
            raise ValueError(f"{name} is {h[name]}; expected a number of at least 0")
    for name in ("gamma", "lr", "max_norm", "random_features"):
        if h[name] is not None and not 0 < h[name] < float("inf"):
            raise ValueError(f"{name} is {h[name]}; expected a number above 0")
    if h.random_features is not None and not h.adaptation.startswith("cdan"):
        raise ValueError(f"random_features={h.random_features} is for a conditional domain head, not {h.adaptation!r}")
