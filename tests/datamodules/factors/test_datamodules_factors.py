"""Data with known factors: what it offers, draws of training, validation and test, processes, arguments refused."""

import json
from itertools import chain

import pytest
import torch
from data_sets import IN_A_FORK, Recorder, trainer
from sprite_draws import VARIANTS, picture_of_places, run, seeded, sprite_of, stacked

from callbacks import Randomness
from datamodules import SpritesDataModule
from datamodules.factors import render as sprites
from datamodules.factors.base import FactorDataModule


@pytest.mark.parametrize(
    ("variant", "name", "channels", "deterministic"),
    [("plain", "sprites", 1, True), *((variant, f"{variant}_sprites", 3, False) for variant in VARIANTS)],
)
def test_what_it_offers_is_known_before_anything_is_drawn(variant, name, channels, deterministic, monkeypatch):
    for function in ("_tables", "_bytes"):
        monkeypatch.setattr(sprites, function, None)
    data = SpritesDataModule(variant)
    assert (data.name, data.test_sets, data.image_shape) == (name, (name,), (channels, 64, 64))
    assert data.factor_names == ("shape", "scale", "orientation", "position_x", "position_y")
    assert data.factor_sizes == (3, 6, 40, 32, 32)
    assert (data.num_images, data.deterministic_images) == (737_280, deterministic)
    assert not hasattr(data, "num_classes")
    assert json.loads(json.dumps(dict(data.hparams)))["variant"] == variant


@pytest.mark.parametrize("variant", ["plain", *VARIANTS])
def test_a_batch_has_images_in_the_range_of_the_zoo_and_whole_numbers_for_factors(variant):
    ((batch,),) = run(SpritesDataModule(variant, batch_size=32, images_per_epoch=63))
    x, factors = batch
    assert (x.dtype, x.shape) == (torch.float32, (32, 1 if variant == "plain" else 3, 64, 64))
    assert (factors.dtype, factors.shape) == (torch.int64, (32, 5))
    assert x.is_contiguous()
    assert -1 <= x.min() < x.max() <= 1


def test_plain_images_are_the_sprites_of_their_factors_white_on_black():
    data = SpritesDataModule(batch_size=50, images_per_epoch=100)
    for x, factors in run(data)[0]:
        assert torch.equal(x, sprite_of(factors) * 2.0 - 1)
        assert torch.equal(x, data.images_of(factors, seeded()))


def test_factors_are_sampled_uniformly_and_independently_by_the_generator():
    data = SpritesDataModule()
    factors = data.sample_factors(20_000, seeded())
    assert (factors.dtype, factors.shape) == (torch.int64, (20_000, 5))
    assert torch.equal(factors, data.sample_factors(20_000, seeded()))
    assert not torch.equal(factors, data.sample_factors(20_000, seeded(1)))
    for column, size in zip(factors.T, data.factor_sizes, strict=True):
        counts, expected = torch.bincount(column, minlength=size), 20_000 / size
        assert len(counts) == size
        assert (counts - expected).abs().max() < 5 * expected**0.5
    assert (torch.corrcoef(factors.T.double()) - torch.eye(5)).abs().max() < 0.04


def test_images_of_leaves_the_generator_alone_where_images_follow_from_the_factors():
    generator, data = seeded(), SpritesDataModule()
    data.images_of(data.sample_factors(4, seeded()), generator)
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_training_draws_with_replacement_from_all_combinations_new_ones_in_each_epoch():
    torch.manual_seed(0)
    data = SpritesDataModule(factor_steps=[3, 6, 10, 8, 8], batch_size=64, images_per_epoch=3_200)
    assert data.num_images == 64
    epochs = [stacked(steps)[1] for steps in run(data, epochs=2)]
    assert [len(epoch) for epoch in epochs] == [3_200, 3_200]
    assert not torch.equal(*epochs)
    places = torch.cat([(epoch[:, 2] * 4 + epoch[:, 3]) * 4 + epoch[:, 4] for epoch in epochs])
    counts = torch.bincount(places, minlength=64)
    assert (counts - 100).abs().max() < 50
    assert 25 < (counts - 100).square().sum() / 100 < 110  # chi squared of 63; passes over all would have 0


def test_an_epoch_has_as_many_whole_batches_as_its_images_make():
    (steps,) = run(SpritesDataModule(batch_size=32, images_per_epoch=100))
    assert [len(x) for x, _ in steps] == [32, 32, 32]


