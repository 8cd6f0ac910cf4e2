"""Hostile and broken data files: one clear error, nothing runs, nothing is allocated by what a header claims."""

import ast
import bz2
import gzip
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as published
from data_sets import (
    SmallCars3D,
    SmallDSprites,
    SmallSmallNORB,
    write_cars3d,
    write_cifar,
    write_dsprites,
    write_mnist,
    write_norb,
    write_stl10,
    write_svhn,
    write_usps,
)
from PIL import EpsImagePlugin, Image

from callbacks.shared import loggers
from datamodules import (
    CSVRegressionDataModule,
    DigitsDataModule,
    DigitsMDataModule,
    ImageFolderDataModule,
    MNISTDataModule,
    Office31DataModule,
    SVHNDataModule,
    UCIRegressionDataModule,
    USPSDataModule,
)
from datamodules.factors.formats import check_own, norb_matrix
from datamodules.factors.published import FactorFilesDataModule
from datamodules.images import sources
from datamodules.shared.pictures import decode, upright
from datamodules.tables import text as tables

ROOT = Path(__file__).resolve().parents[3]
MEGABYTE = 2**20


def damaged(whole: bytes, random: np.random.Generator) -> bytes:
    """Bytes cut off, or changed at the beginning, at the end or anywhere."""
    kind, place = random.integers(4), int(random.integers(len(whole)))
    if kind == 0:
        return whole[:place]
    place = (place % 64, len(whole) - 1 - place % 200, place)[kind - 1]
    noise = random.bytes(int(random.integers(1, 9)))
    return whole[:place] + noise + whole[place + len(noise) :]


def peak(action: Any) -> int:
    """The most bytes that Python and NumPy hold at a time while something is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r".") as refused:
            action()
        assert "\n" not in str(refused.value)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------- published sets

SETS = {
    "MNIST": ("MNIST/raw/t10k-images-idx3-ubyte", sources.MNIST_SOURCE, lambda root, _: write_mnist(root, "MNIST")),
    "MNIST's labels": (
        "MNIST/raw/t10k-labels-idx1-ubyte",
        sources.MNIST_SOURCE,
        lambda root, _: write_mnist(root, "MNIST"),
    ),
    "USPS": ("usps.t.bz2", sources.USPS_SOURCE, lambda root, _: write_usps(root)),
    "SVHN": ("test_32x32.mat", sources.SVHN_SOURCE, write_svhn),
    "STL10": ("stl10_binary/test_y.bin", sources.STL10_SOURCE, write_stl10),
}


@pytest.mark.parametrize("name", SETS)
def test_damage_anywhere_in_a_published_set_is_one_clear_error(name, tmp_path, monkeypatch):
    file, source, write = SETS[name]
    write(tmp_path, monkeypatch)
    whole, random, refusals = (tmp_path / file).read_bytes(), np.random.default_rng(0), 0
    for _ in range(24):
        (tmp_path / file).write_bytes(damaged(whole, random))
        try:
            images, labels = source.read(str(tmp_path), train=False)
        except ValueError as error:
            assert str(error).startswith(f"the files of {source.title} in ")  # noqa: PT017  depends on the bytes
            refusals += 1
        else:
            assert images.shape[1:] == source.image_shape
            assert len(images) == len(labels)
    assert refusals >= 4


@pytest.mark.parametrize("sizes", [(2**31 - 1, 28, 28), (2**32 - 1,) * 3, (20, 28, 2**31), (0, 28, 28)])
def test_an_idx_header_that_lies_is_refused_without_allocating(sizes, tmp_path):
    write_mnist(tmp_path, "MNIST")
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    file.write_bytes(struct.pack(">i3I", 0x803, *sizes) + file.read_bytes()[16:])
    assert peak(lambda: MNISTDataModule(tmp_path).setup("test")) < MEGABYTE


def test_files_of_one_set_that_do_not_belong_together_are_refused_also_where_labels_are_not_used(tmp_path):
    write_mnist(tmp_path, "MNIST")
    raw = tmp_path / "MNIST" / "raw"
    (raw / "t10k-labels-idx1-ubyte").write_bytes((raw / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(ValueError, match=r"files of MNIST .*\(20 images have labels of shape \(30,\)"):
        DigitsDataModule(tmp_path, ood=["near/mnist"]).setup("test")
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 20) + bytes([200] * 20))
    with pytest.raises(ValueError, match=r"files of MNIST .*\(labels must lie in 0\.\.9, got 200\.\.200"):
        MNISTDataModule(tmp_path).setup("test")
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 20, 14, 56) + bytes(20 * 14 * 56))
    with pytest.raises(ValueError, match=r"images must be bytes of shape \(1, 28, 28\), got \(20, 1, 14, 56\)"):
        DigitsDataModule(tmp_path, ood=["near/mnist"]).setup("test")


def test_a_packed_file_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "USPS_LIMIT", 1)
    write_usps(tmp_path)
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress(b"1 1:0.5\n" * (MEGABYTE // 4)))  # 2 MiB
    assert peak(lambda: USPSDataModule(tmp_path).setup("test")) < 6 * MEGABYTE
    with pytest.raises(ValueError, match=r"usps\.t\.bz2 unpacks to more than 1 MiB"):
        USPSDataModule(tmp_path).setup("test")


def test_a_damaged_file_beside_a_missing_one_is_named_when_the_rest_is_fetched(tmp_path):
    (tmp_path / "usps.bz2").write_bytes(bz2.compress(b"1 1:x\n"))
    with pytest.raises(FileNotFoundError, match=r"missing in .*: usps\.t\.bz2.* download failed: could not convert"):
        USPSDataModule(tmp_path, download=True).prepare_data()


class Planted:
    """What pickle calls when it is read: it leaves a folder behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.witness),)


