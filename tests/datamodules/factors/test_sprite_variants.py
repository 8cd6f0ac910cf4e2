"""The variants of sprites: colours, noise, parts of a picture."""

import numpy as np
import pytest
import torch
from PIL import Image
from sprite_draws import VARIANTS, picture_of_places, run, seeded, sprite_of

from datamodules import SpritesDataModule
from datamodules.factors import render as sprites


def test_a_coloured_sprite_has_one_colour_of_at_least_a_half_on_black():
    data = SpritesDataModule("color")
    factors = data.sample_factors(400, seeded())
    x, on = (data.images_of(factors, seeded()) + 1) / 2, sprite_of(factors).expand(-1, 3, -1, -1)
    assert x[~on].abs().max() == 0
    colour = x.amax((2, 3))
    assert torch.equal(torch.where(on, colour[:, :, None, None], 0.0), x)
    assert colour.min() >= 0.5
    assert colour.max() <= 1
    ranks = colour.flatten().sort().values
    assert (ranks - torch.linspace(0.5, 1, 1200)).abs().max() < 0.03  # Kolmogorov-Smirnov
    assert (torch.corrcoef(colour.T) - torch.eye(3)).abs().max() < 0.2


def test_a_noisy_image_has_a_white_sprite_and_uniform_noise_in_each_pixel_and_channel():
    data = SpritesDataModule("noisy")
    factors = data.sample_factors(30, seeded())
    x, on = (data.images_of(factors, seeded()) + 1) / 2, sprite_of(factors).expand(-1, 3, -1, -1)
    assert x[on].min() == 1
    noise = x[~on].sort().values
    assert (noise - torch.linspace(0, 1, len(noise))).abs().max() < 0.006
    assert noise.max() < 1
    channels = x.masked_select(~on).view(-1)
    assert torch.corrcoef(torch.stack([channels[:-1], channels[1:]]))[0, 1].abs() < 0.01
    red, green = x[:, 0], x[:, 1]
    assert torch.corrcoef(torch.stack([red[~on[:, 0]], green[~on[:, 0]]]))[0, 1].abs() < 0.01
    assert len(noise.unique()) > 50_000


def test_a_scream_image_is_half_a_part_of_the_picture_and_half_a_colour_with_the_sprite_as_its_negative(tmp_path):
    data = SpritesDataModule("scream", background=picture_of_places(tmp_path / "a.png", 70, 90))
    factors = data.sample_factors(500, seeded())
    x, on = (data.images_of(factors, seeded()) + 1) / 2, sprite_of(factors).expand(-1, 3, -1, -1)
    background = torch.where(on, 1 - x, x)
    part = (background - background[:, :, :1, :1]) * 2 * 255  # without the shift: places in the window
    step = torch.arange(64.0)
    expected = torch.stack([step[:, None].expand(64, 64), step.expand(64, 64), torch.zeros(64, 64)])
    assert (part - expected).abs().max() < 1e-3
    shift = background[:, 2, 0, 0] * 2
    assert (shift.sort().values - torch.linspace(0, 1, 500)).abs().max() < 0.08


def test_the_parts_of_the_picture_are_uniform_over_all_places_but_the_last(tmp_path):
    path = picture_of_places(tmp_path / "a.png", 67, 66)
    picture = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).contiguous()
    zero = torch.full((3000, 64, 64), -1.0)
    x = (sprites.over_picture(zero, picture, seeded()) + 1) / 2
    draws = seeded()
    tops, lefts = (torch.randint(count, (3000,), generator=draws) for count in (3, 2))
    shift = torch.rand(3000, 3, generator=draws)
    corner = x[:, :, 0, 0] * 2 - shift
    assert (corner[:, 0] * 255 - tops).abs().max() < 1e-3
    assert (corner[:, 1] * 255 - lefts).abs().max() < 1e-3
    assert torch.bincount(tops * 2 + lefts).min() > 400


def test_the_default_picture_is_a_photograph_of_scikit_learn_shrunk_as_the_study_shrinks_its_painting():
    data = SpritesDataModule("scream")
    data.setup("fit")
    assert data._picture.shape == (3, 234, 350)
    assert data._picture.float().std() > 40


@pytest.mark.parametrize("variant", VARIANTS)
def test_nuisances_are_drawn_anew_for_every_access_and_follow_the_generator(variant):
    data, generator = SpritesDataModule(variant, batch_size=16, images_per_epoch=16), seeded()
    factors = data.sample_factors(1, seeded()).expand(2, -1)
    first, second = data.images_of(factors, generator), data.images_of(factors, generator)
    images = [*first, *second]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert torch.equal(first, data.images_of(factors, seeded()))
    data.factor_sizes = (1, 1, 1, 1, 1)
    epochs = run(data, epochs=2)
    images = [x for steps in epochs for batch, _ in steps for x in batch]
    assert len({image.numpy().tobytes() for image in images}) == 32
