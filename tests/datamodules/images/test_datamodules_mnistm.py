"""Digits over photographs: the blend against a loop, the photographs of a user, determinism, bad input."""

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_sets import Recorder, trainer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.ensemble import RandomForestClassifier

from datamodules import AdaptationDataModule, DigitsDataModule, DigitsMDataModule, MNISTDataModule, MNISTMDataModule
from datamodules.images.mnistm import blend, photograph_files, read_photographs
from datamodules.images.sources import Source

ZOO_DATA = os.environ.get("ZOO_DATA", "")
COLOUR = (10, 200, 60)


def write_mnist(root):
    """Ten training and five test images in the idx format; image i is i on its left half, 0 on the right."""
    folder = Path(root, "MNIST", "raw")
    folder.mkdir(parents=True)
    for split, count in (("train", 10), ("t10k", 5)):
        images = np.zeros((count, 28, 28), dtype=np.uint8)
        images[:, :, :14] = np.arange(count).reshape(-1, 1, 1)
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = np.arange(count, dtype=np.uint8)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())


def plain(folder, name="plain.png", size=(40, 30), colour=COLOUR, mode="RGB"):
    Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(Path(folder, name))
    return str(folder)


def naive(digit, photograph, top, left):
    """The formula, pixel by pixel, in Python's numbers."""
    _, height, width = digit.shape
    blended = np.zeros((3, height, width), dtype=int)
    for channel in range(3):
        for row in range(height):
            for column in range(width):
                pixel = int(digit[0, row, column]) - int(photograph[channel, top + row, left + column])
                blended[channel, row, column] = abs(pixel)
    return blended


# --- the blend ---


@given(
    count=st.integers(1, 3),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 1000),
)
def test_every_image_is_the_difference_of_its_digit_and_one_window_of_a_photograph(count, height, width, more, seed):
    random = np.random.default_rng(seed)
    digits = torch.from_numpy(random.integers(0, 256, (6, 1, height, width), dtype=np.uint8))
    sizes = [(height + more[0], width + more[1]), (height, width), (height + 1, width)][:count]
    photographs = [torch.from_numpy(random.integers(0, 256, (3, *size), dtype=np.uint8)) for size in sizes]
    found = blend(digits, iter(photographs), count, seed)
    assert (found.dtype, found.shape) == (torch.uint8, (6, 3, height, width))
    for digit, image in zip(digits.numpy(), found.numpy(), strict=True):
        places = [
            (photograph, top, left)
            for photograph in photographs
            for top in range(photograph.shape[1] - height + 1)
            for left in range(photograph.shape[2] - width + 1)
        ]
        assert any(np.array_equal(image, naive(digit, *place)) for place in places)


def test_photographs_and_all_offsets_up_to_the_last_are_equally_likely():
    # Every pixel tells its photograph and place, and black digits leave them as they are.
    photographs = [torch.arange(100 * n, 100 * n + 30, dtype=torch.uint8).view(1, 5, 6).expand(3, 5, 6) for n in (0, 1)]
    found = blend(torch.zeros(24_000, 1, 3, 4, dtype=torch.uint8), photographs, 2, seed=0)
    values, counts = found[:, 0, 0, 0].unique(return_counts=True)
    corners = [6 * top + left for top in (0, 1, 2) for left in (0, 1, 2)]
    assert values.tolist() == corners + [100 + corner for corner in corners]
    assert (counts - 24_000 / 18).abs().max() < 5 * (24_000 / 18) ** 0.5