def test_a_planted_call_in_the_pickles_of_cifar_is_refused_by_the_checksum_and_does_not_run(tmp_path, monkeypatch):
    lists = published.CIFAR10.train_list, published.CIFAR10.test_list, published.CIFAR10.meta
    write_cifar(tmp_path, monkeypatch, published.CIFAR10, "labels", 10)
    for attribute, value in zip(("train_list", "test_list", "meta"), lists, strict=True):  # with the real checksums
        monkeypatch.setattr(published.CIFAR10, attribute, value)
    for file in (tmp_path / "cifar-10-batches-py").iterdir():
        file.write_bytes(pickle.dumps(Planted(tmp_path / "witness")))
    with pytest.raises(ValueError, match=r"files of CIFAR10 .* damaged or incomplete"):
        sources.CIFAR10_SOURCE.read(str(tmp_path), train=False)
    assert not (tmp_path / "witness").exists()
    pickle.loads(file.read_bytes())
    assert (tmp_path / "witness").exists(), "the plant works"


def test_no_package_unpacks_an_archive_or_unpickles_anything_itself():
    """So no member's name can lead out of a folder: torchvision unpacks what it has compared with a checksum."""
    names = {"extractall", "extract", "unpack_archive", "loads", "Unpickler", "allow_pickle"}
    found = []
    for path in (path for package in ("zoo", "datamodules", "callbacks") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "attr", None) or getattr(node, "arg", None)
            owner = getattr(getattr(node, "value", None), "id", "")
            if name in names and owner != "json":
                found.append(f"{path.name}: {name}")
            if isinstance(node, ast.Attribute) and name == "load" and owner == "torch":
                found.append(path.name)
    assert found == ["checkpoints.py"], "whose torch.load reads tensors and plain values only"


# ---------------------------------------------------------------- sets with known factors

SMALL = {"batch_size": 8, "images_per_epoch": 16, "val_images": 0, "test_images": 10}
FACTORS: dict[str, tuple[type[FactorFilesDataModule], Any]] = {
    "dsprites": (SmallDSprites, write_dsprites),
    "cars3d": (SmallCars3D, write_cars3d),
    "smallnorb": (SmallSmallNORB, lambda folder: write_norb(folder, packed=True)),
}


@pytest.mark.parametrize("name", FACTORS)
def test_damage_anywhere_in_a_set_with_factors_is_one_clear_error(name, tmp_path):
    kind, write = FACTORS[name]
    write(tmp_path)
    files = sorted(path for path in tmp_path.iterdir() if path.suffix != ".txt")
    random, refusals = np.random.default_rng(0), 0
    for number in range(24):
        file = files[number % len(files)]
        whole = file.read_bytes()
        file.write_bytes(damaged(whole, random))
        try:
            kind(data_dir=str(tmp_path), **SMALL).images()
        except ValueError as error:
            assert str(error).startswith(f"the files of {name} in ")  # noqa: PT017  depends on the bytes
            refusals += 1
        file.write_bytes(whole)
    assert refusals >= 8


