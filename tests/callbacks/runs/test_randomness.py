import os
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from numpy.random import mtrand
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Randomness, SampleGrid
from callbacks.shared.random_state import preserved_random_state, random_state, set_random_state

CPU = torch.device("cpu")


class Noisy(LightningModule):
    """Uses every source of noise: dropout, a shuffled loader, NumPy, Python."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        noise = mtrand.normal() + random.random()
        return (self.layer(batch[0]) + noise).square().mean()

    def sample(self, n):
        assert not self.training
        return torch.rand(n, 1, 4, 4) * random.random() * mtrand.rand()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.01)

    def train_dataloader(self):
        data = torch.arange(64.0).view(16, 4) / 64
        return DataLoader(TensorDataset(data), batch_size=4, shuffle=True)


def fit(folder, epochs, callbacks, ckpt_path=None, **kwargs):
    seed_everything(1, verbose=False)
    model = Noisy()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        callbacks=callbacks,
        **kwargs,
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return model, trainer


class SaveAfter(Callback):
    def __init__(self, path, epoch):
        self.path, self.epoch = path, epoch

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def draw():
    return torch.rand(3).tolist(), random.random(), mtrand.get_state()[1].tolist()


def test_state_goes_round_for_every_generator():
    mtrand.standard_normal()  # leaves a cached second value behind
    state = random_state(CPU)
    before = (draw(), mtrand.standard_normal())
    set_random_state(state, CPU)
    assert (draw(), mtrand.standard_normal()) == before


def test_preserved_state_survives_an_exception():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    with suppress(ZeroDivisionError), preserved_random_state(CPU):
        _ = torch.rand(5).tolist()[0] / 0
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("with_callback", [True, False])
def test_resume_at_an_epoch_boundary_is_exact_only_with_randomness(tmp_path, with_callback):
    path = tmp_path / "middle.ckpt"
    extra = [Randomness()] if with_callback else []
    whole, _ = fit(tmp_path, 4, [*extra, SaveAfter(path, 1)])
    resumed, _ = fit(tmp_path, 4, [*extra], ckpt_path=path)
    assert torch.equal(weights(whole), weights(resumed)) is with_callback


def test_checkpoint_loads_with_weights_only(tmp_path):
    path = tmp_path / "one.ckpt"
    fit(tmp_path, 1, [Randomness(), SaveAfter(path, 0)])
    checkpoint = torch.load(path, weights_only=True)
    (state,) = checkpoint["callbacks"]["Randomness"]["ranks"]
    assert set(state) == {"python", "numpy", "torch", "cuda"}


def test_one_process_is_left_as_seeded(tmp_path):
    alone, _ = fit(tmp_path, 2, [])
    accompanied, _ = fit(tmp_path, 2, [Randomness()])
    assert torch.equal(weights(alone), weights(accompanied))


def test_training_does_not_notice_sample_grids(tmp_path):
    grid = SampleGrid(number=4)
    alone, _ = fit(tmp_path, 3, [])
    watched, _ = fit(tmp_path, 3, [grid])
    assert torch.equal(weights(alone), weights(watched))
    assert grid.grid.dtype == np.uint8
    assert watched.training


def test_sample_grid_names_the_missing_capability(tmp_path):
    class Silent(Noisy):
        sample = None

    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[SampleGrid()])
    with pytest.raises(TypeError, match=r"SampleGrid needs .* sample\(n\) .*Silent has no method 'sample'"):
        trainer.fit(Silent())


def test_sample_grid_refuses_samples_of_another_number(tmp_path):
    class Greedy(Noisy):
        def sample(self, n):
            return torch.zeros(n + 1, 1, 4, 4)

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        callbacks=[SampleGrid(number=4)],
        max_epochs=1,
    )
    with pytest.raises(ValueError, match=r"sample\(n\) of shape \(4, C, H, W\), got \(5, 1, 4, 4\)"):
        trainer.fit(Greedy())


@pytest.mark.parametrize("argument", ["every_n_epochs", "number"])
def test_sample_grid_refuses_zero(argument):
    with pytest.raises(ValueError, match=f"expected {argument} of at least 1, got 0"):
        SampleGrid(**{argument: 0})


class Witness(Callback):
    """Writes down, for each rank, the weights at the start and the noise of the first epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_start(self, trainer, pl_module):
        first = weights(pl_module), torch.rand(2), torch.tensor([random.random(), mtrand.random_sample()])
        torch.save(first, self.folder / f"start{trainer.global_rank}.pt")

    def on_train_end(self, trainer, pl_module):
        torch.save((weights(pl_module), torch.rand(2)), self.folder / f"end{trainer.global_rank}.pt")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "")


def test_two_ranks_start_equal_draw_apart_and_are_both_saved(tmp_path, no_gpu):
    path = tmp_path / "one.ckpt"
    fit(tmp_path, 1, [Randomness(), Witness(tmp_path), SaveAfter(path, 0)], strategy="ddp_fork", devices=2)
    (first, *noise_0), (second, *noise_1) = (torch.load(tmp_path / f"start{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second)
    for on_rank_0, on_rank_1 in zip(noise_0, noise_1, strict=True):
        assert not torch.equal(on_rank_0, on_rank_1)
    assert len(torch.load(path, weights_only=True)["callbacks"]["Randomness"]["ranks"]) == 2


def test_two_ranks_resume_bit_for_bit(tmp_path, no_gpu):
    class End(Witness):
        def on_train_start(self, trainer, pl_module): ...

    options = {"strategy": "ddp_fork", "devices": 2}
    path, folders = tmp_path / "middle.ckpt", [tmp_path / name for name in ("whole", "resumed")]
    for folder in folders:
        folder.mkdir()
    fit(tmp_path, 4, [Randomness(), End(folders[0]), SaveAfter(path, 1)], **options)
    fit(tmp_path, 4, [Randomness(), End(folders[1])], ckpt_path=path, **options)
    for rank in (0, 1):
        whole, resumed = (torch.load(folder / f"end{rank}.pt") for folder in folders)
        assert torch.equal(whole[0], resumed[0])
        assert torch.equal(whole[1], resumed[1])


def test_a_rank_without_a_saved_state_gets_one_of_its_own(tmp_path, no_gpu):
    path = tmp_path / "single.ckpt"
    fit(tmp_path, 1, [Randomness(), SaveAfter(path, 0)])
    fit(tmp_path, 2, [Randomness(), Witness(tmp_path)], ckpt_path=path, strategy="ddp_fork", devices=2)
    (_, *noise_0), (_, *noise_1) = (torch.load(tmp_path / f"start{rank}.pt") for rank in (0, 1))
    for on_rank_0, on_rank_1 in zip(noise_0, noise_1, strict=True):
        assert not torch.equal(on_rank_0, on_rank_1)
