"""A small own set, published ones as small files, a module that keeps its batches, and a quiet Trainer."""

import bz2
import gzip
import pickle
import struct
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
import torchvision.datasets as published
from PIL import Image
from scipy.io import savemat

from datamodules import Cars3DDataModule, DSpritesDataModule, MPI3DDataModule, Shapes3DDataModule, SmallNORBDataModule
from datamodules.factors.formats import h5py
from datamodules.images import sources
from datamodules.images.base import ImageDataModule


class Numbered(ImageDataModule):
    """A user's own set: image i is a plane of value i, so that every image can be recognised."""

    name, num_classes, image_shape = "numbered", 4, (1, 4, 4)

    def load_split(self, train):
        count = 40 if train else 20
        values = torch.arange(count, dtype=torch.uint8) + (0 if train else 100)
        return values.view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), torch.arange(count) % 4


class Recorder(pl.LightningModule):
    """Keeps what each stage got; the bytes behind the floats identify the images of ``Numbered``."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen["test"].append((dataloader_idx, batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, max_epochs=1, **quiet, **kwargs)


def images_of(loader):
    return torch.cat([images for images, _ in loader])


def as_bytes(images):
    return ((images + 1) * 127.5).round().byte()


def drawn(count, shape, classes, seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % classes


def write_mnist(root, name):
    """The idx format: a magic number, the sizes, the bytes."""
    folder = Path(root, name, "raw")
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("t10k", 20)):
        images, labels = drawn(count, (28, 28), 10, count)
        header = struct.pack(">4i", 0x803, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x801, count)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())


def write_cifar(root, monkeypatch, kind, key, classes):
    """Pickled batches of rows of 3,072 bytes; the checksums are those of the real files, so they are set aside."""
    folder = Path(root, kind.base_folder)
    folder.mkdir()
    for names, attribute in ((kind.train_list, "train_list"), (kind.test_list, "test_list")):
        for number, (file, _) in enumerate(names):
            images, labels = drawn(20, (3, 32, 32), classes, number + 10 * (attribute == "test_list"))
            batch = {"data": images.reshape(20, -1), key: labels.tolist()}
            (folder / file).write_bytes(pickle.dumps(batch))
        monkeypatch.setattr(kind, attribute, [[file, None] for file, _ in names])
    meta = {**kind.meta, "md5": None}
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [str(i) for i in range(classes)]}))
    monkeypatch.setattr(kind, "meta", meta)


def write_svhn(root, monkeypatch):
    """MATLAB files with images last and the digit 0 written as 10; without checksums, as above."""
    for split, count in (("train", 30), ("test", 20), ("extra", 25)):
        images, labels = drawn(count, (3, 32, 32), 10, count)
        labels = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(Path(root, f"{split}_32x32.mat"), {"X": images.transpose(2, 3, 1, 0), "y": labels})
    lists = {split: [url, file, None] for split, (url, file, _) in published.SVHN.split_list.items()}
    monkeypatch.setattr(published.SVHN, "split_list", lists)


def write_usps(root):
    """Lines of `label index:value ...` with labels 1..10 and values in [-1, 1]."""
    for file, count in (("usps.bz2", 30), ("usps.t.bz2", 20)):
        images, labels = drawn(count, (16, 16), 10, count)
        # Half a step up: torchvision rounds down.
        values = (images.reshape(count, -1) + 0.5) / 255 * 2 - 1
        values = np.where(values > 1, 1, values)
        lines = (
            f"{label + 1} " + " ".join(f"{i + 1}:{v:.6f}" for i, v in enumerate(row))
            for label, row in zip(labels, values, strict=True)
        )
        Path(root, file).write_bytes(bz2.compress("\n".join(lines).encode()))


def write_stl10(root, monkeypatch):
    """Bytes of one image after another, columns before rows, and labels from 1; without checksums, as above."""
    folder = Path(root, "stl10_binary")
    folder.mkdir()
    for split, count in (("train", 30), ("test", 20)):
        images, labels = drawn(count, (3, 96, 96), 10, count)
        (folder / f"{split}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        lists = [[f"{split}_X.bin", None], [f"{split}_y.bin", None]]
        monkeypatch.setattr(sources._LabelledSTL10, f"{split}_list", lists)


SMALL = {"batch_size": 8, "images_per_epoch": 16, "val_images": 0, "test_images": 10}


class SmallDSprites(DSpritesDataModule):
    factor_sizes = (3, 2, 3, 2, 2)


class SmallShapes3D(Shapes3DDataModule):
    factor_sizes = (2, 2, 2, 3, 2, 3)


class SmallCars3D(Cars3DDataModule):
    factor_sizes = (2, 3, 4)


class SmallSmallNORB(SmallNORBDataModule):
    factor_sizes, instances = (2, 3, 4, 2), 4


class SmallMPI3D(MPI3DDataModule):
    sizes = {"toy": (2, 2, 2, 2, 2, 3, 3), "complex": (1, 2, 2, 2, 2, 3, 3)}  # noqa: RUF012  a test's constant


def random_bytes(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def smooth(*shape):
    """Images that shrink without ringing beyond the bytes: a slope each, in its last two axes of pixels."""
    rows, columns = shape[-2:]
    slope = np.linspace(0, 100, rows)[:, None] + np.linspace(0, 50, columns)
    return (slope + np.random.default_rng(0).integers(0, 100, (*shape[:-2], 1, 1))).astype(np.uint8)


def shrunk(image):
    return np.array(Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS))


def write_dsprites(folder):
    folder.mkdir(parents=True, exist_ok=True)
    sizes = SmallDSprites.factor_sizes
    images = random_bytes(*sizes, 64, 64) % 2
    rows = np.indices(sizes).reshape(5, -1).T
    classes = np.concatenate([np.zeros((len(rows), 1), np.int64), rows], 1)
    np.savez_compressed(
        folder / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        metadata=np.array({"title": "pickled, never read"}, dtype=object),
        imgs=images.reshape(-1, 64, 64),
        latents_classes=classes,
        latents_values=classes * 0.5,
    )
    return images[..., None] * 255


class H5File:
    """What is used of ``h5py.File``, over an ``.npz`` file, where h5py is not installed."""

    def __init__(self, path, mode):
        self.path, self.mode, self.arrays = path, mode, {}
        if mode == "r":
            try:
                self.arrays = dict(np.load(path))
            except Exception as error:  # whatever NumPy says of a damaged file: h5py says OSError
                raise OSError("unable to open file") from error

    def __enter__(self):
        return self

    def __getitem__(self, name):
        return self.arrays[name]

    def create_dataset(self, name, data, compression):
        self.arrays[name] = data

    def __exit__(self, *_):
        if self.mode == "w":
            with self.path.open("wb") as file:
                np.savez(file, **self.arrays)


def write_shapes3d(folder, labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    sizes = SmallShapes3D.factor_sizes
    images = random_bytes(*sizes, 64, 64, 3)
    values = np.stack([axis.ravel() for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in sizes), indexing="ij")], 1)
    with h5py().File(folder / "3dshapes.h5", "w") as file:
        file.create_dataset("images", data=images.reshape(-1, 64, 64, 3), compression="gzip")
        file.create_dataset("labels", data=values if labels is None else labels(values), compression="gzip")
    return images


def write_cars3d(folder):
    folder.mkdir(parents=True, exist_ok=True)
    elevations, azimuths, cars = SmallCars3D.factor_sizes
    meshes = np.moveaxis(smooth(cars, azimuths, elevations, 3, 128, 128), 3, -1)  # car, azimuth, elevation, h, w, 3
    for number, mesh in enumerate(meshes):
        savemat(folder / f"car_{number:03d}_mesh.mat", {"im": mesh.transpose(2, 3, 4, 0, 1)}, do_compression=True)
    (folder / "note.txt").write_text("other files do not count")
    images = np.empty((*SmallCars3D.factor_sizes, 64, 64, 3), np.uint8)
    for elevation, azimuth, car in np.ndindex(*SmallCars3D.factor_sizes):
        images[elevation, azimuth, car] = shrunk(meshes[car, azimuth, elevation])
    return images


def norb_file(path, array, packed):
    magic = {np.dtype("u1"): 0x1E3D4C55, np.dtype("<i4"): 0x1E3D4C54}[array.dtype]
    sizes = list(array.shape) + [1] * (3 - array.ndim)
    data = struct.pack(f"<2i{len(sizes)}i", magic, array.ndim, *sizes) + array.tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def write_norb(folder, packed=False):
    """Instances 1 and 3 to train, 0 and 2 to test, all in a random order."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.empty((*SmallSmallNORB.factor_sizes, 4, 64, 64, 1), np.uint8)
    sources = smooth(*SmallSmallNORB.factor_sizes, 4, 96, 96)
    parts = {"5x46789x9x18x6x2x96x96-training": (1, 3), "5x01235x9x18x6x2x96x96-testing": (0, 2)}
    for part, instances in parts.items():
        rows = [row for row in np.ndindex(*SmallSmallNORB.factor_sizes, 4) if row[4] in instances]
        rows = np.random.default_rng(1).permutation(rows)
        pairs = np.stack([[sources[tuple(row)], 255 - sources[tuple(row)]] for row in rows])
        info = np.stack([rows[:, 4], rows[:, 1], rows[:, 2] * 2, rows[:, 3]], 1).astype("<i4")
        for kind, array in (("dat", pairs), ("cat", rows[:, 0].astype("<i4")), ("info", info)):
            norb_file(folder / f"smallnorb-{part}-{kind}.mat", array, packed)
    for place in np.ndindex(*sources.shape[:5]):
        images[place] = shrunk(sources[place])[..., None]
    return images


def write_mpi3d(folder, name="mpi3d_toy", part="toy"):
    folder.mkdir(parents=True, exist_ok=True)
    images = random_bytes(*SmallMPI3D.sizes[part], 64, 64, 3)
    np.savez_compressed(folder / f"{name}.npz", images=images.reshape(-1, 64, 64, 3))
    return images
