"""Data modules that read files: published formats, missing and damaged files, downloads, a folder of pictures."""

import os
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets as published
from data_sets import drawn, write_cifar, write_mnist, write_stl10, write_svhn, write_usps
from PIL import Image

from datamodules import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    ImageFolderDataModule,
    KMNISTDataModule,
    MNISTDataModule,
    STL10DataModule,
    SVHNDataModule,
    SVHNExtraDataModule,
    USPSDataModule,
)
from datamodules.images import sources
from datamodules.images.base import ImageDataModule

ZOO_DATA = os.environ.get("ZOO_DATA", "")
FROM_FILES = [
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    KMNISTDataModule,
    MNISTDataModule,
    STL10DataModule,
    SVHNDataModule,
    USPSDataModule,
]


def expect(data, count, shape, classes, seed=20):
    images, labels = drawn(count, shape, classes, seed)
    test = data.test_dataloader()[0].dataset
    assert np.array_equal(test.images.numpy().reshape(images.shape), images)
    assert np.array_equal(test.labels.numpy(), labels)
    assert tuple(test.images.shape[1:]) == data.image_shape
    assert sum(len(split) for split in data.fit_sets()) >= 30


@pytest.mark.parametrize("kind", [MNISTDataModule, FashionMNISTDataModule, KMNISTDataModule])
def test_the_idx_format_is_read(kind, tmp_path):
    write_mnist(tmp_path, kind.source.title)
    expect(kind(tmp_path), 20, (28, 28), 10)


@pytest.mark.parametrize("kind", [CIFAR10DataModule, CIFAR100DataModule])
def test_the_cifar_format_is_read(kind, tmp_path, monkeypatch):
    classes = kind.source.num_classes
    if classes == 100:  # its class inherits: both are patched
        write_cifar(tmp_path, monkeypatch, published.CIFAR100, "fine_labels", 100)
    else:
        write_cifar(tmp_path, monkeypatch, published.CIFAR10, "labels", 10)
    images, labels = drawn(20, (3, 32, 32), classes, 10)
    data = kind(tmp_path, val_split=0)
    test = data.test_dataloader()[0].dataset
    assert np.array_equal(test.images.numpy(), images)
    assert np.array_equal(test.labels.numpy(), labels)
    assert len(data.fit_sets()[0]) == (100 if classes == 10 else 20)


@pytest.mark.parametrize("subfolder", ["", "SVHN"])
def test_the_svhn_format_is_read_from_the_folder_or_its_subfolder(subfolder, tmp_path, monkeypatch):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_svhn(tmp_path / subfolder, monkeypatch)
    expect(SVHNDataModule(tmp_path), 20, (3, 32, 32), 10)


@pytest.mark.parametrize("subfolder", ["", "SVHN"])
def test_svhns_extra_images_come_after_the_training_split(subfolder, tmp_path, monkeypatch):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_svhn(tmp_path / subfolder, monkeypatch)
    data = SVHNExtraDataModule(tmp_path)
    expect(data, 20, (3, 32, 32), 10)
    images, labels = data.load_split(True)
    (train, extra) = (drawn(count, (3, 32, 32), 10, count) for count in (30, 25))
    assert np.array_equal(images.numpy(), np.concatenate([train[0], extra[0]]))
    assert np.array_equal(labels.numpy(), np.concatenate([train[1], extra[1]]))
    (tmp_path / subfolder / "extra_32x32.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing in .*: extra_32x32\.mat.*datamodules\.SVHNExtraDataModule"):
        SVHNExtraDataModule(tmp_path).prepare_data()


@pytest.mark.parametrize("subfolder", ["", "STL10"])
def test_the_stl10_format_is_read_without_the_unlabelled_images(subfolder, tmp_path, monkeypatch):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_stl10(tmp_path / subfolder, monkeypatch)
    data = STL10DataModule(tmp_path, val_split=10, batch_size=5, ood=["far/digits", "near/interpolated"])
    data.prepare_data()
    expect(data, 20, (3, 96, 96), 10)
    assert [len(split) for split in data.fit_sets()] == [20, 10]
    assert [len(loader.dataset) for loader in data.test_dataloader()] == [20, 300, 20]
    assert data.transform(data.fit_sets()[0].images, augment=True).shape == (20, 3, 96, 96)
    assert MNISTDataModule(tmp_path, ood=["far/stl10"]).test_sets == ("mnist", "far/stl10")