def test_neither_the_size_of_the_parts_nor_the_global_generators_matter(monkeypatch):
    digits = torch.arange(250, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    photographs = list(read_photographs([], 1.0, 4, 4))
    first = blend(digits, photographs, 2, seed=3)
    monkeypatch.setattr("datamodules.images.mnistm.CHUNK", 7)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  what must not matter
    state = torch.get_rng_state()
    assert torch.equal(blend(digits, photographs, 2, seed=3), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(blend(digits, photographs, 2, seed=4), first)


# --- the photographs ---


def test_without_a_folder_the_photographs_are_the_two_of_scikit_learn():
    for found, expected in zip(read_photographs([], 1.0, 28, 28), load_sample_images().images, strict=True):
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
    assert [tuple(found.shape) for found in read_photographs([], 3.5, 8, 8)] == [(3, 122, 183)] * 2


def test_photographs_are_found_in_subfolders_by_their_endings_in_the_order_of_their_paths(tmp_path):
    for name in ("b.png", "a/z.JPG", "a/b/c.jpeg", "C.bmp"):
        plain(tmp_path, name)
    (tmp_path / "notes.txt").write_text("no photograph")
    names = [path.relative_to(tmp_path).as_posix() for path in photograph_files(str(tmp_path))]
    assert names == ["C.bmp", "a/b/c.jpeg", "a/z.JPG", "b.png"]


def test_photographs_of_any_mode_become_upright_rgb(tmp_path):
    plain(tmp_path, "grey.png", colour=77, mode="L")
    plain(tmp_path, "ink.jpg", colour=(0, 0, 0, 255), mode="CMYK")
    picture = Image.new("RGB", (40, 30), COLOUR)
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "turned.png", exif=exif)
    grey, ink, turned = read_photographs(photograph_files(str(tmp_path)), 1.0, 28, 28)
    assert grey.unique().tolist() == [77]
    assert ink.max() < 3
    assert (grey.shape, ink.shape, turned.shape) == ((3, 30, 40), (3, 30, 40), (3, 40, 30))


def test_photographs_that_are_missing_unreadable_or_too_small_are_named(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        data = DigitsMDataModule(photographs=str(folder))
        for act in (data.prepare_data, lambda data=data: data.setup("fit")):
            with pytest.raises(FileNotFoundError, match=r"no photographs in photographs='.*': a folder with files of"):
                act()
    plain(tmp_path, "a.png")
    plain(tmp_path, "b.png", size=(40, 26))
    with pytest.raises(ValueError, match=r"photograph .*b\.png has 26x40 pixels, at least 28x28 are needed"):
        DigitsMDataModule(photographs=str(tmp_path)).setup("fit")
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 of 2 pictures of .* cannot be read: b\.png \("):
        DigitsMDataModule(photographs=str(tmp_path)).setup("fit")


# --- the data modules ---


@pytest.mark.parametrize("binarise", [None, True, False])
def test_mnistm_is_the_formula_on_the_files_of_mnist(binarise, tmp_path):
    write_mnist(tmp_path)
    arguments = {"data_dir": str(tmp_path), "photographs": plain(tmp_path / "photographs"), "val_split": 0}
    data = MNISTMDataModule(**arguments, binarise=binarise)
    data.prepare_data()
    background = np.array(COLOUR)
    for images, count in ((data.fit_sets()[0], 10), (data.test_dataloader()[0].dataset, 5)):
        assert images.labels.tolist() == list(range(count))
        for label, image in enumerate(images.images.numpy()):
            digit = label if binarise is False else 255 * (label > 0)
            assert (image[:, :, 14:] == background.reshape(3, 1, 1)).all()
            assert (image[:, :, :14] == abs(digit - background).reshape(3, 1, 1)).all()


def test_digitsm_is_the_formula_on_the_grey_digits_in_the_same_split(tmp_path):
    plain_digits, blended = DigitsDataModule(), DigitsMDataModule(photographs=plain(tmp_path))
    splits = zip(
        [*plain_digits.fit_sets(), plain_digits.test_dataloader()[0].dataset],
        [*blended.fit_sets(), blended.test_dataloader()[0].dataset],
        strict=True,
    )
    for digits, found in splits:
        expected = (digits.images.int() - torch.tensor(COLOUR).view(3, 1, 1)).abs()
        assert torch.equal(found.images.int(), expected)
        assert torch.equal(found.labels, digits.labels)
    hard = DigitsMDataModule(photographs=str(tmp_path), binarise=True).fit_sets()[0].images
    assert torch.equal(hard[:, 0].unique(), torch.tensor([10, 245], dtype=torch.uint8))


def test_two_calls_and_any_number_of_workers_give_the_same_bytes_and_splits_have_draws_of_their_own():
    one, other = DigitsMDataModule(), DigitsMDataModule(num_workers=1, batch_size=7)
    for first, second in zip(one.fit_sets(), other.fit_sets(), strict=True):
        assert torch.equal(first.images, second.images)
    batches = [torch.cat([x for x, _ in data.predict_dataloader()]) for data in (one, other)]
    assert torch.equal(*batches)

    class Black(DigitsMDataModule):
        digits = Source("Black", 10, (1, 8, 8), lambda *_: (torch.zeros(50, 1, 8, 8).byte(), torch.arange(50) % 10))

    train, test = (Black().load_split(split)[0] for split in (True, False))
    assert not torch.equal(train, test)


def test_they_offer_what_other_image_data_modules_do_and_train_alone():
    data = DigitsMDataModule(batch_size=64, ood=["near/digits", "far/constant"])
    assert (data.name, data.num_classes, data.image_shape) == ("digitsm", 10, (3, 8, 8))
    assert data.test_sets == ("digitsm", "near/digits", "far/constant")
    assert data.hparams["photographs"] is None
    assert data.hparams["batch_size"] == 64
    module = Recorder()
    trainer().fit(module, data)
    x, y = module.seen["train"][0]
    assert (x.shape, y.shape) == ((64, 3, 8, 8), (64,))
    assert (x.min() >= -1, x.max() <= 1) == (True, True)
    assert len(module.seen["train"]) == 18
    whole = MNISTMDataModule()
    assert (whole.name, whole.num_classes, whole.image_shape) == ("mnistm", 10, (3, 28, 28))
    pair = AdaptationDataModule(MNISTDataModule(), whole, channels=3)
    assert pair.val_sets == ("mnist", "target/mnistm")


def test_mnistm_says_which_files_are_missing_and_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MNISTM is not in data_dir=.*train-images-idx3-ubyte.*download"):
        MNISTMDataModule(data_dir=str(tmp_path)).prepare_data()


def test_digitsm_can_be_learnt_and_is_another_domain_than_the_digits():
    source, target = DigitsDataModule(val_split=0), DigitsMDataModule(val_split=0)
    test = target.test_dataloader()[0].dataset

    def accuracy(train):
        forest = RandomForestClassifier(50, random_state=0).fit(train.images.flatten(1), train.labels)
        return forest.score(test.images.flatten(1), test.labels)

    pair = AdaptationDataModule(DigitsDataModule(), target, channels=3)
    pair.setup("fit")
    assert source.fit_sets()[0].images.shape[1] == 1
    assert accuracy(target.fit_sets()[0]) > 0.8
    assert accuracy(pair._fit_sets["source"][0]) < 0.55


@pytest.mark.skipif(not Path(ZOO_DATA, "MNIST").is_dir(), reason="ZOO_DATA does not lead to a folder with MNIST")
def test_real_mnistm_has_60_000_and_10_000_images_in_seconds():
    data, grey = MNISTMDataModule(data_dir=ZOO_DATA), MNISTDataModule(data_dir=ZOO_DATA)
    start = time.perf_counter()
    images, labels = data.load_split(train=True)
    assert time.perf_counter() - start < 10  # 0.7 s without other load
    digits, expected = grey.load_split(train=True)
    assert images.shape == (60_000, 3, 28, 28)
    assert torch.equal(labels, expected)
    test, _ = data.load_split(train=False)
    assert test.shape == (10_000, 3, 28, 28)
    # Over many images the pixels on a digit, negatives of photographs, have the mean that is left of 255.
    few, mask = images[:5_000].float(), (digits[:5_000] > 0).float()
    on, off = ((few * side).sum() / (3 * side.sum()) for side in (mask, 1 - mask))
    assert abs(on + off - 255) < 10
