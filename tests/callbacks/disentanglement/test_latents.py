"""`LatentPictures`: every picture shows what it says, of any module with an encoder and a decoder."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from disentanglement_toys import SIDE, Halves, ToyEncoder, ToyVAE
from evaluation_toys import trainer_of
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from torch.distributions import Laplace, Normal
from torch.utils.data import DataLoader, TensorDataset

from callbacks import LatentPictures
from callbacks.disentanglement.latents import code_statistics, code_sums, traversal_codes
from callbacks.disentanglement.latents_figure import (
    GAP,
    SMALLEST,
    kl_figure,
    latent_names,
    mosaic,
    mutual_information_figure,
    traversals_figure,
)


def results_of(module=None, data=None, **arguments):
    callback = LatentPictures(**arguments)
    trainer = trainer_of(callback)
    trainer.test(module or ToyVAE(), data or Halves(), verbose=False)
    return callback.results, trainer


def test_the_divergence_of_each_latent_is_that_of_its_posterior_from_the_prior():
    found, trainer = results_of()
    data = Halves()
    mean = ToyVAE().encode(data.images_of(data.factors)).detach().double()
    for latent, deviation in enumerate(ToyVAE.deviations):
        each = torch.distributions.kl_divergence(Normal(mean[:, latent], deviation), Normal(0.0, 1.0))
        assert found["kl"][latent] == pytest.approx(each.mean().item(), rel=1e-6, abs=1e-9)
    assert found["samples"] == 30
    assert found["order"].tolist() == [0, 1, 2]
    assert found["active"].tolist() == [True, True, False]
    assert trainer.callback_metrics["latents/active"] == 2


def test_the_aggregate_posterior_has_the_moments_of_draws_from_it():
    generator = torch.Generator().manual_seed(0)
    mean, deviation = torch.randn(20_000, 2, generator=generator) * 3 + 1, torch.tensor([0.5, 4.0]).expand(20_000, 2)
    draws = mean + deviation * torch.randn(mean.shape, generator=generator)
    found = code_statistics(code_sums(mean[:700], deviation[:700]) + code_sums(mean[700:], deviation[700:]))
    np.testing.assert_allclose(found["mean"], draws.mean(0), atol=0.1)
    np.testing.assert_allclose(found["std"], draws.std(0), rtol=0.02)


def test_a_traversal_changes_one_latent_and_keeps_the_others_at_the_start():
    statistics = {"mean": np.array([1.0, 0.0, 5.0]), "std": np.array([2.0, 0.0, 1.0])}
    starts = torch.tensor([[3.0, 7.0, 5.75], [0.5, 7.0, 9.0]]).double()
    codes, nearest = traversal_codes(starts, statistics, np.array([2, 0, 1]), np.array([-1.0, 0.0, 1.0]))
    assert codes.shape == (2, 3, 3, 3)
    assert codes[0, 0].tolist() == [[3, 7, 4], [3, 7, 5], [3, 7, 6]]
    assert codes[1, 1].tolist() == [[-1, 7, 9], [1, 7, 9], [3, 7, 9]]
    assert codes[0, 2].tolist() == [[3, 0, 5.75]] * 3
    assert nearest.tolist() == [[2, 2, 1], [2, 1, 1]]  # a latent without spread starts in the middle


def test_the_pictures_show_the_images_their_reconstructions_and_one_latent_at_a_time():
    found, _ = results_of(starts=2, number=4, columns=5, extent=1.5)
    data = Halves()
    x = data.images_of(data.factors[:4])
    expected = ((x + 1) / 2 * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found["input"], expected)
    np.testing.assert_array_equal(found["reconstruction"], expected)
    traversals = found["traversals"]
    assert traversals.shape == (2, 3, 5, SIDE, SIDE, 1)
    left, right = traversals[..., 0, 0, 0].astype(int), traversals[..., 0, -1, 0].astype(int)
    assert (np.diff(left[:, 0]) >= 0).all()
    assert left[:, 0].max() > left[:, 0].min()
    assert (right[:, 0] == right[:, 0, :1]).all()
    assert (np.diff(right[:, 1]) >= 0).all()
    assert (left[:, 1] == left[:, 1, :1]).all()
    # the third latent is dead: every column is the reconstruction
    np.testing.assert_array_equal(traversals[:, 2], np.repeat(expected[:2, None], 5, axis=1))
    value = found["mean"][0] + found["std"][0] * 0.75
    assert left[0, 0, 3] == round(min(1, (value + 1) / 2) * 255)


def test_without_a_posterior_latents_are_sorted_by_their_spread_and_there_is_no_divergence():
    class Right(ToyEncoder):
        def encode(self, x):
            return super().encode(x) * torch.tensor([0.2, 1.0, 1.0])

    found, _ = results_of(Right())
    assert found["kl"] is None
    assert found["order"].tolist() == [1, 0, 2]
    assert latent_names(found)[0].startswith("z1  std 0.8")


def test_many_latents_are_cut_to_the_most_informative_and_few_images_are_enough():
    found, _ = results_of(data=Halves(number=2), latents=2)
    assert found["traversals"].shape[:3] == (2, 2, 9)
    assert len(found["input"]) == 2


def test_images_in_another_range_are_shown_right_and_named_if_they_do_not_fit():
    class Unit(Halves):
        def images_of(self, factors, generator=None):
            return (super().images_of(factors) + 1) / 2

    expected, _ = results_of()
    found, _ = results_of(data=Unit(), input_range=[0, 1])
    np.testing.assert_array_equal(found["input"], expected["input"])
    with pytest.raises(ValueError, match=r"input_range \[0.0, 1.0\].*\[-1, 1\]"):
        results_of(input_range=[0, 1])


class Blank(LightningModule):
    def test_step(self, batch, batch_idx):
        pass


class Mute(Blank):
    def encode(self, x):
        return x.flatten(1)


class Shapeless(ToyEncoder):
    def encode(self, x):
        return x


class Narrow(ToyEncoder):
    def decode(self, z):
        return z


class Other(ToyVAE):
    def posterior(self, x):
        return Laplace(self.encode(x), 1.0)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (Mute, TypeError, r"LatentPictures needs a module with decode\(z\) .*Mute has no method 'decode'"),
        (Blank, TypeError, r"encode\(x\) -> \(B, L\); Blank has no method 'encode'"),
        (Shapeless, ValueError, r"expected Shapeless\.encode\(x\) of shape \(4, latents\), got \(4, 1, 8, 8\)"),
        (Narrow, ValueError, r"expected Narrow\.decode\(z\) of shape \(64, 1, 8, 8\), got \(64, 3\)"),
        (Other, ValueError, r"expected a Normal or Independent\(Normal\) from Other\.posterior\(x\), got Laplace"),
    ],
)
def test_what_a_module_lacks_is_named_in_one_message(module, error, message):
    with pytest.raises(error, match=message):
        results_of(module())


@pytest.mark.parametrize(
    "arguments",
    [
        {"starts": 0},
        {"number": 2, "starts": 3},
        {"columns": 1},
        {"extent": 0},
        {"extent": math.nan},
        {"latents": 0},
        {"every_n_validations": 0},
        {"input_range": [1, 1]},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"expected {next(iter(arguments))}"):
        LatentPictures(**arguments)


def test_tables_are_no_images():
    class Rows(Halves):
        def loader(self):
            return DataLoader(TensorDataset(torch.ones(4, 3), torch.ones(4).long()), 4)

        test_dataloader = loader

    with pytest.raises(ValueError, match=r"batch of images \(B, 1 or 3, H, W\), got shape \(4, 3\)"):
        results_of(data=Rows())


def test_codes_that_are_not_finite_draw_nothing_and_say_so():
    class Broken(ToyEncoder):
        def encode(self, x):
            return super().encode(x) / 0

    with pytest.warns(UserWarning, match="codes of Broken are not finite"):
        found, trainer = results_of(Broken())
    assert found == {}
    assert "latents/active" not in trainer.callback_metrics


def test_loggers_get_every_picture(tmp_path):
    logger = CSVLogger(tmp_path, "run")
    trainer_of(LatentPictures(), logger=logger).test(ToyVAE(), Halves(), verbose=False)
    folder = Path(logger.log_dir, "images/latents")
    assert sorted(path.name for path in folder.iterdir()) == ["kl.png", "reconstructions.png", "traversals.png"]
    assert np.asarray(Image.open(folder / "kl.png")).std() > 10
    height, width = np.asarray(Image.open(folder / "reconstructions.png")).shape[:2]
    assert (height, width) == (2 * SMALLEST + GAP, 10 * SMALLEST + 9 * GAP)


class Count(Callback):
    def __init__(self, other):
        self.other, self.found = other, []

    def on_validation_end(self, trainer, pl_module):
        self.found.append(bool(self.other.results))


class Restless(ToyVAE):
    def posterior(self, x):
        torch.rand(3)
        return super().posterior(x)

    def decode(self, z):
        return super().decode(z) + 0 * torch.rand(())


def test_pictures_in_a_fit_come_after_every_nth_validation_and_leave_the_training_as_it_is(tmp_path):
    def fit(*callbacks):
        torch.manual_seed(0)
        module, logger = Restless(), CSVLogger(tmp_path, "run")
        trainer_of(*callbacks, max_epochs=5, logger=logger).fit(module, Halves())
        return module.scale.item(), torch.rand(()), Path(logger.log_dir)

    callback = LatentPictures(every_n_validations=2)
    *expected, bare = fit()
    *found, folder = fit(callback, count := Count(callback))
    assert found == expected
    assert count.found == [False, False, True, False, True, False]  # the first is the sanity check
    assert (folder / "images/latents/traversals.png").exists()
    assert not (bare / "images").exists()


def test_a_mosaic_holds_every_picture_in_its_place_and_enlarges_small_ones():
    pictures = np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * np.ones((1, 1, 60, 60, 1), np.uint8)
    grid = mosaic(pictures)
    assert grid.shape == (2 * 60 + GAP, 3 * 60 + 2 * GAP, 1)
    for row in range(2):
        for column in range(3):
            top, left = row * (60 + GAP), column * (60 + GAP)
            assert (grid[top : top + 60, left : left + 60] == 3 * row + column).all()
    assert (grid[60 : 60 + GAP] == 255).all()
    assert mosaic(pictures[:, :, :8, :8]).shape == (2 * SMALLEST + GAP, 3 * SMALLEST + 2 * GAP, 1)


@pytest.mark.parametrize("vary", ["posterior", "no posterior", "one start", "many latents"])
def test_nothing_in_the_figures_is_cut_off(vary):
    module = ToyEncoder() if vary == "no posterior" else ToyVAE()
    found, _ = results_of(module, columns=5, starts=1 if vary == "one start" else 3)
    if vary == "many latents":
        found |= {"order": np.arange(30), "kl": np.full(30, 4.5), "active": np.arange(30) < 6}
    drawn = [traversals_figure(found)]
    drawn += [kl_figure(found)] if found["kl"] is not None else []
    drawn += [mutual_information_figure(np.random.default_rng(0).random((10, 5)), ["orientation of it"] * 5)]
    for figure in drawn:
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
        boxes += [text.get_window_extent(renderer) for text in figure.texts]
        for box in boxes:
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1


def test_bars_are_the_divergences_and_active_latents_are_filled():
    found = {"order": np.array([2, 0, 1]), "kl": np.array([1.0, 0.0, 3.0]), "active": np.array([True, False, True])}
    (axes,) = kl_figure(found).axes
    bars = sorted((round(bar.get_x() + bar.get_width() / 2), bar.get_height(), bar.get_fill()) for bar in axes.patches)
    assert [bar[:2] for bar in bars] == [(0, 3.0), (1, 1.0), (2, 0.0)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["z2", "z0", "z1"]
    assert axes.get_title() == "4 nats in all, 2 of 3 latents active"


class Keep(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_test_end(self, trainer, pl_module):
        (callback,) = [callback for callback in trainer.callbacks if isinstance(callback, LatentPictures)]
        np.savez(self.folder / f"{trainer.global_rank}.npz", **callback.results)


def found_by(folder, devices, number):
    folder.mkdir()
    options = {"strategy": "ddp_fork"} if devices > 1 else {}
    callbacks = [LatentPictures(number=3), Keep(folder)]
    logger = CSVLogger(folder, "run")
    trainer_of(*callbacks, devices=devices, logger=logger, **options).test(ToyVAE(), Halves(number), verbose=False)
    assert len(list(folder.glob("run/**/traversals.png"))) == 1
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(devices)]


@pytest.mark.parametrize("number", [16, pytest.param(3, marks=pytest.mark.long)])
def test_several_processes_draw_the_images_of_the_first_and_add_up_what_all_saw(tmp_path, monkeypatch, number):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    torch.set_num_threads(1)
    (alone,) = found_by(tmp_path / "one", 1, number)
    first, second = found_by(tmp_path / "two", 2, number)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    every_other = Halves(number)
    x = every_other.images_of(every_other.factors[::2][:3])
    shown = ((x + 1) / 2 * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(first["input"], shown)
    assert first["samples"] == number + number % 2
    if not number % 2:
        np.testing.assert_allclose(first["kl"], alone["kl"], rtol=1e-12)
