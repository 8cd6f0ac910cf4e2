"""Data modules: the transform on the device, and the out-of-distribution sets."""

import numpy as np
import pytest
import torch
from data_sets import Numbered, Recorder, as_bytes, trainer
from hypothesis import given
from hypothesis import strategies as st

from datamodules import DigitsDataModule, SemiSupervisedDataModule
from datamodules.shared.augment import cutout, normalise, random_crop, random_flip, windows

GENERATED = ["near/interpolated", "near/rotated", "far/uniform", "far/gaussian", "far/constant", "far/photo_patches"]


# --- the transform ---


@given(
    count=st.integers(1, 6),
    channels=st.sampled_from([1, 3]),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    padding=st.integers(0, 3),
    mode=st.sampled_from(["constant", "reflect"]),
    seed=st.integers(0, 2**31),
)
def test_every_random_crop_is_one_window_of_the_padded_image(count, channels, height, width, padding, mode, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    torch.manual_seed(seed)
    cropped = random_crop(images, padding, mode)
    assert cropped.shape == images.shape
    assert cropped.dtype == torch.uint8
    for image, crop in zip(images.numpy(), cropped.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode=mode)
        offsets = range(2 * padding + 1)
        naive = [padded[:, i : i + height, j : j + width] for i in offsets for j in offsets]
        assert any(np.array_equal(crop, window) for window in naive)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_windows_equal_a_loop_of_slices(dtype):
    images = torch.randint(0, 256, (5, 3, 11, 13), generator=torch.Generator().manual_seed(0)).to(dtype)
    which, top, left = torch.tensor([4, 0, 0, 2]), torch.tensor([0, 7, 3, 1]), torch.tensor([8, 0, 5, 2])
    expected = [images[n, :, i : i + 4, j : j + 5] for n, i, j in zip(which, top, left, strict=True)]
    assert torch.equal(windows(images, which, top, left, 4, 5), torch.stack(expected))
    transposed = images.transpose(2, 3)  # not contiguous
    assert torch.equal(windows(transposed, which, left, top, 5, 4), torch.stack(expected).transpose(2, 3))


def test_crop_offsets_are_uniform_and_drawn_for_each_sample():
    torch.manual_seed(0)
    image = torch.arange(1, 50, dtype=torch.uint8).view(1, 1, 7, 7).expand(9000, 1, 7, 7)
    centre = random_crop(image, 1)[:, 0, 3, 3]  # the value in the middle tells the offset
    values, counts = centre.unique(return_counts=True)
    assert values.tolist() == [17, 18, 19, 24, 25, 26, 31, 32, 33]
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1000, 3, 4, 5), dtype=torch.uint8)
    flipped = random_flip(images)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~same)
    assert 420 < mirrored.sum() < 580


