"""The configurations of the contract, built and run for a few steps without logs."""

from pathlib import Path
from typing import Any

import torch._inductor.config
import yaml
from lightning.pytorch import Callback, Trainer

import train

CONTRACT = Path(__file__).resolve().parents[1] / "contract"
CONFS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONTRACT.glob("conf/*.yaml"))}


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
}


def build(conf: dict[str, Any]) -> tuple[Any, Any]:
    cli = train.main({key: conf[key] for key in ("model", "data")} | {"trainer": dict(QUIET)}, run=False)
    return cli.model, cli.datamodule


def fit(model: Any, data: Any, callbacks: list[Callback], ckpt_path: Path | None = None, **arguments: Any) -> Trainer:
    few = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 0, "log_every_n_steps": 1}
    trainer = Trainer(**QUIET | few | arguments, callbacks=callbacks)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        extra = [f"{where}/{key}" for key in a.keys() ^ b.keys()]
        return extra + [found for key in a.keys() & b.keys() for found in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [found for i, (x, y) in pairs for found in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [where]
