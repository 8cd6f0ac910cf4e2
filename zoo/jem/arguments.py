"""What JEM refuses to be built with."""

from collections.abc import Mapping
from typing import Any

CHOICES = {
    "initialisation": ("uniform", "informative"),
    "chain_precision": ("float32", "bfloat16"),
    "optimizer": ("adam", "sgd"),
}
LEAST = {
    "weight_px": 0, "weight_pyx": 0, "weight_pxy": 0, "sgld_steps": 1, "step_size": 0, "noise_std": 0, "memory_size": 0,
    "reinit_probability": 0, "dequantisation_std": 0, "penalty": 0, "lr": 0, "weight_decay": 0, "max_recoveries": 0,
    "snapshot_every_n_steps": 1,
}  # fmt: skip


def check_arguments(arguments: Mapping[str, Any], batch_norm: bool) -> None:
    """Refuse arguments that no training can use.

    Args:
        arguments: Those of :class:`zoo.JEM`.
        batch_norm: Whether the network has batch normalisation.

    Raises:
        ValueError: For a value that is none of the choices or out of its range, no generative term, both kinds of
            chains on one memory, or batch normalisation with uniform starts.
    """
    for name, choices in CHOICES.items():
        if arguments[name] not in choices:
            raise ValueError(f"{name} is {arguments[name]!r}; expected one of {', '.join(choices)}")
    for name, least in LEAST.items():
        if not arguments[name] >= least:  # NaN fails too
            raise ValueError(f"{name} is {arguments[name]}; expected at least {least}")
    if not arguments["reinit_probability"] <= 1:
        raise ValueError(f"reinit_probability is {arguments['reinit_probability']}; expected at most 1")
    px, pxy = arguments["weight_px"], arguments["weight_pxy"]
    if px == 0 and pxy == 0:
        raise ValueError("weight_px and weight_pxy are both 0, which leaves no generative term: use Classifier")
    if px > 0 and pxy > 0 and not arguments["class_conditional"]:
        raise ValueError(
            f"weight_px={px} and weight_pxy={pxy} mix unconditional and conditional chains in one memory; "
            "set class_conditional=True, or one of the weights to 0"
        )
    if batch_norm and arguments["initialisation"] == "uniform":
        raise ValueError("batch normalisation in the network needs initialisation='informative', not 'uniform'")


def check_parts(batch: Mapping[str, Any]) -> None:
    """Refuse a batch of named parts that are not JEM's.

    Raises:
        ValueError: With the names.
    """
    if not {"labelled", "unlabelled"} <= batch.keys():
        found = ", ".join(batch)
        raise ValueError(
            f"a batch is {found}; expected labelled and unlabelled, such as SemiSupervisedDataModule gives"
        )