def test_the_seed_of_torch_decides_the_draws_and_the_nuisances():
    def first(seed):
        torch.manual_seed(seed)
        return run(SpritesDataModule("color", batch_size=8, images_per_epoch=8))[0][0]

    (a, fa), (b, fb), (c, fc) = first(0), first(0), first(1)
    assert torch.equal(a, b)
    assert torch.equal(fa, fb)
    assert not torch.equal(a, c)
    assert not torch.equal(fa, fc)


def test_overfitting_repeats_the_same_factors():
    epochs = run(SpritesDataModule(batch_size=16, images_per_epoch=160), epochs=2, overfit_batches=2)
    factors = [[part[1] for part in steps] for steps in epochs]
    assert [len(epoch) for epoch in factors] == [2, 2]
    assert all(torch.equal(*pair) for pair in zip(*factors, strict=True))


def evaluated(data, stage):
    module = Recorder()
    getattr(trainer(), {"val": "validate"}.get(stage, stage))(module, data, verbose=False)
    return stacked(module.seen["val"] if stage == "val" else [batch for _, batch in module.seen["test"]])


@pytest.mark.parametrize("variant", ["plain", *VARIANTS])
def test_validation_and_test_are_the_same_images_in_every_pass_and_differ_from_each_other(variant):
    data = SpritesDataModule(variant, val_images=40, test_images=40, eval_batch_size=32)
    val, test = evaluated(data, "val"), evaluated(data, "test")
    assert (len(val[0]), len(test[0])) == (40, 40)
    torch.manual_seed(1234)
    for stage, (x, factors) in (("val", val), ("test", test)):
        again = evaluated(data, stage)
        assert torch.equal(factors, again[1])
        assert torch.equal(x, again[0])
    assert not torch.equal(val[1], test[1])
    other = evaluated(SpritesDataModule(variant, val_images=40, eval_batch_size=32, batch_size=8), "val")
    assert torch.equal(other[0], val[0])


def test_nuisances_differ_between_the_batches_of_an_evaluation():
    x, _ = evaluated(SpritesDataModule("color", val_images=64, eval_batch_size=32), "val")
    colours = (x.amax((2, 3)) + 1) / 2
    assert len(colours.unique(dim=0)) == 64


def test_without_validation_images_there_is_no_validation():
    module = Recorder()
    trainer().fit(module, SpritesDataModule(val_images=0, batch_size=8, images_per_epoch=8))
    assert module.seen["val"] == []


def test_prediction_is_on_the_test_images():
    data = SpritesDataModule(test_images=20)
    found, expected = data.predict_dataloader(), data.test_dataloader()[0]
    assert torch.equal(next(iter(found))[0], next(iter(expected))[0])


def test_factor_steps_keep_every_kth_value_and_number_them_anew():
    data, full = SpritesDataModule(factor_steps=[1, 1, 4, 2, 2]), SpritesDataModule()
    assert data.factor_sizes == (3, 6, 10, 16, 16)
    assert data.num_images == 46_080
    factors = data.sample_factors(200, seeded())
    assert factors.amax(0).tolist() == [2, 5, 9, 15, 15]
    steps = torch.tensor([1, 1, 4, 2, 2])
    assert torch.equal(data.images_of(factors, seeded()), full.images_of(factors * steps, seeded()))
    assert SpritesDataModule(factor_steps=[2, 6, 7, 31, 32]).factor_sizes == (2, 1, 6, 2, 1)


