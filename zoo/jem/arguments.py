"""Checks of what JEM is built with."""

from typing import Any

from torch import nn

from ..shared.arguments import check_at_least, check_literals, check_positive, check_share


def check_arguments(module: Any) -> None:
    """Raise the ``ValueError`` of :class:`zoo.JEM` if its arguments, or they and its network, do not go together."""
    h = module.hparams
    check_literals(module)
    check_at_least(0, weight_px=h.weight_px, weight_pyx=h.weight_pyx, weight_pxy=h.weight_pxy)
    check_at_least(0, step_size=h.step_size, noise_std=h.noise_std, dequantisation_std=h.dequantisation_std)
    check_at_least(0, penalty=h.penalty, lr=h.lr, weight_decay=h.weight_decay)
    check_at_least(0, memory_size=h.memory_size, max_recoveries=h.max_recoveries)
    check_at_least(1, sgld_steps=h.sgld_steps, snapshot_every_n_steps=h.snapshot_every_n_steps)
    check_share(reinit_probability=h.reinit_probability)
    check_positive(gradient_clip=h.gradient_clip)
    if h.weight_px == 0 and h.weight_pxy == 0:
        raise ValueError("weight_px and weight_pxy are both 0, which leaves no generative term: use Classifier")
    if h.weight_px > 0 and h.weight_pxy > 0 and not h.class_conditional:
        raise ValueError(
            f"weight_px={h.weight_px} and weight_pxy={h.weight_pxy} mix unconditional and conditional chains in one "
            "memory; set class_conditional=True, or one of the weights to 0"
        )
    batch_norm = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.network.modules())
    if batch_norm and h.initialisation == "uniform":
        raise ValueError("batch normalisation in the network needs initialisation='informative', not 'uniform'")
