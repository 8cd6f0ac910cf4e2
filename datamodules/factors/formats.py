"""The file formats of the published sets with known factors, as functions."""

import gzip
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

CHUNK = 2**25  # bytes that are read at a time
# What the first number of a file of SmallNORB says.
NORB_TYPES: dict[int, np.dtype] = {0x1E3D4C55: np.dtype("u1"), 0x1E3D4C54: np.dtype("<i4")}


def grid(sizes: Sequence[int]) -> np.ndarray:
    """All combinations of factors, the last one fastest, (N, K) int64."""
    return np.indices(sizes).reshape(len(sizes), -1).T


def shrunk(image: np.ndarray) -> np.ndarray:
    """An image (H, W) or (H, W, 3) uint8 brought to 64x64 (LANCZOS)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((64, 64), Image.Resampling.LANCZOS))


def check_array(name: str, shape: Sequence[int], dtype: np.dtype, expected: Sequence[int], kind: str) -> None:
    """Raise ``ValueError`` if a file says another shape or dtype of an array than it must have."""
    if tuple(shape) != tuple(expected) or dtype != np.dtype(kind):
        raise ValueError(f"{name} must be {np.dtype(kind)} of shape {tuple(expected)}, got {dtype} of {tuple(shape)}")


def check_own(name: str, array: object, path: Path) -> None:
    """Raise ``ValueError`` for an array of an ``.h5`` file that is linked, stored outside or virtual."""
    home = getattr(getattr(array, "file", None), "filename", str(path))
    if home != str(path) or getattr(array, "is_virtual", False) or getattr(array, "external", None):
        raise ValueError(f"{name} must lie in {path.name} itself, not in another file")


def npz_chunks(path: Path, name: str, shape: Sequence[int], kind: str) -> Iterator[np.ndarray]:
    """Reads an array of an ``.npz`` file piece by piece: that of dSprites has 3 GB in a file of 26 MB.

    Yields:
        Pieces along the first axis, about 32 MB each, the last axis fastest; together they have the shape.

    Raises:
        ValueError: The array has another shape or dtype, or is cut off; a damaged file raises other errors, too.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        stored_shape, fortran_order, dtype = header(stream)
        check_array(name, stored_shape, dtype, shape, kind)
        row = math.prod(shape[1:]) * dtype.itemsize
        step = max(1, CHUNK // row)
        if fortran_order:  # its images lie across the whole file
            whole = np.load(path)[name]
            yield from (np.ascontiguousarray(whole[start : start + step]) for start in range(0, shape[0], step))
            return
        for start in range(0, shape[0], step):
            size = min(step, shape[0] - start) * row
            data = stream.read(size)
            if len(data) < size:
                raise ValueError(f"{name} is cut off")
            yield np.frombuffer(data, dtype).reshape(-1, *shape[1:])


def norb_matrix(path: Path, most: int) -> np.ndarray:
    """Reads a file of SmallNORB, packed (``.gz``) or not: a type, the number of axes, at least 3 sizes, the numbers.

    Raises:
        ValueError: The type is unknown, the file has not as many numbers as it says, or more than ``most`` bytes
            unpacked; a damaged packed file raises other errors, too.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path.name} has more than {most} bytes")
    if len(data) < 20:
        raise ValueError(f"{path.name} has {len(data)} bytes")
    magic, axes = (int(number) for number in np.frombuffer(data, "<i4", 2))
    if magic not in NORB_TYPES or not 1 <= axes <= 4:
        raise ValueError(f"{path.name} begins with {magic:#x} and {axes} axes, which is no file of SmallNORB")
    dtype, stored = NORB_TYPES[magic], max(3, axes)
    shape, start = np.frombuffer(data, "<i4", stored, 8)[:axes].tolist(), 8 + 4 * stored
    if len(data) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{path.name} has {len(data) - start} bytes of numbers, not those of shape {tuple(shape)}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape)


def mesh(path: Path, azimuths: int, elevations: int) -> np.ndarray:
    """Reads the images of one car of Cars3D, (H, W, 3, azimuths, elevations) uint8; ``ValueError`` for others."""
    from scipy.io import loadmat  # comes with scikit-learn; no other set needs it

    try:
        images = loadmat(path)["im"]
    except Exception as error:  # a damaged file may raise anything, also errors of scipy's own
        raise ValueError(f"{path.name}: {error}") from error
    if images.ndim != 5 or images.dtype != np.uint8 or images.shape[2:] != (3, azimuths, elevations):
        expected = f"uint8 of shape (H, W, 3, {azimuths}, {elevations})"
        raise ValueError(f"im of {path.name} must be {expected}, got {images.dtype} of {images.shape}")
    return images


def h5py() -> ModuleType:
    """The library that reads ``.h5`` files; ``ModuleNotFoundError`` says how to install it."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading .h5 files needs h5py: pip install h5py (this project's extra h5)") from error
    return h5py