class Draws(Recorder):
    """Each rank writes the factors it got and the noise of each image where no sprite is, a list for each step."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        seen = [(factors.tolist(), x[:, :, 0].double().sum((1, 2)).tolist()) for x, factors in self.seen["train"]]
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(seen))
        self.trainer.save_checkpoint(self.folder / f"{self.trainer.max_epochs}.ckpt")


def draws(folder, devices, epochs=2, checkpoint=None, **arguments):
    several = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    runner = trainer(num_sanity_val_steps=0, **several, **arguments)
    runner.fit_loop.max_epochs = epochs
    data = SpritesDataModule("noisy", batch_size=4, images_per_epoch=16, val_images=8)
    runner.fit(Draws(folder), data, ckpt_path=checkpoint, weights_only=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


@IN_A_FORK
@pytest.mark.parametrize("apart", [False, True])
def test_two_processes_share_an_epoch_and_never_draw_alike(apart, tmp_path):
    torch.manual_seed(0)
    ranks = draws(tmp_path, 2, callbacks=[Randomness()] if apart else [])
    assert [len(steps) for steps in ranks] == [4, 4]  # two epochs of two steps
    factors = [tuple(row) for steps in ranks for rows, _ in steps for row in rows]
    images = [image for steps in ranks for _, sums in steps for image in sums]
    assert len(set(factors)) == len(set(images)) == 32


@IN_A_FORK
@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_goes_on_with_the_images_it_would_have_had(devices, tmp_path):
    def fit(epochs, checkpoint=None):
        torch.rand(3 if checkpoint else 1)  # whatever else a process draws
        return draws(tmp_path, devices, epochs, checkpoint, callbacks=[Randomness()])

    torch.manual_seed(0)
    whole, steps = fit(3), 4 // devices
    torch.manual_seed(0)
    assert fit(2) == [rank[: 2 * steps] for rank in whole]
    assert fit(3, tmp_path / "2.ckpt") == [rank[2 * steps :] for rank in whole]


class Planes(FactorDataModule):
    """Images of one grey."""

    name, image_shape, factor_names, factor_sizes = "planes", (1, 64, 64), ("grey", "nothing"), (5, 2)

    def draw(self, factors, generator):
        return (factors[:, 0] / 2 - 1)[:, None, None, None].expand(-1, 1, 64, 64).contiguous()


def test_a_users_own_data_need_sizes_names_and_one_function():
    (steps,) = run(Planes(batch_size=10, images_per_epoch=50))
    x, factors = stacked(steps)
    assert torch.equal(x[:, 0, 5, 5], factors[:, 0] / 2 - 1)
    assert sorted(set(chain(*factors.tolist()))) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"factor 1 must lie in 0\.\.1, got 2 in row 0"):
        Planes().images_of(torch.tensor([[0, 2]]), seeded())
    with pytest.raises(NotImplementedError, match="FactorDataModule must override draw"):
        FactorDataModule().draw(torch.zeros(1, 2), seeded())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "colour"}, "variant must be plain, color, noisy, scream, got 'colour'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, got 0"),
        ({"val_images": -1}, "val_images must be at least 0, got -1"),
        ({"test_images": 0}, "test_images must be at least 1, got 0"),
        ({"images_per_epoch": 63}, "images_per_epoch=63 is less than one batch: batch_size=64"),
        ({"factor_steps": [1, 1, 1, 1]}, r"factor_steps must be five numbers .*, got \[1, 1, 1, 1\]"),
        ({"factor_steps": []}, r"factor_steps must be five numbers .*, got \[\]"),
        ({"factor_steps": [0, 1, 1, 1, 1]}, r"factor_steps must be five numbers from 1 .*, got \[0, 1, 1, 1, 1\]"),
        ({"factor_steps": [1, 1, 41, 1, 1]}, r"at most \(3, 6, 40, 32, 32\), got \[1, 1, 41, 1, 1\]"),
        ({"background": "a.png"}, "background='a.png' is for variant='scream', got variant='plain'"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpritesDataModule(**arguments)


@IN_A_FORK
def test_an_epoch_of_less_than_a_batch_for_each_process_is_refused(tmp_path):
    data = SpritesDataModule(batch_size=8, images_per_epoch=12)
    with pytest.raises(Exception, match="images_per_epoch=12 is less than one batch of batch_size=8 for each of 2"):
        trainer(devices=2, strategy="ddp_fork").fit(Draws(tmp_path), data)


def test_factors_out_of_their_range_are_refused_also_on_a_smaller_grid():
    data = SpritesDataModule(factor_steps=[1, 1, 4, 2, 2])
    with pytest.raises(ValueError, match=r"factor 2 must lie in 0\.\.9, got 10 in row 0"):
        data.images_of(torch.tensor([[0, 0, 10, 0, 0]]), seeded())


def test_a_background_that_is_missing_unreadable_or_too_small_is_refused_by_its_path(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    picture_of_places(tmp_path / "small.png", 64, 200)
    for name, message in (
        ("none.png", "cannot read the picture .*none.png"),
        ("text.png", "cannot read the picture .*text.png"),
        ("small.png", "small.png' has 64x200 pixels .*; more than 64 are needed both ways"),
    ):
        with pytest.raises(ValueError, match=message):
            SpritesDataModule("scream", background=str(tmp_path / name)).setup("fit")