def test_a_damaged_stl10_is_named(tmp_path, monkeypatch):
    write_stl10(tmp_path, monkeypatch)
    file = tmp_path / "stl10_binary" / "test_X.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"files of STL10 in .* damaged or incomplete"):
        STL10DataModule(tmp_path).setup("test")
    monkeypatch.setattr(sources._LabelledSTL10, "test_list", published.STL10.test_list)  # with the checksums
    with pytest.raises(ValueError, match=r"files of STL10 in .* damaged or incomplete"):
        STL10DataModule(tmp_path).setup("fit")


@pytest.mark.parametrize("subfolder", ["", "USPS"])
def test_the_usps_format_is_read_from_the_folder_or_its_subfolder(subfolder, tmp_path):
    (tmp_path / subfolder).mkdir(exist_ok=True)
    write_usps(tmp_path / subfolder)
    expect(USPSDataModule(tmp_path), 20, (16, 16), 10)


def test_other_sets_for_ood_are_found_in_the_same_folder(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    write_mnist(tmp_path, "MNIST")
    data = MNISTDataModule(tmp_path, ood=["far/svhn", "near/digits"])
    data.prepare_data()
    inside, houses, digits = data.test_dataloader()
    assert [len(loader.dataset) for loader in (inside, houses, digits)] == [20, 20, 300]
    assert houses.dataset.images.shape == (20, 1, 28, 28)
    grey = drawn(20, (3, 32, 32), 10, 20)[0].transpose(0, 2, 3, 1) @ np.array([0.299, 0.587, 0.114])
    assert abs(houses.dataset.images.float().mean() - grey.mean()) < 1


@pytest.mark.parametrize("kind", FROM_FILES)
def test_missing_files_give_one_message_with_the_files_and_the_command(kind, tmp_path):
    data = kind(tmp_path / "nowhere")  # construction looks for nothing
    for failing in (data.prepare_data, lambda: data.setup("fit"), lambda: data.setup("test")):
        with pytest.raises(FileNotFoundError) as caught:
            failing()
        message = str(caught.value)
        assert str(tmp_path / "nowhere") in message
        assert all(file in message for file in kind.source.files)
        assert "--data.download true" in message
        assert f"datamodules.{kind.__name__}(data_dir=" in message
    assert not (tmp_path / "nowhere").exists()


def test_missing_files_of_an_ood_set_are_noticed_before_the_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"SVHN is not in data_dir=.*train_32x32\.mat"):
        DigitsDataModule(tmp_path, ood=["far/uniform", "far/svhn"]).prepare_data()
    DigitsDataModule(tmp_path).prepare_data()


