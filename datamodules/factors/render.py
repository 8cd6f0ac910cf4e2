"""The renderer of dSprites: every one of its 737,280 images from its factors, as pure functions.

The images of Matthey et al. 2017 (https://github.com/google-deepmind/dsprites-dataset) are white squares, ellipses and
hearts on black, 64x64, without antialiasing. The geometry below was fitted to the published animation: of its 320
frames of 4,096 pixels 228 pixels differ in all. The mean pixel of the full set is 0.042488; public code that
reads the real file reports 0.042494.

Sprites move in steps of 32/31 pixel, so the centres of the pixels, seen from the centre of the sprite, always lie on
one grid of 1/31 pixel, half a step off the origin. There the 720 pairs of shape and pose are 720 fixed masks. They are
kept as run lengths, at most two runs in a row, with whole numbers for ends: 4.9 MB. An image is every 31st row and
column of a mask, so a row of it is two look-ups for each run, as a word of 64 bits. Packed images are these words:
512 bytes an image instead of 4,096, and the same in which the real file is kept.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..shared.augment import windows

FACTOR_NAMES = ("shape", "scale", "orientation", "position_x", "position_y")
FACTOR_SIZES = (3, 6, 40, 32, 32)
SHAPES = ("square", "ellipse", "heart")
SIDE = 64  # rows and columns of an image
STEPS = 31  # grid points in a pixel
SQUARE = 9.6 + 1e-9  # half a side in pixels; the slack decides ties
ELLIPSE = (12.8, 7.2)  # semi-axes in pixels, the long one horizontal at orientation 0
HEART = (  # the right half from the notch to the tip, two cubic Bezier curves, pixels, v down
    ((0.0, -5.17), (2.08, -11.99), (9.59, -9.56), (9.59, -4.03)),
    ((9.59, -4.03), (9.59, 1.0), (2.96, 4.08), (0.0, 9.0)),
)
HEART_POINTS = 40  # on each curve
REACH = 424  # grid rows above and below the centre that a sprite may touch, and a few: 31 * 9.6 * sqrt(2) = 421


def check_factors(factors: Tensor, sizes: Sequence[int]) -> None:
    """Raise ``ValueError`` for factors that are not (n, K) whole numbers, column k in 0..sizes[k] - 1."""
    if factors.ndim != 2 or factors.shape[1] != len(sizes):
        raise ValueError(f"factors must have shape (n, {len(sizes)}), got {tuple(factors.shape)}")
    if factors.is_floating_point() or factors.is_complex() or factors.dtype == torch.bool:
        raise ValueError(f"factors must be whole numbers of an integer dtype, got {factors.dtype}")
    outside = (factors < 0) | (factors >= torch.tensor(sizes, device=factors.device))
    if outside.any():
        row, column = outside.nonzero()[0].tolist()
        raise ValueError(
            f"factor {column} must lie in 0..{sizes[column] - 1}, got {int(factors[row, column])} in row {row}"
        )


def packed_sprites(factors: Tensor) -> Tensor:
    """Draws sprites as packed rows; ``unpack`` makes pixels of them.

    Args:
        factors: (n, 5) int64: shape in 0..2 (square, ellipse, heart), scale in 0..5 (0.5 to 1), orientation in 0..39
            (a full turn, counter-clockwise; 39 is 0 again), position x in 0..31 (left to right), position y in 0..31
            (top to bottom). Not checked: see ``check_factors``.

    Returns:
        (n, 64) int64, on the device of the factors: bit c of word r is the pixel in row r and column c.
    """
    runs, ends, rows, columns = _tables(factors.device)
    shape, scale, orientation, x, y = factors.long().unbind(1)
    _, scales, orientations, *_ = FACTOR_SIZES
    sprite = (shape * scales + scale) * orientations + orientation
    row = (rows - 32 * y[:, None]).clamp_(-REACH, REACH)  # in the mask; the outermost rows are empty
    words = runs.take(row.add_((sprite * (2 * REACH + 1) + REACH)[:, None]))  # four int16 in one word
    run = words.view(torch.int16).view(len(factors), SIDE, 4) + (columns + 32 * x[:, None])[:, None]
    first, last, second_first, second_last = ends.take(run).unbind(-1)
    return (first & last) | (second_first & second_last)


def unpack(rows: Tensor, off: float = -1.0, on: float = 1.0) -> Tensor:
    """Makes pixels (n, 64, 64) float32 of packed rows (n, 64) int64, contiguous: ``off`` for a bit 0, ``on`` for 1."""
    values = _bytes(rows.device, off, on)
    return values.index_select(0, rows.view(torch.uint8).view(-1).int()).view(-1, SIDE, SIDE)


def pack(images: np.ndarray) -> np.ndarray:
    """Packs images of 0 and 1, (n, 64, 64) integers or booleans, to (n, 64) int64 words as ``packed_sprites`` has."""
    return np.packbits(images, axis=-1, bitorder="little").view("<i8")[..., 0]


def render(factors: Tensor) -> Tensor:
    """Draws sprites of factors as in ``packed_sprites``, but checked: (n, 64, 64) bool, true in the sprite."""
    check_factors(factors, FACTOR_SIZES)
    return unpack(packed_sprites(factors), 0, 1).bool()


def coloured(sprites: Tensor, generator: torch.Generator) -> Tensor:
    """Color-dSprites: each white sprite times a colour of its own, uniform on [0.5, 1]^3; the background stays black.

    Sprites are (n, 64, 64) float32, 1 in the sprite and -1 elsewhere, as ``unpack`` gives, here and below; the result
    is (n, 3, 64, 64) float32 in [-1, 1] on their device.
    """
    colour = 0.5 + 0.5 * _uniform(len(sprites), generator, sprites.device)
    return (sprites[:, None] + 1).mul(colour).sub_(1)


def noisy(sprites: Tensor, generator: torch.Generator) -> Tensor:
    """Noisy-dSprites: uniform noise on each pixel and channel of the background; the sprite stays white.

    The noise has 65,536 levels: four values from each random number, 2.5 times as fast as float by float. Shapes and
    ranges are those of ``coloured``.
    """
    words = torch.empty((len(sprites), 3, SIDE, SIDE // 4), dtype=torch.int64, device=generator.device)
    words.random_(-(2**63), None, generator=generator)  # all 64 bits
    noise = words.to(sprites.device).view(torch.int16) * 2.0**-15
    return torch.maximum(noise, sprites[:, None], out=noise)


def over_picture(sprites: Tensor, picture: Tensor, generator: torch.Generator) -> Tensor:
    """Scream-dSprites: a random part of a picture, its colours shifted, with the sprite as its negative.

    The background is (part + shift) / 2 in [0, 1], the shift one colour of an image, uniform on [0, 1]^3, and a pixel
    of the sprite is 1 - background. As in the official code the last row and column of places are never drawn. The
    picture is (3, H, W) uint8 on the device of the sprites, H and W above 64; else as in ``coloured``.
    """
    count, device = len(sprites), sprites.device
    top, left = (
        torch.randint(length - SIDE, (count,), generator=generator, device=generator.device).to(device)
        for length in picture.shape[1:]
    )
    parts = windows(picture[None], torch.zeros_like(top), top, left, SIDE, SIDE)
    background = parts.float().mul_(1 / 255).add_(_uniform(count, generator, device) - 1)
    return background.mul_(-sprites[:, None])  # in [-1, 1] a negative is the other sign


def _uniform(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """One colour for each image, (count, 3, 1, 1) uniform on [0, 1)."""
    return torch.rand((count, 3, 1, 1), generator=generator, device=generator.device).to(device)


def sprite_outline(shape: int) -> np.ndarray:
    """The polygon of the square (0) or the heart (2) at scale 1 and orientation 0, (V, 2) float64, pixels, v down."""
    if shape == 0:
        return SQUARE * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    t = np.linspace(0, 1, HEART_POINTS)[:, None]
    bernstein = np.concatenate([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], 1)
    half = np.concatenate([bernstein @ np.array(curve) for curve in HEART])
    return np.concatenate([half, half[::-1] * (-1, 1)])


def _turned(outline: np.ndarray, scale: float, angle: float) -> np.ndarray:
    """Points of a sprite where they lie in the image, relative to the centre of the sprite."""
    cos, sin = math.cos(angle), math.sin(angle)
    return scale * outline @ np.array([[cos, -sin], [sin, cos]])


def _polygon_crossings(outline: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Where horizontal lines cross a polygon, (R, 4) ascending, infinite where there are fewer crossings."""
    (x0, y0), (x1, y1) = outline.T, np.roll(outline, -1, 0).T
    row, edge = ((y0 > height[:, None]) != (y1 > height[:, None])).nonzero()
    places = x0[edge] + (height[row] - y0[edge]) * (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    number = np.arange(len(row)) - np.searchsorted(row, row)  # of the crossing in its line
    crossings = np.full((len(height), 4), np.inf)
    crossings[row, number] = places
    crossings.sort(1)
    return crossings


def _ellipse_crossings(scale: float, angle: float, height: np.ndarray) -> np.ndarray:
    """Where horizontal lines cross the ellipse, likewise: the roots of a quadratic equation in x."""
    cos, sin = math.cos(angle), math.sin(angle)
    p, q = (1 / (scale * axis) ** 2 for axis in ELLIPSE)
    square, mixed = p * cos**2 + q * sin**2, (q - p) * sin * cos * height
    rest = (p * sin**2 + q * cos**2) * height**2 - 1
    crossings = np.full((len(height), 4), np.inf)
    crossed = mixed**2 > square * rest
    root = np.sqrt((mixed**2 - square * rest)[crossed])
    crossings[crossed, 0] = (-mixed[crossed] - root) / square
    crossings[crossed, 1] = (-mixed[crossed] + root) / square
    return crossings


def _runs() -> np.ndarray:
    """First and last grid column of both runs in each row of all masks, (720, 2 * REACH + 1, 4) int16; (1, 0) is none.

    Grid point i lies at (i + 0.5) / 31 pixels from the centre of the sprite, for rows and for columns.
    """
    shapes, scales, orientations, *_ = FACTOR_SIZES
    height = (np.arange(-REACH, REACH + 1) + 0.5) / STEPS
    runs = np.empty((shapes, scales, orientations, len(height), 4), np.int16)
    for shape, scale, orientation in np.ndindex(shapes, scales, orientations):
        angle = 2 * math.pi * (orientation % (orientations - 1)) / (orientations - 1)
        size = (5 + scale) / 10
        if SHAPES[shape] == "ellipse":
            crossings = _ellipse_crossings(size, angle, height)
        else:
            crossings = _polygon_crossings(_turned(sprite_outline(shape), size, angle), height)
        ends = crossings * STEPS - 0.5
        ends[:, 0::2], ends[:, 1::2] = np.ceil(ends[:, 0::2]), np.floor(ends[:, 1::2])
        empty = np.isinf(ends)
        runs[shape, scale, orientation] = np.where(empty, (1, 0, 1, 0), np.where(empty, 0, ends))
    return runs.reshape(-1, len(height), 4)


@functools.cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The masks and what turns them into images, on a device; made at the first use and kept.

    Returns:
        The runs (720 * (2 * REACH + 1),) int64, four int16 each; the words with all columns from the first of a run on
        and then those with all up to the last of it, (2 * 31 * 64,) int64; the grid row of each row of an image for
        position 0, (64,) int64; and what makes an index of the second table of the ends of runs, (4,) int64.
    """
    if device.type != "cpu":
        runs, ends, rows, columns = _tables(torch.device("cpu"))
        return runs.to(device), ends.to(device), rows.to(device), columns.to(device)
    runs = torch.from_numpy(_runs()).view(torch.int64).view(-1)
    ones, size = 2**SIDE - 1, STEPS * SIDE
    words = [ones << -(-end // STEPS) & ones for end in range(size)]
    words += [ones >> (SIDE - 1 - end // STEPS) for end in range(size)]
    ends = torch.from_numpy(np.array(words, np.uint64).view(np.int64))
    # Column c has its centre (31 * (c - 16) + 15 - 32 * x + 0.5) / 31 pixels from that of the sprite.
    rows = STEPS * (torch.arange(SIDE) - 16) + 15
    columns = STEPS * 16 - 15 + torch.tensor([0, size, 0, size])
    return runs, ends, rows, columns


@functools.lru_cache(maxsize=16)
def _bytes(device: torch.device, off: float, on: float) -> Tensor:
    """The eight pixels of each byte, lowest bit first, (256, 8) float32."""
    bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
    return torch.where(bits.bool(), on, off).to(device, torch.float32)
