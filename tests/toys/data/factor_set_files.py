"""Small files in the real formats of the published sets with factors."""

import gzip
import struct

import numpy as np
from PIL import Image
from scipy.io import savemat

from datamodules import Cars3DDataModule, DSpritesDataModule, MPI3DDataModule, Shapes3DDataModule, SmallNORBDataModule
from datamodules.factors.formats import h5py

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


def drawn(*shape):
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
    images = drawn(*sizes, 64, 64) % 2
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
    images = drawn(*sizes, 64, 64, 3)
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
    images = drawn(*SmallMPI3D.sizes[part], 64, 64, 3)
    np.savez_compressed(folder / f"{name}.npz", images=images.reshape(-1, 64, 64, 3))
    return images
