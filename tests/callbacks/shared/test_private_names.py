"""Whether Lightning still has the private names that the callbacks use, and whether one file names them all."""

import ast
from pathlib import Path
from typing import Any

import torch
from contract_runs import QUIET
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSamplerWrapper
from lightning.pytorch.plugins.environments import SLURMEnvironment
from torch.utils.data import DataLoader, RandomSampler

import callbacks
from callbacks.shared import private_names

PACKAGE = Path(callbacks.__file__).parent


def test_one_file_names_what_is_private_in_others():
    public = {"_asdict", "_validate_args"}  # of named tuples and of torch's distributions
    elsewhere = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.attr}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")) and node.attr not in public
        if path.name != "private_names.py"
    ]
    assert elsewhere == []


class Line(LightningModule):
    """One weight, whose optimiser asks for the number of steps, which has the loaders set up early."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), 0.1)


class Positioned(DataLoader):
    """Counts how often it is told its position."""

    told = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {"position": 1}
        self.told += 1


class Watches(Callback):
    """Writes down what the functions say after each batch."""

    def __init__(self) -> None:
        self.resumable: list[bool] = []
        self.rows: list[Any] = []

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        private_names.restore_loader_positions(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.resumable.append(private_names.can_resume_from_here(trainer))
        self.rows.append(private_names.unlogged_row(trainer))


def fit(folder: Path, ckpt_path: Path | None = None, **arguments: Any) -> tuple[Watches, Positioned]:
    """An epoch of six batches, with a checkpoint after every second step."""
    watches, loader = Watches(), Positioned(torch.ones(6, 1))
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
    few = {"enable_checkpointing": True, "max_epochs": 1, "log_every_n_steps": 1}
    trainer = Trainer(**QUIET | few | arguments, callbacks=[watches, keep])
    trainer.fit(Line(), loader, DataLoader(torch.ones(1, 1)), ckpt_path=ckpt_path, weights_only=True)
    assert private_names.last_step_saved(keep) == trainer.global_step
    return watches, loader


def test_the_training_loops_names_are_where_they_were(tmp_path):
    watches, loader = fit(tmp_path, limit_val_batches=0)
    assert loader.told == 0
    assert watches.resumable == [True] * 5 + [False]  # the epoch ends after the sixth batch
    assert [row["step"] for row in watches.rows] == [*range(6)]
    assert watches.rows[0]["row"].keys() == {"epoch", "train/loss"}
    watches, loader = fit(tmp_path, tmp_path / "step=2.ckpt", limit_val_batches=0)
    assert loader.told == 1, "the loaders, which were set up early, do not have their position"


def test_nobody_resumes_in_an_accumulation_or_before_a_validation(tmp_path):
    watches, _ = fit(tmp_path, accumulate_grad_batches=3, limit_val_batches=0)
    assert watches.resumable == [False, False, True, False, False, False]
    assert [row and row["step"] for row in watches.rows] == [None, None, 0, None, None, 1]
    watches, _ = fit(tmp_path, limit_val_batches=1, val_check_interval=2)
    assert watches.resumable == [True, False, True, False, True, False]


def test_the_plugin_of_slurm_is_found():
    trainer = Trainer(**QUIET, plugins=[SLURMEnvironment(auto_requeue=False)])
    assert isinstance(private_names.cluster_environment(trainer), SLURMEnvironment)


def test_a_csv_logger_appends(tmp_path):
    for number in (1, 2):
        logger = private_names.AppendingCSVLogger(tmp_path, "", 0)
        logger.log_metrics({"loss": number}, step=number)
        logger.finalize("success")
    assert Path(logger.log_dir, "metrics.csv").read_text().split() == ["loss,step", "1,1", "2,2"]


def test_an_online_logger_of_weights_and_biases_is_switched_to_offline(tmp_path):
    assert private_names.switch_to_offline(logger := WandbLogger(save_dir=str(tmp_path)))
    assert logger._wandb_init["mode"] == "offline"
    assert not private_names.switch_to_offline(logger)
    assert not private_names.switch_to_offline(CSVLogger(tmp_path))


def test_the_users_sampler_is_found_in_lightnings_own():
    sampler = RandomSampler(range(3))
    wrapped = UnrepeatedDistributedSamplerWrapper(sampler, num_replicas=1, rank=0)
    assert private_names.sampler_inside(wrapped) is sampler
    assert private_names.sampler_inside(sampler) is None