@given(
    count=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    side=st.integers(0, 10),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_every_image_gets_one_clipped_hole_around_one_of_its_pixels(count, channels, height, width, side, dtype, seed):
    images = torch.arange(1, count * channels * height * width + 1).view(count, channels, height, width)
    images = (images % 200 + 1).to(dtype)
    fill = torch.arange(201, 201 + channels).view(-1, 1, 1).to(dtype)
    torch.manual_seed(seed)
    found = cutout(images, side, fill)
    assert found.dtype == dtype
    half = side // 2
    for image, cut in zip(images.numpy(), found.numpy(), strict=True):
        naive = []
        for y in range(height):
            for x in range(width):
                expected = image.copy()
                expected[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = fill.numpy()
                naive.append(expected)
        assert any(np.array_equal(cut, expected) for expected in naive)


def test_centres_of_holes_are_uniform_over_all_pixels_and_drawn_for_each_image():
    torch.manual_seed(0)
    holes = cutout(torch.zeros(30_000, 1, 5, 6), 2, torch.ones(1, 1, 1))[:, 0]
    # A hole of side 2 is its centre, and the neighbours above and to the left that there are: the last one tells.
    centre = 29 - holes.flatten(1).flip(1).argmax(1)
    counts = torch.bincount(centre, minlength=30)
    assert len(counts) == 30
    assert (counts - 1000).abs().max() < 160  # five standard deviations


class Painted(Numbered):
    """Two colours, whose mean is neither."""

    image_shape = (3, 8, 8)

    def load_split(self, train):
        images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).repeat(40, 1, 8, 8)
        images[:10] += 100
        return images, torch.arange(40) % 4


@pytest.mark.parametrize("augment", [True, False])
def test_holes_have_the_mean_of_the_training_images_and_are_cut_in_training_only(augment):
    data, module = Painted(batch_size=40, val_split=0, cutout=4, augment=augment), Recorder()
    trainer().fit(module, data)
    trainer().test(module, data, verbose=False)
    images, _ = module.seen["train"][0]
    mean = normalise(torch.tensor([35.0, 45.0, 55.0]).view(3, 1, 1))
    hole = torch.isclose(images, mean).all(1)
    assert set(hole.flatten(1).sum(1).tolist()) <= {4, 6, 8, 12, 16, 9}  # 2, 3 or 4 rows and columns
    assert len({str(one.tolist()) for one in hole}) > 10
    original = normalise(data.fit_sets()[0].images)
    outside = images.permute(0, 2, 3, 1)[~hole]
    assert torch.isclose(outside, original[[0, -1], :, :1, 0].permute(0, 2, 1)).all(2).any(0).all()
    assert torch.equal(torch.cat([x for _, (x, _) in module.seen["test"]]), original)
    trainer().validate(module, data := Painted(batch_size=40, val_split=20, cutout=4), verbose=False)
    assert torch.equal(torch.cat([x for x, _ in module.seen["val"]]), normalise(data.fit_sets()[1].images))


def test_both_batches_of_a_pair_are_cut():
    data, module = SemiSupervisedDataModule(Painted(batch_size=40, val_split=0, cutout=4)), Recorder()
    trainer().fit(module, data)
    step = module.seen["train"][0]
    for images in (step["labelled"][0], step["unlabelled"]):
        assert all(len(image.flatten(1).unique(dim=1).T) == 2 for image in images)


def test_without_cutout_no_hole_is_cut_and_nothing_drawn():
    data, state = Painted(val_split=0), torch.get_rng_state()
    images = data.fit_sets()[0].images
    assert torch.equal(data.transform(images, cut=True), normalise(images))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("side", "most"), [(3, 8), (-2, 8), (10, 8)])
def test_a_hole_of_an_odd_side_or_larger_than_the_image_is_refused(side, most):
    with pytest.raises(ValueError, match=rf"cutout must be an even number in 0\.\.{most}, got {side}"):
        DigitsDataModule(cutout=side)


