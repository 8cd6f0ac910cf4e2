"""The published sets with known factors, read from a user's files; batches are ``(x, factors)``.

Each expects its files in ``data_dir`` or in its own folder below; there is no download. Images are held in memory as
they are stored, bits or bytes, and become floats on the device.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ..shared.arguments import check_choice
from ..shared.augment import normalise
from . import render as sprites
from .base import FactorDataModule
from .draws import FactorBatch
from .formats import CHUNK, check_array, check_own, grid, h5py, mesh, norb_matrix, npz_chunks, shrunk


class FactorFilesDataModule(FactorDataModule):
    """Parent of the sets in files: one image for each combination of factors, the last factor fastest.

    Attributes:
        published: Where the files are published.
        folder: Name of the folder of the files below ``data_dir``.
        files: Their names.
        instances: Images of each combination of factors, one of which is drawn for each access.
    """

    published: ClassVar[str]
    folder: ClassVar[str]
    files: tuple[str, ...]
    instances: ClassVar[int] = 1

    def __init__(self, data_dir: str = "data", **arguments: Any) -> None:
        """Checks the arguments; looks at no file.

        Args:
            data_dir: Folder with the files, or with the set's own folder that holds them.
            **arguments: Those of ``FactorDataModule``.
        """
        super().__init__(**arguments)
        self.data_dir = str(data_dir)
        self._images: Tensor | None = None

    def prepare_data(self) -> None:
        """Looks for the files."""
        self.paths()

    def setup(self, stage: str) -> None:
        """Reads the files, unless that has been done."""
        self.images()

    def root(self) -> Path:
        """The set's own folder below ``data_dir``, or ``data_dir`` itself if there is none."""
        own = Path(self.data_dir, self.folder)
        return own if own.is_dir() else Path(self.data_dir)

    def missing(self, names: str) -> FileNotFoundError:
        """The error for files that are not there."""
        return FileNotFoundError(
            f"{self.name} is not in data_dir={self.data_dir!r}: missing in {str(self.root())!r}: {names}. "
            f"There is no download; the files are published at {self.published}"
        )

    def paths(self) -> list[Path]:
        """The files, in the order of ``files``."""
        root = self.root()
        if missing := [name for name in self.files if not (root / name).is_file()]:
            raise self.missing(", ".join(missing))
        return [root / name for name in self.files]

    def images(self) -> Tensor:
        """All images as they are held, (``num_images * instances``, ...), read at the first call."""
        if self._images is None:
            paths = self.paths()
            try:
                self._images = self.read(paths)
            except ImportError:  # of h5py, whose message says how to get it
                raise
            except Exception as error:  # NumPy, zipfile, h5py and scipy raise anything for a damaged file
                raise ValueError(
                    f"the files of {self.name} in {str(paths[0].parent)!r} cannot be read "
                    f"({type(error).__name__}: {error}); they are damaged, incomplete or of another set. "
                    f"They are published at {self.published}"
                ) from error
        return self._images

    def read(self, paths: list[Path]) -> Tensor:
        """Reads the images in the order of their factors: (N, 64, 64, C) uint8 unless ``unpack`` is overridden."""
        raise NotImplementedError

    def gather(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        """Takes images of checked factors (n, K) int64 from memory, all on the CPU; the generator draws instances."""
        place = torch.zeros(len(factors), dtype=torch.int64)
        for column, size in zip(factors.unbind(1), self.factor_sizes, strict=True):
            place = place * size + column
        if self.instances > 1:
            drawn = torch.randint(self.instances, (len(factors),), generator=generator, device=generator.device)
            place = place * self.instances + drawn.cpu()
        return self.images().index_select(0, place)

    def unpack(self, held: Tensor) -> Tensor:
        """Makes floats of what ``gather`` took, on any device: (n, C, 64, 64) float32 in [-1, 1]."""
        return normalise(held.permute(0, 3, 1, 2).contiguous())

    def draw(self, factors: Tensor, generator: torch.Generator) -> Tensor:
        """The images of factors; see ``FactorDataModule.draw``."""
        return self.unpack(self.gather(factors.cpu(), generator).to(factors.device))

    def on_before_batch_transfer(self, batch: FactorBatch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Takes the images from memory, so that they travel as bytes."""
        factors, seed = batch
        return self.gather(factors, torch.Generator().manual_seed(seed)), factors

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Makes floats of the bytes on the device."""
        held, factors = batch
        return self.unpack(held), factors


class DSpritesDataModule(FactorFilesDataModule):
    """The published dSprites (Matthey et al. 2017), 737,280 images (1, 64, 64), white on black.

    Held as bits, 377 MB, and read piece by piece. ``SpritesDataModule`` draws nearly the same images without a file.
    """

    name = "dsprites"
    image_shape = (1, sprites.SIDE, sprites.SIDE)
    factor_names = sprites.FACTOR_NAMES
    factor_sizes = sprites.FACTOR_SIZES
    published = "https://github.com/google-deepmind/dsprites-dataset"
    folder = "dsprites"
    files = ("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",)

    def read(self, paths: list[Path]) -> Tensor:
        """Packs the images, (N, 64) int64, and checks that they come in the order of their factors."""
        classes = np.concatenate(list(npz_chunks(paths[0], "latents_classes", (self.num_images, 6), "i8")))
        if not np.array_equal(classes[:, 1:], grid(self.factor_sizes)):
            raise ValueError("latents_classes are not all combinations of the factors in order")
        packed, start = np.empty((self.num_images, sprites.SIDE), np.int64), 0
        for images in npz_chunks(paths[0], "imgs", (self.num_images, sprites.SIDE, sprites.SIDE), "u1"):
            if images.max() > 1:
                raise ValueError(f"imgs must be 0 or 1, got {images.max()}")
            packed[start : start + len(images)] = sprites.pack(images)
            start += len(images)
        return torch.from_numpy(packed)

    def unpack(self, held: Tensor) -> Tensor:
        """Makes floats of bits."""
        return sprites.unpack(held)[:, None]


class Shapes3DDataModule(FactorFilesDataModule):
    """Shapes3D (Burgess and Kim 2018), 480,000 images (3, 64, 64), 5.9 GB in memory. Needs h5py."""

    name = "shapes3d"
    image_shape = (3, 64, 64)
    factor_names = ("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation")
    factor_sizes = (10, 10, 10, 8, 4, 15)
    published = "https://github.com/google-deepmind/3d-shapes"
    folder = "shapes3d"
    files = ("3dshapes.h5",)

    def prepare_data(self) -> None:
        """Looks for the file and for h5py."""
        super().prepare_data()
        h5py()

    def read(self, paths: list[Path]) -> Tensor:
        """Reads the images, and checks by the labels that they come in the order of their factors."""
        with h5py().File(paths[0], "r") as file:
            images, stored = file["images"], file["labels"]
            for name, array, shape, kind in (("images", images, (64, 64, 3), "u1"), ("labels", stored, (6,), "f8")):
                check_own(name, array, paths[0])
                check_array(name, array.shape, array.dtype, (self.num_images, *shape), kind)
            labels = stored[:]
            ranks = [np.unique(column, return_inverse=True)[1] for column in labels.T]
            if not np.array_equal(np.stack(ranks, 1), grid(self.factor_sizes)):
                raise ValueError("labels are not all combinations of the factors in order")
            held = np.empty(images.shape, np.uint8)
            step = max(1, CHUNK // held[0].nbytes)
            for start in range(0, len(held), step):
                held[start : start + step] = images[start : start + step]
        return torch.from_numpy(held)


class Cars3DDataModule(FactorFilesDataModule):
    """Cars3D (Reed et al. 2015), 17,568 images (3, 64, 64): the meshes ``cars/*.mat``, 183 cars in the order of names.

    128x128 pixels are brought to 64x64 (LANCZOS).
    """

    name = "cars3d"
    image_shape = (3, 64, 64)
    factor_names = ("elevation", "azimuth", "object")
    factor_sizes = (4, 24, 183)
    published = "http://www.scottreed.info/files/nips2015-analogy-data.tar.gz"
    folder = "cars"
    files = ()

    def paths(self) -> list[Path]:
        """The meshes in the order of their names."""
        meshes = sorted(self.root().glob("*.mat"))
        if len(meshes) != self.factor_sizes[2]:
            raise self.missing(f"{self.factor_sizes[2]} files *.mat, one for each car, got {len(meshes)}")
        return meshes

    def read(self, paths: list[Path]) -> Tensor:
        """Shrinks the images of all cars."""
        elevations, azimuths, cars = self.factor_sizes
        held = np.empty((elevations, azimuths, cars, 64, 64, 3), np.uint8)
        for car, path in enumerate(paths):
            views = mesh(path, azimuths, elevations)
            for elevation, azimuth in np.ndindex(elevations, azimuths):
                held[elevation, azimuth, car] = shrunk(views[..., azimuth, elevation])
        return torch.from_numpy(held.reshape(-1, 64, 64, 3))


class SmallNORBDataModule(FactorFilesDataModule):
    """SmallNORB (LeCun et al. 2004), 48,600 images (1, 64, 64): the published training and test files together.

    The first camera of each pair, 96x96 brought to 64x64 (LANCZOS), 199 MB. The ten instances of a category are no
    factor: one is drawn for each access. Files may be packed (``.mat.gz``).
    """

    name = "smallnorb"
    image_shape = (1, 64, 64)
    factor_names = ("category", "elevation", "azimuth", "lighting")
    factor_sizes = (5, 9, 18, 6)
    deterministic_images = False
    instances = 10
    published = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/"
    folder = "small_norb"
    files = tuple(
        f"smallnorb-{part}-{kind}.mat"
        for part in ("5x46789x9x18x6x2x96x96-training", "5x01235x9x18x6x2x96x96-testing")
        for kind in ("dat", "cat", "info")
    )

    def paths(self) -> list[Path]:
        """The files, packed or not."""
        root = self.root()
        self.files = tuple(f"{name}.gz" if (root / f"{name}.gz").is_file() else name for name in type(self).files)
        return super().paths()

    def read(self, paths: list[Path]) -> Tensor:
        """Sorts the images of both parts by category, elevation, azimuth, lighting and instance."""
        images, rows = [], []
        for dat, cat, info in zip(paths[0::3], paths[1::3], paths[2::3], strict=True):
            most = 24 + self.num_images * self.instances * 2 * 96 * 96  # bytes of the largest file, and more
            pairs, category, what = (norb_matrix(path, most) for path in (dat, cat, info))
            instance, elevation, azimuth, lighting = what.T
            images.append(np.stack([shrunk(pair[0]) for pair in pairs]))
            rows.append(np.stack([category, elevation, azimuth // 2, lighting, instance], 1))
        factors = np.concatenate(rows)
        order = np.lexsort(factors.T[::-1])
        if not np.array_equal(factors[order], grid((*self.factor_sizes, self.instances))):
            raise ValueError("cat and info are not all combinations of the factors with ten instances each")
        return torch.from_numpy(np.concatenate(images)[order][..., None])


class MPI3DDataModule(FactorFilesDataModule):
    """MPI3D (Gondal et al. 2019), images (3, 64, 64) of a robot arm: 1,036,800, 12.7 GB in memory.

    ``part="complex"`` has four colours and four shapes: 460,800 images, 5.7 GB.
    """

    image_shape = (3, 64, 64)
    factor_names = (
        "object_color", "object_shape", "object_size", "camera_height", "background_color", "horizontal_axis",
        "vertical_axis",
    )  # fmt: skip
    published = "https://github.com/rr-learning/disentanglement_dataset"
    folder = "mpi3d"
    sizes: ClassVar[dict[str, tuple[int, ...]]] = {
        **dict.fromkeys(("toy", "realistic", "real"), (6, 6, 2, 3, 3, 40, 40)),
        "complex": (4, 4, 2, 3, 3, 40, 40),
    }

    def __init__(
        self, part: Literal["toy", "realistic", "real", "complex"] = "toy", data_dir: str = "data", **arguments: Any
    ) -> None:
        """Checks the arguments; looks at no file.

        Args:
            part: ``toy`` (simple renderings), ``realistic`` (renderings), ``real`` (photographs) or ``complex``
                (photographs of everyday things).
            data_dir: Folder with the file, or with a folder ``mpi3d`` that holds it.
            **arguments: Those of ``FactorDataModule``.
        """
        check_choice("part", part, self.sizes)
        self.name = f"mpi3d_{part}"
        self.files = (f"mpi3d_{'real_complex' if part == 'complex' else part}.npz",)
        self.factor_sizes = self.sizes[part]
        super().__init__(data_dir, **arguments)

    def read(self, paths: list[Path]) -> Tensor:
        """Reads the images, which come in the order of their factors."""
        held, start = np.empty((self.num_images, 64, 64, 3), np.uint8), 0
        for images in npz_chunks(paths[0], "images", held.shape, "u1"):
            held[start : start + len(images)] = images
            start += len(images)
        return torch.from_numpy(held)
