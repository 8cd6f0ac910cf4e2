"""Local error signals on two processes: equal ranks, the joint batch's gradients, averages under way meanwhile."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.utils.data import DataLoader, TensorDataset

from zoo import LocalErrorSignals
from zoo.local_error import processes
from zoo.local_error.blocks import Block
from zoo.shared.nets.dropout import ChannelDropout
from zoo.shared.processes import rank_and_world_size


class SyncNorm(nn.BatchNorm2d):
    """Batch normalisation over all processes; torch's own needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        dims = [0, 2, 3]
        moments = torch.stack([x.mean(dims), x.square().mean(dims)])
        if distributed.is_initialized():
            moments = all_reduce(moments) / distributed.get_world_size()
        mean, square = moments[:, :, None, None]
        normal = (x - mean) / (square - mean.square() + self.eps).sqrt()
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class Small(LocalErrorSignals):
    """Two convolutions and plain gradient descent: Adam would turn the rounding of vanishing gradients into steps."""

    norm: Any = nn.BatchNorm2d

    def build_blocks(self) -> list[nn.Module]:
        def convolution(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, bias=False), self.norm(outputs), nn.LeakyReLU(0.01))

        after = ChannelDropout(self.hparams["dropout"])
        return [
            Block(convolution(1, 5), after),
            convolution(5, 7),
            nn.Sequential(nn.Flatten(), nn.Linear(7, 6), nn.Tanh()),
        ]

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Each process takes its share of the joint batch."""
        rank, world = rank_and_world_size()
        return batch[0][rank::world], batch[1][rank::world]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.2, momentum=0.9)


class Synchronised(Small):
    norm = SyncNorm


class Keep(L.Callback):
    """Writes each rank's state after the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Any, module: Any) -> None:
        torch.save({"state": module.state_dict(), "steps": trainer.global_step}, self.folder / f"{trainer.global_rank}")


def fit(module: LocalErrorSignals, folder: Path, devices: int, *callbacks: L.Callback) -> list[dict[str, Tensor]]:
    """The states of all ranks after five steps of 24 images in all."""
    folder.mkdir(parents=True)
    x = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    y = torch.randint(3, (120,), generator=torch.Generator().manual_seed(0))
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", devices=devices, strategy="ddp_fork" if devices > 1 else "auto", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, precision="64-true",
        use_distributed_sampler=False, callbacks=[Keep(folder), *callbacks],
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(x, y), 24))
    found = [torch.load(folder / f"{rank}", weights_only=True) for rank in range(devices)]
    assert {one["steps"] for one in found} == {5}
    return [one["state"] for one in found]


def build(kind: type[LocalErrorSignals], **arguments: Any) -> LocalErrorSignals:
    torch.manual_seed(0)
    return kind(3, (1, 8, 8), **arguments)


@pytest.mark.parametrize("pairs", ["local", "global"])
@pytest.mark.parametrize("loss", ["predsim", "predsim-bpf"])
def test_ranks_that_update_in_the_sweep_agree_to_the_last_bit_running_statistics_included(loss, pairs, tmp_path):
    first, second = fit(build(Small, loss=loss, similarity_pairs=pairs, dropout=0.3), tmp_path / "two", 2)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    before = build(Small, loss=loss).double().state_dict()
    changed = {key for key in first if not torch.equal(first[key], before[key])}
    assert changed == {key for key in first if "feedback" not in key and "projection" not in key}


@pytest.mark.parametrize("training", ["blockwise", "summed"])
@pytest.mark.parametrize("loss", ["predsim", "predsim-bpf"])
def test_two_ranks_agree_with_one_on_the_joint_batch(loss, training, tmp_path):
    arguments = {"loss": loss, "beta": 0.5, "similarity_pairs": "global", "training": training}
    (one,) = fit(build(Synchronised, **arguments), tmp_path / "one", 1)
    two = fit(build(Synchronised, **arguments), tmp_path / "two", 2)
    for key, value in one.items():
        torch.testing.assert_close(two[0][key], value, rtol=1e-9, atol=1e-12)
    start = build(Synchronised, **arguments).double().named_parameters()
    assert min((one[name] - value).abs().max().item() for name, value in start) > 1e-5

    local = fit(build(Synchronised, **arguments | {"similarity_pairs": "local"}), tmp_path / "local", 2)
    apart = [(local[0][key] - one[key]).abs().max().item() for key in one if key.endswith("body.0.weight")]
    assert min(apart) > 1e-5, "pairs of one process only are another loss"


def test_averages_of_a_block_are_under_way_while_the_next_one_computes(tmp_path, monkeypatch):
    events: list[str] = []

    class Recorded(processes.Average):
        def __init__(self, tensors: Any) -> None:
            super().__init__(tensors)
            events.append("start")

        def wait(self) -> None:
            super().wait()
            events.append("wait")

    monkeypatch.setattr("zoo.local_error.updates.Average", Recorded)
    module = build(Small)
    for number, block in enumerate([*module.network.blocks, module.network.output]):
        block.register_forward_hook(lambda *_, number=number: events.append(f"forward {number}"))

    class Write(L.Callback):
        def on_train_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_rank == 0:
                (tmp_path / "events").write_text("\n".join(events))

    fit(module, tmp_path / "states", 2, Write())
    first = (tmp_path / "events").read_text().splitlines()[:12]
    assert first == [
        "forward 0", "start", "forward 1", "wait", "start", "forward 2", "wait", "start", "forward 3", "wait", "start",
        "wait",
    ]  # fmt: skip


def test_two_ranks_drop_different_channels_though_their_generators_are_alike(tmp_path):
    class Masks(L.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            torch.manual_seed(0)
            torch.save(ChannelDropout(0.5)(torch.ones(4, 50)), tmp_path / f"mask{trainer.global_rank}")

    fit(build(Small), tmp_path / "states", 2, Masks())
    first, second = (torch.load(tmp_path / f"mask{rank}", weights_only=True) for rank in (0, 1))
    assert not torch.equal(first, second)
