"""Pictures that cannot be read are counted and named, or skipped on request; none starts a program."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged
from PIL import EpsImagePlugin, Image

from datamodules import (
    DigitsDataModule,
    DigitsMDataModule,
    ImageFolderDataModule,
    Office31DataModule,
)
from datamodules.shared.pictures import decode, upright


def picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (24, 20)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path.read_bytes()


def broken_content(folder: Path) -> dict[str, bytes]:
    """What is no picture, in many ways."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "x.jpg")
    Image.fromarray(noise).save(folder / "x.png")
    Image.fromarray(noise).save(folder / "x.eps")
    jpeg, png, eps = ((folder / f"x.{kind}").read_bytes() for kind in ("jpg", "png", "eps"))
    for kind in ("jpg", "png", "eps"):
        (folder / f"x.{kind}").unlink()
    header = png[12:16] + struct.pack(">2I", 2**31 - 1, 2**31 - 1) + png[24:29]
    bomb = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    return {
        "empty.jpg": b"",
        "text.png": b"no picture",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:100],
        "truncated.png": png[: len(png) // 2],
        "checksum.png": png[:30] + bytes([png[30] ^ 255]) + png[31:],
        "enormous.png": bomb,
        "postscript.jpg": eps,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of pictures of all sizes, and eight broken ones in the training split."""
    for split in ("train", "test"):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            for index, size in enumerate([(24, 20), (7, 300), (300, 7), (1, 1)]):
                picture(tmp_path / split / name / f"{index}.{'jpg' if index % 2 else 'png'}", colour, size)
    for index, (name, content) in enumerate(broken_content(tmp_path).items()):
        (tmp_path / "train" / ("red" if index % 2 else "blue") / name).write_bytes(content)
    return tmp_path


def test_all_pictures_that_cannot_be_read_are_counted_and_named(folder):
    with pytest.raises(ValueError, match=r"8 of 16 pictures of '.*train' cannot be read: ") as refused:
        ImageFolderDataModule(str(folder)).setup("fit")
    for name in broken_content(folder):
        assert name in str(refused.value)
    assert "blue/empty.jpg, " in str(refused.value)
    assert "(the first: cannot identify image file" in str(refused.value)
    assert str(refused.value).endswith("; unreadable=skip leaves them out")


def test_they_are_skipped_on_request_with_a_warning_and_the_labels_stay_with_their_pictures(folder):
    data = ImageFolderDataModule(str(folder), image_size=16, val_split=0, unreadable="skip", num_workers=2)
    with pytest.warns(UserWarning, match=r"8 of 16 pictures of '.*train' cannot be read.*; they are left out"):
        train, _ = data.fit_sets()
    assert train.images.shape == (8, 3, 16, 16), "of all sizes"
    assert torch.equal(train.images[:, 2].float().mean((1, 2)) > 200, train.labels == 0)
    assert torch.equal(train.images[:, 0].float().mean((1, 2)) > 200, train.labels == 1)
    assert train.labels.bincount().tolist() == [4, 4]
    assert len(data.test_dataloader()[0].dataset) == 8


def test_a_class_of_which_nothing_can_be_read_and_a_folder_of_which_nothing_can_are_refused_in_any_case(folder):
    for path in (folder / "train" / "red").glob("[0-9].*"):
        path.unlink()
    warned = pytest.warns(UserWarning, match="8 of 12 pictures")
    with warned, pytest.raises(ValueError, match=r"no picture can be read of these classes .*: red"):
        ImageFolderDataModule(str(folder), unreadable="skip").setup("fit")
    for path in (folder / "train" / "blue").glob("[0-9].*"):
        path.unlink()
    with pytest.raises(ValueError, match="8 of 8 pictures"):
        ImageFolderDataModule(str(folder), unreadable="skip").setup("fit")
    for kind in (ImageFolderDataModule, DigitsMDataModule, lambda *_, **a: Office31DataModule("dslr", **a)):
        with pytest.raises(ValueError, match="unreadable must be refuse, skip, got 'ignore'"):
            kind(*([str(folder)] if kind is ImageFolderDataModule else []), unreadable="ignore")


def test_pictures_of_an_out_of_distribution_set_are_refused_in_any_case(folder):
    (folder / "mine").mkdir()
    (folder / "train").rename(folder / "mine" / "test")
    with pytest.raises(ValueError, match=r"8 of 16 pictures of '.*' cannot be read: .*file <?.*\)$"):
        DigitsDataModule(str(folder), ood=["far/mine"]).setup("test")


def test_office_31_refuses_or_skips_them_too(tmp_path):
    for number in range(31):
        for index in range(2):
            picture(tmp_path / "dslr" / "images" / f"class_{number:02}" / f"{index}.png", (8 * number, 0, 0))
    (tmp_path / "dslr" / "images" / "class_07" / "bad.jpg").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"1 of 63 pictures of '.*images' cannot be read: class_07/bad\.jpg \("):
        Office31DataModule("dslr", str(tmp_path), image_size=8).setup("test")
    data = Office31DataModule("dslr", str(tmp_path), image_size=8, unreadable="skip")
    with pytest.warns(UserWarning, match="1 of 63 pictures"):
        test = data.test_dataloader()[0].dataset
    assert len(test) == 62
    assert torch.equal(test.images[:, 0, 0, 0].long(), 8 * test.labels)


def test_photographs_for_digits_are_refused_or_skipped_too(tmp_path):
    for name, content in broken_content(tmp_path).items():
        (tmp_path / name).write_bytes(content)
    picture(tmp_path / "good" / "a.png", (9, 9, 9), (60, 50))
    with pytest.raises(ValueError, match=r"8 of 9 pictures of '.*' cannot be read: checksum\.png, .*leaves them out"):
        DigitsMDataModule(photographs=str(tmp_path)).setup("test")
    data = DigitsMDataModule(photographs=str(tmp_path), unreadable="skip")
    with pytest.warns(UserWarning, match="8 of 9 pictures .* left out"):
        skipped = data.load_split(False)[0]
    assert torch.equal(skipped, DigitsMDataModule(photographs=str(tmp_path / "good")).load_split(False)[0])


def test_no_program_is_started_for_a_picture_whatever_its_name_says(tmp_path, monkeypatch):
    """PIL gives PostScript to Ghostscript, by its content: a hostile picture could bring a program along."""
    started = []

    def ghostscript(*_, **__):
        started.append(1)
        return Image.new("RGB", (4, 4)).im

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    (tmp_path / "x.jpg").write_bytes(broken_content(tmp_path)["postscript.jpg"])
    Image.open(tmp_path / "x.jpg").load()
    assert started == [1], "it would be"
    with pytest.raises(ValueError, match=r"cannot read the picture .*x\.jpg"):
        upright(str(tmp_path / "x.jpg"))
    assert started == [1]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "ppm", "pgm", "tif", "tiff", "webp", "jpeg"])
def test_pictures_of_every_ending_that_is_looked_for_are_read(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    Image.new("L" if suffix == "pgm" else "RGB", (6, 4), 200 if suffix == "pgm" else (200, 200, 200)).save(path)
    assert (decode(str(path), 4, 6).float() - 200).abs().max() < 4
    path.rename(tmp_path / "other.png")
    assert decode(str(tmp_path / "other.png"), 2, 2).shape == (3, 2, 2), "whatever its name"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
def test_damage_anywhere_in_a_picture_is_a_picture_or_one_clear_error(suffix, tmp_path):
    path, random, refusals = tmp_path / f"x.{suffix}", np.random.default_rng(0), 0
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    extra = {} if suffix == "bmp" else {"exif": exif}
    Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path, **extra)
    whole = path.read_bytes()
    for _ in range(80):
        path.write_bytes(damaged(whole, random))
        try:
            assert decode(str(path), 8, 8).shape == (3, 8, 8)
        except ValueError as error:
            assert str(error).startswith("cannot read the picture ")  # noqa: PT017  depends on the bytes
            refusals += 1
    assert refusals > 10
