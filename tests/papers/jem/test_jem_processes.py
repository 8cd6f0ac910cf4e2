"""JEM on two processes: memories of their own that survive a resume, noise of their own, recovery together."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from zoo import JEM


def fit(folder: Path, callback: L.Callback | None = None, steps: int = 4, ckpt_path: Path | None = None) -> None:
    L.seed_everything(0, verbose=False)
    model = JEM(
        image_shape=(1, 8, 8), num_classes=3, network="SmallConvNet", network_args={"width": 4}, memory_size=60,
        sgld_steps=2, lr=1e-2, warmup_steps=0, snapshot_every_n_steps=2,
    )  # fmt: skip
    y = torch.arange(48) % 3
    x = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    callbacks = [Keep(folder), *([callback] if callback else [])]
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, y), 6), ckpt_path=ckpt_path, weights_only=True)


class Keep(L.Callback):
    """Writes each rank's state before the first step and after the last one, and a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if not (self.folder / f"start{trainer.global_rank}").exists():
            self.write("start", trainer, module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self.write("end", trainer, module)
        trainer.save_checkpoint(self.folder / "last.ckpt")

    def write(self, name: str, trainer: Any, module: Any) -> None:
        state = {
            "memory": module.chains.memory.images.clone(),
            "generator": module.chains.generator.get_state(),
            "weights": {key: value.clone() for key, value in module.state_dict().items()},
            "recoveries": module.recovery.count,
        }
        torch.save(state, self.folder / f"{name}{trainer.global_rank}")


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}{rank}", weights_only=True) for rank in (0, 1)]


def test_memories_belong_to_their_rank_and_survive_a_resume(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    fit(tmp_path / "first")
    start, end = read(tmp_path / "first", "start"), read(tmp_path / "first", "end")
    assert start[0]["memory"].shape == (30, 1, 8, 8), "60 slots, shared out"
    assert not torch.equal(start[0]["memory"], start[1]["memory"])
    assert not torch.equal(start[0]["generator"], start[1]["generator"]), "no two ranks draw the same noise"
    assert not torch.equal(end[0]["memory"], end[1]["memory"]), "DDP must not broadcast rank 0's"
    assert all(torch.equal(value, end[1]["weights"][key]) for key, value in end[0]["weights"].items())

    fit(tmp_path / "second", steps=6, ckpt_path=tmp_path / "first" / "last.ckpt")
    resumed = read(tmp_path / "second", "start")
    for rank in (0, 1):
        assert torch.equal(resumed[rank]["memory"], end[rank]["memory"])
        assert torch.equal(resumed[rank]["generator"], end[rank]["generator"])

    checkpoint = torch.load(tmp_path / "first" / "last.ckpt", weights_only=True)
    by_class = checkpoint["jem"]["memory"].view(3, 2, 10, 1, 8, 8)  # class, rank, slot
    for rank in (0, 1):
        assert torch.equal(by_class[:, rank].flatten(0, 1), end[rank]["memory"])


class OneRankDiverges(L.Callback):
    """Poisons the chains of rank 1 alone, once."""

    poisoned = False

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3 and trainer.global_rank == 1 and not self.poisoned:
            self.poisoned = True
            module.chains.memory.images.fill_(torch.inf)


@pytest.mark.filterwarnings("ignore:JEM diverged")
def test_both_ranks_recover_when_one_diverges(tmp_path):
    fit(tmp_path, OneRankDiverges(), steps=6)
    end = read(tmp_path, "end")
    assert [state["recoveries"] for state in end] == [1, 1]
    assert all(state["memory"].isfinite().all() for state in end)
    assert all(torch.equal(value, end[1]["weights"][key]) for key, value in end[0]["weights"].items())
    assert all(value.isfinite().all() for value in end[0]["weights"].values())
