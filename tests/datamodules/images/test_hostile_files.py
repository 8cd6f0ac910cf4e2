"""Hostile and broken data files: one clear error, nothing runs, nothing is allocated by what a header claims."""

import ast
import bz2
import gzip
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as published
from damage import MEGABYTE, ROOT, damaged, peak
from data_sets import write_cifar, write_mnist, write_stl10, write_svhn, write_usps
from factor_set_files import SmallCars3D, SmallDSprites, SmallSmallNORB, write_cars3d, write_dsprites, write_norb

from callbacks.shared import loggers
from datamodules import (
    CSVRegressionDataModule,
    DigitsDataModule,
    MNISTDataModule,
    Office31DataModule,
    SVHNDataModule,
    UCIRegressionDataModule,
    USPSDataModule,
)
from datamodules.factors.formats import check_own, norb_matrix
from datamodules.factors.published import FactorFilesDataModule
from datamodules.images import sources
from datamodules.tables import text as tables

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
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \('N', 1, 28, 28\), got .* \(20, 1, 14, 56\)"):
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