def test_augmentation_follows_the_default_generator():
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    data = DigitsDataModule()
    data.flip = True
    first, second, other = (torch.manual_seed(seed) and data.transform(images, augment=True) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_normalise_maps_bytes_exactly_into_the_range_of_the_contract():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = normalise(images)
    assert floats.dtype == torch.float32
    assert (floats.min(), floats.max()) == (-1, 1)
    torch.testing.assert_close(floats, (images / 255 - 0.5) / 0.5, atol=3e-7, rtol=0)
    three = images.expand(2, 3, 16, 16)
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    expected = torch.stack([(three[:, c] / 255 - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(normalise(three, mean, std), expected)
    assert torch.equal(as_bytes(floats), images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_transform_runs_on_the_gpu():
    data = DigitsDataModule()
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    data.padding, data.padding_mode, data.flip = 4, "reflect", True
    floats = data.transform(images, augment=True)
    assert floats.is_cuda
    assert floats.shape == images.shape
    torch.testing.assert_close(data.transform(images).cpu(), data.transform(images.cpu()))
    assert Painted(cutout=4).transform(images, cut=True).is_cuda


# --- out-of-distribution sets ---


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 120, 120)])
def test_generated_sets_are_fixed_bytes_of_the_shape_and_number_of_the_test_set(name, shape):
    class Noise(Numbered):
        image_shape, num_classes, name = shape, 4, "noise"

        def load_split(self, train):
            draw = np.random.default_rng(train).integers(0, 256, (30, *shape), dtype=np.uint8)
            return torch.from_numpy(draw), torch.arange(30) % 4

    torch.manual_seed(0)
    first = Noise(ood=[name])
    inside, outside = first.test_dataloader()
    torch.manual_seed(1)
    again = Noise(ood=["far/uniform", name] if name != "far/uniform" else [name]).test_dataloader()[-1]
    assert torch.equal(outside.dataset.images, again.dataset.images)
    assert outside.dataset.images.shape == inside.dataset.images.shape
    assert outside.dataset.images.dtype == torch.uint8
    assert set(outside.dataset.labels.tolist()) == {-1}
    assert not torch.equal(outside.dataset.images, inside.dataset.images)
    state = torch.get_rng_state()
    Noise(ood=[name]).setup("test")
    assert torch.equal(state, torch.get_rng_state())  # the draws touch nobody else's


def test_generated_sets_are_what_their_names_say():
    data = DigitsDataModule(ood=GENERATED)
    assert data.test_sets == ("digits", *GENERATED)
    inside, mixed, turned, uniform, gaussian, constant, photos = (
        loader.dataset.images for loader in data.test_dataloader()
    )
    assert np.array_equal(turned.numpy(), np.rot90(inside.numpy(), 1, (2, 3)))
    # Every mean is the mean of two different test images.
    pairs = (inside[:, None].int() + inside[None].int() + 1) // 2
    hits = (pairs == mixed[:5, None, None]).flatten(3).all(3)
    assert all((hit & ~torch.eye(len(inside), dtype=torch.bool)).any() for hit in hits)
    levels = uniform.double()
    assert abs(levels.mean() - 127.5) < 3
    assert abs(levels.std() - 73.9) < 2
    assert abs(normalise(gaussian).mean()) < 0.02
    assert abs(normalise(gaussian).std() - 0.48) < 0.02  # 0.5 before clipping at two deviations
    assert (constant == constant[:, :, :1, :1]).all()
    assert len(constant[:, 0, 0, 0].unique()) > 100
    assert photos.flatten(1).unique(dim=0).shape[0] > 290
    # Neighbours in a photograph are alike, in noise they are not.
    step = [(x[..., 1:].int() - x[..., :-1].int()).abs().float().mean() for x in (photos, uniform)]
    assert step[0] < 0.4 * step[1]


def test_colour_is_constant_per_channel_and_photographs_are_coloured():
    class Colour(Numbered):
        image_shape = (3, 16, 16)

        def load_split(self, train):
            return torch.zeros(50, 3, 16, 16, dtype=torch.uint8), torch.arange(50) % 4

    _, constant, photos = (
        loader.dataset.images for loader in Colour(ood=["far/constant", "far/photo_patches"]).test_dataloader()
    )
    assert (constant == constant[:, :, :1, :1]).all()
    for images in (constant, photos):
        assert (images[:, 0] != images[:, 1]).flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (1, 4, 4)])
def test_another_sets_images_are_resized_and_coloured(shape):
    class Other(Numbered):
        image_shape = shape

        def load_split(self, train):
            return torch.zeros(20, *shape, dtype=torch.uint8), torch.arange(20) % 4

    outside = Other(ood=["far/digits"]).test_dataloader()[1].dataset
    digits = DigitsDataModule().test_dataloader()[0].dataset.images
    assert outside.images.shape == (300, *shape)
    expected = torch.nn.functional.interpolate(digits.float(), shape[1:], mode="bilinear", antialias=True)
    for channel in range(shape[0]):
        assert (outside.images[:, channel].float() - expected[:, 0]).abs().max() <= 1
    assert set(outside.labels.tolist()) == {-1}