def rewritten(path: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, old in parts.items():
            archive.writestr(name, data if name == member else old)


@pytest.mark.parametrize(
    "header",
    [
        {"descr": "|u1", "fortran_order": False, "shape": (2**40, 64, 64)},
        {"descr": "|u1", "fortran_order": True, "shape": (2**40, 64, 64)},
        {"descr": "|O", "fortran_order": False, "shape": (72, 64, 64)},
        {"descr": "<f8", "fortran_order": False, "shape": (72, 64, 64)},
        {"descr": "|u1", "fortran_order": False, "shape": (-1, 64, 64)},
    ],
)
def test_an_npy_header_that_lies_is_refused_without_allocating(header, tmp_path):
    write_dsprites(tmp_path)
    path = tmp_path / SmallDSprites.files[0]
    text = str(header).encode().ljust(118) + b"\n"
    rewritten(path, "imgs.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + b"\0" * 1000)
    assert peak(SmallDSprites(data_dir=str(tmp_path), **SMALL).images) < 2 * MEGABYTE


def test_a_matrix_of_smallnorb_that_lies_about_its_sizes_or_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "x.mat"
    path.write_bytes(struct.pack("<6i", 0x1E3D4C55, 4, *[2**31 - 1] * 4) + b"\0" * 100)
    with pytest.raises(ValueError, match=r"x\.mat has 100 bytes of numbers, not those of shape"):
        norb_matrix(path, 1000)
    packed = tmp_path / "x.mat.gz"
    packed.write_bytes(gzip.compress(struct.pack("<6i", 0x1E3D4C55, 4, 1, 1, 1, 1) + bytes(8 * MEGABYTE)))
    assert peak(lambda: norb_matrix(packed, 1000)) < MEGABYTE
    with pytest.raises(ValueError, match=r"x\.mat\.gz has more than 1000 bytes"):
        norb_matrix(packed, 1000)


class Dataset:
    """What h5py says of an array."""

    def __init__(self, home: Path, external: Any = None, is_virtual: bool = False) -> None:
        self.file, self.external, self.is_virtual = type("File", (), {"filename": str(home)}), external, is_virtual


def test_an_array_of_an_h5_file_that_lies_in_another_file_is_refused():
    path = Path("a/3dshapes.h5")
    check_own("images", Dataset(path), path)
    check_own("images", np.zeros(1), path)
    for array in (Dataset(Path("secret")), Dataset(path, [("secret", 0, 9)]), Dataset(path, is_virtual=True)):
        with pytest.raises(ValueError, match=r"images must lie in 3dshapes\.h5 itself, not in another file"):
            check_own("images", array, path)


def test_real_links_out_of_an_h5_file_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra h5 is not installed")
    path = tmp_path / "3dshapes.h5"
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["images"] = np.zeros((4, 2))
    with h5py.File(path, "w") as file:
        file["own"] = np.zeros((4, 2))
        file["linked"] = h5py.ExternalLink("secret.h5", "images")
        file.create_dataset("outside", (4,), "u1", external=[(str(tmp_path / "secret.h5"), 0, 4)])
        layout = h5py.VirtualLayout((4, 2), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", (4, 2))
        file.create_virtual_dataset("virtual", layout)
    with h5py.File(path) as file:
        check_own("own", file["own"], path)
        for name in ("linked", "outside", "virtual"):
            with pytest.raises(ValueError, match="not in another file"):
                check_own(name, file[name], path)


# ---------------------------------------------------------------- pictures


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
        with pytest.raises(ValueError, match="unreadable must be 'refuse' or 'skip', got 'ignore'"):
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


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize(("extra", "width"), [("7,8,9,10\n", 4), ("7\n", 1), ("7,8,\n", 3)])
def test_a_row_of_another_number_of_columns_is_named_by_its_line(extra, width, tmp_path):
    path = tmp_path / "x.csv"
    rows = [f"{i},{i % 7}\n" for i in range(40)]
    path.write_text("a,b\n" + "".join(rows[:20]) + extra + "".join(rows[20:]))
    with pytest.raises(ValueError, match=rf"line 22 of .*x\.csv has {width} columns, but line 1 has 2"):
        CSVRegressionDataModule(str(path), "b").setup("fit")


def test_a_packed_table_that_unpacks_to_one_endless_line_is_refused_before_it_does(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "LONGEST", 2**20)
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n" + b"0" * (32 * MEGABYTE)))
    assert peak(lambda: CSVRegressionDataModule(str(path), "b").setup("fit")) < 16 * MEGABYTE
    with pytest.raises(ValueError, match=r"line 3 of .*x\.csv\.gz has 1,048,576 characters or more"):
        CSVRegressionDataModule(str(path), "b").setup("fit")
    path.write_bytes(gzip.compress(b"0" * (2 * MEGABYTE)))
    with pytest.raises(ValueError, match="line 1 of"):
        CSVRegressionDataModule(str(path), "b")


# ---------------------------------------------------------------- names that lead out of a folder

OUTSIDE = ("../x", "..", "a/../../x", "/x", "a//x", "./x", "a/.")


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_in_a_configuration_leads_out_of_its_folder(name, tmp_path):
    for kind in (DigitsDataModule, SVHNDataModule):
        with pytest.raises(ValueError, match="unknown ood set"):
            kind(str(tmp_path), ood=[f"far/{name}"])
    with pytest.raises(ValueError, match="domain must be amazon, webcam, dslr"):
        Office31DataModule(name, str(tmp_path))
    with pytest.raises(ValueError, match="unknown table"):
        UCIRegressionDataModule(name, str(tmp_path))
    logger = type("Logger", (), {"log_dir": str(tmp_path / "run"), "save_dir": None})
    with pytest.raises(ValueError, match="expected a name like 'group/figure'"):
        loggers._file(None, logger, "images", name, ".png")
    assert list(tmp_path.iterdir()) == []