@pytest.mark.parametrize("kind", FROM_FILES)
def test_a_failing_download_gives_the_same_message_and_the_cause(kind, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network")

    for module in ("mnist", "cifar", "stl10", "usps", "svhn"):
        for function in ("download_url", "download_and_extract_archive"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{function}", refuse, raising=False)
    with pytest.raises(FileNotFoundError, match=r"is not in data_dir=.*The download failed:.*no network") as caught:
        kind(tmp_path, download=True).prepare_data()
    assert caught.value.__cause__ is not None


def test_download_fetches_what_is_missing_once(tmp_path, monkeypatch):
    calls = []

    def deliver(url, root, filename, md5):
        calls.append(filename)
        write_usps(root)  # both files

    monkeypatch.setattr("torchvision.datasets.usps.download_url", deliver)
    data = USPSDataModule(tmp_path, download=True)
    assert not calls
    data.prepare_data()
    data.prepare_data()
    assert calls == ["usps.bz2"]
    expect(data, 20, (16, 16), 10)


def test_damaged_files_are_named(tmp_path):
    write_mnist(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"files of MNIST in .* damaged or incomplete.*Delete them"):
        MNISTDataModule(tmp_path).setup("fit")
    write_usps(tmp_path)
    (tmp_path / "usps.t.bz2").write_bytes((tmp_path / "usps.t.bz2").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"files of USPS in .* damaged or incomplete"):
        USPSDataModule(tmp_path).setup("test")
    for file in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / file).write_bytes(b"not this")
    with pytest.raises(ValueError, match=r"files of SVHN in .* damaged or incomplete"):
        SVHNDataModule(tmp_path).setup("test")


@pytest.mark.skipif(not Path(ZOO_DATA, "MNIST").is_dir(), reason="ZOO_DATA does not lead to a folder with MNIST")
def test_real_mnist_is_read_and_split():
    data = MNISTDataModule(ZOO_DATA)
    train, val = data.fit_sets()
    test = data.test_dataloader()[0].dataset
    assert [len(split) for split in (train, val, test)] == [54_000, 6_000, 10_000]
    ten_thousand = published.MNIST(ZOO_DATA, train=False)
    assert torch.equal(test.images[:, 0], ten_thousand.data)
    assert torch.equal(test.labels, ten_thousand.targets)
    everything = published.MNIST(ZOO_DATA)
    assert torch.bincount(torch.cat([train.labels, val.labels])).tolist() == torch.bincount(everything.targets).tolist()
    pixels = train.images.sum(dtype=torch.int64) + val.images.sum(dtype=torch.int64)
    assert pixels == everything.data.sum(dtype=torch.int64)


@pytest.mark.skipif(not Path(ZOO_DATA, "USPS").is_dir(), reason="ZOO_DATA does not lead to a folder with USPS")
def test_real_usps_is_a_test_set_of_the_digits():
    data = DigitsDataModule(ZOO_DATA, ood=["near/usps"])
    outside = data.test_dataloader()[1].dataset
    assert outside.images.shape == (2007, 1, 8, 8)
    assert USPSDataModule(ZOO_DATA).test_dataloader()[0].dataset.images.shape == (2007, 1, 16, 16)


# --- a folder of pictures ---


@pytest.fixture
def pictures(tmp_path):
    """Two classes, told apart by colour, in several formats, modes and sizes."""
    for split, count in (("train", 6), ("test", 3)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                suffix = ("png", "jpg", "bmp")[index % 3]
                Image.new("RGB", (20 + index, 30), colour).save(folder / f"{index}.{suffix}")
    (tmp_path / "train" / "blue" / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_of_pictures_is_read_resized_and_labelled_by_name(pictures):
    data = ImageFolderDataModule(str(pictures), image_size=16, val_split=2, batch_size=5, ood=["near/rotated"])
    assert (data.num_classes, data.image_shape, data.classes) == (2, (3, 16, 16), ["blue", "red"])
    assert data.test_sets == (pictures.name, "near/rotated")
    train, val = data.fit_sets()
    assert (len(train), len(val)) == (10, 2)
    for split in (train, val, data.test_dataloader()[0].dataset):
        blue = split.images[:, 2].float().mean((1, 2)) > 200
        red = split.images[:, 0].float().mean((1, 2)) > 200
        assert torch.equal(blue, split.labels == 0)
        assert torch.equal(red, split.labels == 1)
    images, _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert images.shape == (5, 3, 16, 16)
    assert data.transform(train.images, augment=True).shape == train.images.shape


def test_pictures_keep_their_central_square_and_their_upright_side(tmp_path):
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            stripes = np.zeros((8, 16), dtype=np.uint8)
            stripes[:, 4:8], stripes[:, 8:12] = 100, 200  # the central square
            Image.fromarray(stripes).save(tmp_path / split / name / "grey.png")
            picture = Image.fromarray(np.vstack([np.full((4, 8), 50), np.full((4, 8), 250)]).astype(np.uint8))
            exif = picture.getexif()
            exif[0x0112] = 3  # the camera was upside down
            picture.save(tmp_path / split / name / "turned.png", exif=exif)
    grey, turned = ImageFolderDataModule(str(tmp_path), image_size=8).test_dataloader()[0].dataset.images[:2]
    assert torch.equal(grey[0], torch.tensor([100] * 4 + [200] * 4, dtype=torch.uint8).expand(8, 8))
    assert torch.equal(grey[0], grey[2])
    assert turned[0, 0, 0] == 250
    assert turned[0, -1, 0] == 50


def test_a_folder_without_pictures_or_classes_is_refused_at_construction(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder '.*train'; pictures are expected as .*<class>"):
        ImageFolderDataModule(str(tmp_path))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no folder '.*test'"):
        ImageFolderDataModule(str(tmp_path))
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match=r"two classes, .* has folders for \['cat'\]"):
        ImageFolderDataModule(str(tmp_path))
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(ValueError, match="image_size must be at least 1, got 0"):
        ImageFolderDataModule(str(tmp_path), image_size=0)
    with pytest.raises(FileNotFoundError, match="no valid file for the classes cat, dog"):
        ImageFolderDataModule(str(tmp_path)).setup("fit")


def test_an_unreadable_picture_is_named(pictures):
    for name, content in (("a.png", b"no png"), ("b.jpg", (pictures / "train/red/1.jpg").read_bytes()[:300])):
        bad = pictures / "train" / "red" / name
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=rf"1 of 13 pictures of .* cannot be read: red/{name} \("):
            ImageFolderDataModule(str(pictures)).setup("fit")
        bad.unlink()


def test_a_class_that_only_the_test_split_has_is_named(pictures):
    (pictures / "test" / "green").mkdir()
    with pytest.raises(ValueError, match="classes without training pictures: green"):
        ImageFolderDataModule(str(pictures)).setup("test")


@pytest.mark.parametrize(("side", "channels"), [("far", 3), ("near", 1)])
def test_a_folder_of_ones_own_pictures_is_a_test_set_of_any_data_module(side, channels, pictures):
    class Wide(ImageDataModule):
        name, num_classes, image_shape = "wide", 2, (channels, 8, 12)

        def load_split(self, train):
            return torch.zeros(10, *self.image_shape, dtype=torch.uint8), torch.arange(10) % 2

    data = Wide(str(pictures.parent), ood=["far/uniform", f"{side}/{pictures.name}"])
    data.prepare_data()
    assert data.test_sets == ("wide", "far/uniform", f"{side}/{pictures.name}")
    outside = data.test_dataloader()[2].dataset
    assert outside.images.shape == (6, channels, 8, 12)
    assert outside.labels.tolist() == [-1] * 6
    blue, red = outside.images[:3].float(), outside.images[3:].float()
    if channels == 3:
        assert (blue[:, 2] - blue[:, 0]).min() > 200
        assert (red[:, 0] - red[:, 2]).min() > 200
    else:
        assert (blue - 0.114 * 255).abs().max() < 4
        assert (red - 0.299 * 255).abs().max() < 4
    with pytest.raises(ValueError, match=r"the 6 pictures of .* GiB at 8x12"):
        type("Small", (Wide,), {"memory_limit": 6 * 3 * 8 * 12 - 1})(
            str(pictures.parent), ood=[f"{side}/{pictures.name}"]
        ).setup("test")


def test_a_folder_for_ood_that_is_no_folder_of_pictures_is_refused_at_construction(pictures):
    (pictures / "flat" / "test").mkdir(parents=True)
    for name in ("far/moon", "far/flat", "far/..", "far/.", "far/", f"far/../{pictures.name}", f"away/{pictures.name}"):
        with pytest.raises(ValueError, match=r"unknown ood set '.*'; there are .*svhn.* own in '.*<set>.test.<class>"):
            DigitsDataModule(str(pictures), ood=[name])
    with pytest.raises(ValueError, match="in-distribution set itself"):
        ImageFolderDataModule(str(pictures), ood=[f"far/{pictures.name}"])


def test_a_folder_for_ood_without_pictures_or_gone_is_named(pictures):
    (pictures / "bare" / "test" / "any").mkdir(parents=True)
    data = DigitsDataModule(str(pictures), ood=["far/bare"])
    with pytest.raises(ValueError, match="ood set 'far/bare' of digits has no images"):
        data.setup("test")
    (pictures / "bare" / "test" / "any").rmdir()
    with pytest.raises(FileNotFoundError, match="pictures of ood set 'far/bare' are no longer in data_dir="):
        data.setup("test")


def test_pictures_that_do_not_fit_into_memory_are_refused_before_they_are_read(pictures, monkeypatch):
    monkeypatch.setattr(ImageFolderDataModule, "memory_limit", 12 * 3 * 32 * 32 - 1)
    with pytest.raises(ValueError, match=r"the 12 pictures of .* GiB at image_size=32.*smaller image_size"):
        ImageFolderDataModule(str(pictures)).setup("fit")
    ImageFolderDataModule(str(pictures), image_size=31).setup("fit")
