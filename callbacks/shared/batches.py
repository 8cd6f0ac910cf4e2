"""What callbacks take out of a batch, and what they check of a module's outputs."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor


def data_module(trainer: Trainer) -> LightningDataModule | None:
    """The data module of a run, where it has one."""
    return getattr(trainer, "datamodule", None)


def has_targets(batch: Any) -> bool:
    """Whether a batch is ``(x, y)`` with a real number, integer or not, for each sample."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        return False
    x, y = batch[:2]
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or x.ndim == 0:
        return False
    return y.shape == x.shape[:1] and y.dtype != torch.bool and not y.is_complex()


def is_labelled(batch: Any) -> bool:
    """Whether a batch is ``(x, y)`` with integer labels, one for each sample."""
    return has_targets(batch) and not batch[1].is_floating_point()


def target_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return x (B, …) and y (B,) of a batch ``(x, y)`` of regression, or raise a ``ValueError``."""
    if not has_targets(batch):
        raise ValueError(f"expected a batch (x, y) with real numbers y of shape (B,), got {_describe(batch)}")
    return batch[0], batch[1]


def labelled_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return x (B, …) and y (B,) of a batch ``(x, y)`` of classification, or raise a ``ValueError``."""
    if not is_labelled(batch):
        raise ValueError(f"expected a batch (x, y) with integer labels y of shape (B,), got {_describe(batch)}")
    return batch[0], batch[1]


def batch_inputs(batch: Any) -> Tensor:
    """Return x (B, …) of a batch ``(x, …)`` or ``x``."""
    x = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if not isinstance(x, Tensor) or x.ndim == 0:
        raise ValueError(f"expected a batch (x, y) or x with a tensor x, got {_describe(batch)}")
    return x


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} of {len(value)}: " + ", ".join(_describe(part) for part in value[:3])
    return type(value).__name__


def batch_logits(trainer: Trainer, pl_module: LightningModule, outputs: Any, x: Tensor) -> Tensor:
    """Logits (B, K) on the CPU: those that the step returned in a dict as "logits", else of the forward."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else None
    if logits is None:
        with trainer.precision_plugin.forward_context():
            logits = pl_module(x)
    name = type(pl_module).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(f"expected logits of shape ({len(x)}, classes) from {name}, got {_describe(logits)}")
    if logits.shape[1] < 2:
        raise ValueError(f"expected logits of at least two classes from {name}, got shape {tuple(logits.shape)}")
    return to_table(logits)


def to_table(values: Tensor) -> Tensor:
    """Detached, on the CPU, and in float32 at least."""
    values = values.detach().cpu()
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_logits(logits: Tensor, of: str) -> None:
    """Raise a ``ValueError`` if the logits (N, K) of a whole set are empty, not finite, or probabilities."""
    if len(logits) == 0:
        raise ValueError(f"no samples in {of}")
    if broken := int((~logits.isfinite().all(dim=1)).sum()):
        raise ValueError(f"NaN or infinite logits for {broken} of {len(logits)} samples of {of}")
    if bool((logits >= 0).all()) and bool(((logits.double().sum(dim=1) - 1).abs() < 1e-3).all()):
        raise ValueError(f"expected logits, but all rows of {of} are probabilities: return them before the softmax")


def fingerprints(x: Tensor, values: int = 4096) -> Tensor:
    """One number per sample, (B, …) to (B,) int64: equal for equal inputs, whatever batch they are in.

    It is made of at most ``values`` values of a sample, evenly spread, in integer arithmetic, which has no rounding.
    """
    flat = x.detach().flatten(1) if x.ndim > 1 else x.detach()[:, None]
    flat = flat[:, :: max(1, -(-flat.shape[1] // values))].float() + 0.0  # no negative zero
    weights = torch.randint(2**62, flat.shape[1:], generator=torch.Generator().manual_seed(0)).to(flat.device)
    return (flat.contiguous().view(torch.int32).long() * weights).sum(dim=1).cpu()
