"""The configurations of the contract, built and run for a few steps without logs."""

import copy
import functools
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer, seed_everything
from teachers import save_teacher

import datamodules
import train
import zoo
from zoo.command_line.trained import FROM_DATA

CONTRACT = Path(__file__).resolve().parents[1] / "contract"
CONFS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONTRACT.glob("conf/*.yaml"))}
# For slow tests: what another configuration stands for is left to `make test-long`.
ONE_A_METHOD = [
    pytest.param(name, marks=pytest.mark.long) if "resembles" in conf["contract"] else name
    for name, conf in CONFS.items()
]
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
}


@functools.cache
def teacher(name: str, folder: Path) -> bytes:
    """The checkpoint of the teacher that a configuration describes, trained once in a process."""
    conf = copy.deepcopy(CONFS[name])
    save_teacher(folder / "trained.ckpt", conf["contract"]["teacher"], conf["data"])
    return (folder / "trained.ckpt").read_bytes()


def prepared(name: str) -> dict[str, Any]:
    """A configuration of one's own, with its teacher in the working directory."""
    conf = copy.deepcopy(CONFS[name])
    if "teacher" in conf["contract"]:
        Path(conf["model"]["init_args"]["teacher"]).write_bytes(teacher(name, Path.cwd()))
    return conf


def instantiate(node: Any, **more: Any) -> Any:
    """What the command line makes of a class and its arguments, without half a second of its parser."""
    if not isinstance(node, dict) or "class_path" not in node:
        return node
    package, _, name = node["class_path"].partition(".")
    kind = getattr({"zoo": zoo, "datamodules": datamodules}[package], name)
    arguments = {key: instantiate(value) for key, value in node.get("init_args", {}).items()}
    known = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in more.items() if key in known} | arguments)


def build(conf: dict[str, Any]) -> tuple[Any, Any]:
    """The module and the data of a configuration, after seeding, as the command line does it."""
    seed_everything(0, verbose=False)
    conf = copy.deepcopy(conf)
    data = instantiate(conf["data"])
    return instantiate(conf["model"], **{key: getattr(data, key) for key in FROM_DATA if hasattr(data, key)}), data


def build_from_command_line(conf: dict[str, Any]) -> tuple[Any, Any]:
    """The same with all that the command line does."""
    configuration = json.dumps({"model": conf["model"], "data": conf["data"], "trainer": QUIET})
    cli = train.main([f"--config={configuration}"], run=False)
    return cli.model, cli.datamodule


class Losses(Callback):
    """What each training step returned."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"] if isinstance(outputs, dict) else outputs))


def losses_of_a_run(conf: dict[str, Any], steps: int, **arguments: Any) -> tuple[list[float], Any]:
    """After seeding, so that two runs differ in the arguments only."""
    model, data = build(conf)
    losses = Losses()
    fit(model, data, [losses], max_epochs=steps, max_steps=steps, **arguments)
    return losses.values, model


def fitted(conf: dict[str, Any]) -> tuple[Any, Any]:
    """After a step: a regressor takes its support from the training labels."""
    model, data = build(conf)
    fit(model, data, [], limit_train_batches=1)
    return model, data


def fit(model: Any, data: Any, callbacks: list[Callback], ckpt_path: Path | None = None, **arguments: Any) -> Trainer:
    """Train for an epoch of four batches, or as the arguments say."""
    few = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 0, "log_every_n_steps": 1}
    trainer = Trainer(**QUIET | few | arguments, callbacks=callbacks)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """The places in two nested structures where they differ, in any bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        extra = [f"{where}/{key}" for key in a.keys() ^ b.keys()]
        return extra + [place for key in a.keys() & b.keys() for place in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        pairs = enumerate(zip(a, b, strict=True))
        return [place for i, (x, y) in pairs for place in differences(x, y, f"{where}/{i}")]
    return [] if a == b else [where]
