"""Rows of all processes with their gradients, and random numbers and masks that no two processes share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from zoo.shared.nets.dropout import ChannelDropout, Dropout
from zoo.shared.processes import gather_rows, own_draw, rank_and_world_size


class Gathering(LightningModule):
    """Keeps, in a file of each process, what the functions give there."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def test_step(self, batch: Any, batch_idx: int) -> None:
        rank, _ = rank_and_world_size()
        x = (torch.arange(6.0).view(2, 3) + 10 * rank).requires_grad_()
        with torch.inference_mode(False), torch.enable_grad():
            rows = gather_rows(x)
            (rows[0] * (rank + 1) + rows[-1] * 100).sum().backward()
        draws = [own_draw(torch.rand, x), Dropout(0.5)(torch.ones(4, 50)), ChannelDropout(0.5)(torch.ones(4, 50, 2, 2))]
        torch.save([rows.detach(), x.grad, *draws], self.folder / str(rank))


def of_two_processes(folder: Path) -> list[list[Tensor]]:
    quiet: dict[str, Any] = {
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
    }  # fmt: skip
    seed_everything(0, verbose=False)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", **quiet)
    trainer.test(Gathering(folder), DataLoader(TensorDataset(torch.zeros(2))), verbose=False)
    return [torch.load(folder / str(rank)) for rank in range(2)]


def test_one_process_has_its_own_rows_and_numbers():
    x = torch.zeros(2, 3)
    assert rank_and_world_size() == (0, 1)
    assert gather_rows(x) is x
    torch.manual_seed(0)
    own = own_draw(torch.rand, x)
    torch.manual_seed(0)
    assert torch.equal(own, torch.rand(2, 3))


def test_two_processes_gather_rows_with_the_sum_of_gradients_and_draw_different_numbers(tmp_path):
    (rows, first, *draws), (others, second, *other_draws) = of_two_processes(tmp_path)
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(rows, torch.cat([x, x + 10]))
    assert torch.equal(rows, others)
    assert torch.equal(first, torch.tensor([[1.0 + 2.0] * 3, [0.0] * 3]))  # of both processes' losses
    assert torch.equal(second, torch.tensor([[0.0] * 3, [200.0] * 3]))
    for own, other in zip(draws, other_draws, strict=True):
        assert own.shape == other.shape
        assert not torch.equal(own, other)


SHAPES = [(Dropout, (20, 30, 2, 2)), (ChannelDropout, (40, 60, 2, 2)), (ChannelDropout, (40, 60))]


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_dropout_keeps_the_mean_and_drops_numbers_or_channels_in_training_only(kind, shape):
    torch.manual_seed(0)
    x = torch.ones(shape)
    dropped = kind(0.25)(x)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean() == pytest.approx(1, abs=0.03)
    if len(shape) == 4:
        assert bool((dropped == dropped[:, :, :1, :1]).all()) == (kind is ChannelDropout)
    assert kind(0.25).eval()(x) is x
    assert kind(0.0)(x) is x
    for probability in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"dropout is {probability}; expected a probability in \[0, 1\)"):
            kind(probability)
