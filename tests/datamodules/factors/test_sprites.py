"""The renderer of sprites: against a point test in float64, the published counts, and what holds for the full set."""

import math

import numpy as np
import pytest
import torch

from datamodules.factors import render as sprites

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def drawn(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (count,), generator=generator) for size in sprites.FACTOR_SIZES], 1)


# --- the geometry ---


def heart():
    """The outline by de Casteljau's construction, the left half as a mirror image."""
    curves = [
        [(0, -5.17), (2.08, -11.99), (9.59, -9.56), (9.59, -4.03)],
        [(9.59, -4.03), (9.59, 1.0), (2.96, 4.08), (0, 9.0)],
    ]
    right = []
    for curve in curves:
        for t in np.linspace(0, 1, 40):
            points = np.array(curve, dtype=float)
            while len(points) > 1:
                points = (1 - t) * points[:-1] + t * points[1:]
            right.append(points[0])
    return right + [(-u, v) for u, v in reversed(right)]


def inside(shape, u, v):
    if shape == 0:
        return np.maximum(np.abs(u), np.abs(v)) <= 9.6 + 1e-9
    if shape == 1:
        return (u / 12.8) ** 2 + (v / 7.2) ** 2 <= 1
    odd, points = np.zeros(u.shape, bool), heart()
    for (u0, v0), (u1, v1) in zip(points, points[1:] + points[:1], strict=True):
        if v0 != v1:
            odd ^= ((v0 > v) != (v1 > v)) & (u < u0 + (v - v0) / (v1 - v0) * (u1 - u0))
    return odd


def by_points(shape, scale, orientation, x, y):
    """One image, each pixel by the place of its centre in the frame of the sprite."""
    row, column = np.mgrid[:64, :64]
    dx, dy = column + 0.5 - (16 + 32 * x / 31), row + 0.5 - (16 + 32 * y / 31)
    angle, size = 2 * math.pi * orientation / 39, (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)[scale]
    u = (dx * math.cos(angle) - dy * math.sin(angle)) / size
    v = (dx * math.sin(angle) + dy * math.cos(angle)) / size
    return inside(shape, u, v)


@pytest.mark.parametrize("device", DEVICES)
def test_every_pixel_is_that_of_a_point_test_in_float64(device):
    corners = torch.cartesian_prod(
        torch.arange(3), *(torch.tensor(ends) for ends in ((0, 5), (0, 1), (0, 31), (0, 31)))
    )
    factors = torch.cat([drawn(100), corners])
    found = sprites.render(factors.to(device))
    assert found.device.type == device
    assert (found.dtype, found.shape) == (torch.bool, (148, 64, 64))
    for row, image in zip(factors.tolist(), found.cpu().numpy(), strict=True):
        np.testing.assert_array_equal(image, by_points(*row), err_msg=str(row))


@pytest.mark.parametrize(
    ("shape", "lit"),
    [
        (0, [100, 144, 196, 256, 324, 400]),
        (1, [72, 104, 144, 184, 228, 292]),
        (2, [58, 86, 108, 138, 182, 222]),
    ],
)
def test_the_number_of_lit_pixels_of_each_shape_and_scale_is_the_known_one(shape, lit):
    found = sprites.render(torch.tensor([[shape, scale, 0, 0, 0] for scale in range(6)]))
    assert found.sum((1, 2)).tolist() == lit


def test_positions_go_right_and_down_from_a_quarter_to_three_quarters_of_the_canvas():
    places = (0, 7, 31)
    found = sprites.render(torch.tensor([[0, 5, 0, x, y] for x in places for y in places])).float()
    centre = (torch.arange(64) + 0.5).double()
    middle = [(image.double() * axis).sum() / image.sum() for image in found for axis in (centre, centre[:, None])]
    expected = [16 + 32 * place / 31 for x in places for y in places for place in (x, y)]
    assert torch.stack(middle).tolist() == pytest.approx(expected, abs=0.5)


def test_sprites_turn_counter_clockwise_and_the_last_orientation_is_the_first():
    turns = sprites.render(torch.tensor([[2, 5, k, 16, 16] for k in range(40)]))
    assert torch.equal(turns[39], turns[0])
    assert len({image.numpy().tobytes() for image in turns}) == 39
    pointed = torch.arange(64)[turns[10].any(0)].float().mean()  # the tip, down at 0, points right after a quarter
    assert pointed < 33
    widest = [turns[10][:, column].sum() for column in (24, 40)]
    assert widest[0] > 2 * widest[1]
    everything = drawn(2000)
    first, last = everything.clone(), everything.clone()
    first[:, 2], last[:, 2] = 0, 39
    assert torch.equal(sprites.packed_sprites(first), sprites.packed_sprites(last))


def bit_counts(words):
    """Number of ones in each int64 of an array."""
    table = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
    return table[words.view(np.uint8)].reshape(*words.shape, 8).sum(-1)


def test_the_full_set_has_the_known_mean_range_margins_and_number_of_different_images():
    poses = torch.cartesian_prod(*(torch.arange(size) for size in sprites.FACTOR_SIZES[1:]))
    mix = torch.randint(-(2**62), 2**62, (64,), generator=torch.Generator().manual_seed(0))
    lit, different, ever = [], [], np.zeros(64, np.int64)
    for shape in range(3):
        hashes = []
        for part in poses.split(8192):
            rows = sprites.packed_sprites(torch.nn.functional.pad(part, (1, 0), value=shape))
            hashes.append(((rows ^ rows >> 29) * mix).sum(1))
            lit.append(bit_counts(rows.numpy()).sum(1))
            ever |= np.bitwise_or.reduce(rows.numpy(), 0)
        different.append(len(torch.cat(hashes).unique()))
    assert different == [237_028, 239_136, 239_616]
    lit = np.concatenate(lit)
    assert lit.mean() / 4096 == pytest.approx(0.042488, abs=1e-6)
    assert (lit.min(), lit.max()) == (50, 400)
    pixels = sprites.unpack(torch.from_numpy(ever)[None], 0, 1)[0]
    assert pixels.sum() == 3296
    assert pixels[[0, 1, 62, 63]].sum() == pixels[:, [0, 1, 62, 63]].sum() == 0


# --- packing ---


@pytest.mark.parametrize("device", DEVICES)
def test_packed_rows_become_the_two_values_they_stand_for(device):
    rows = torch.tensor([[0, -1, 1, -(2**63), *([5] * 60)]], device=device)
    found = sprites.unpack(rows)
    assert (found.dtype, found.shape) == (torch.float32, (1, 64, 64))
    assert found[0].sum(1).tolist() == [-64, 64, -62, -62, *([-60] * 60)]
    assert [found[0, 2, 0], found[0, 3, 63], found[0, 4, 2]] == [1, 1, 1]
    assert sprites.unpack(rows, 0, 7).unique().tolist() == [0, 7]


def test_packing_is_the_inverse_of_unpacking():
    images = (np.random.default_rng(0).random((5, 64, 64)) < 0.3).astype(np.uint8)
    packed = sprites.pack(images)
    assert (packed.dtype, packed.shape) == (np.int64, (5, 64))
    np.testing.assert_array_equal(sprites.unpack(torch.from_numpy(packed), 0, 1), images)
    factors = drawn(50)
    np.testing.assert_array_equal(sprites.pack(sprites.render(factors).numpy()), sprites.packed_sprites(factors))


def test_no_factors_give_no_images():
    assert sprites.render(torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 64, 64)


# --- bad input ---


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), r"factors must have shape \(n, 5\), got \(2, 4\)"),
        (torch.zeros(5, dtype=torch.int64), r"factors must have shape \(n, 5\), got \(5,\)"),
        (torch.zeros(2, 5), r"factors must be whole numbers of an integer dtype, got torch\.float32"),
        (torch.zeros(2, 5, dtype=torch.bool), "factors must be whole numbers .*, got torch.bool"),
        (torch.tensor([[0, 0, 0, 0, 0], [2, 5, 40, 0, 0]]), r"factor 2 must lie in 0\.\.39, got 40 in row 1"),
        (torch.tensor([[3, 0, 0, 0, 0]]), r"factor 0 must lie in 0\.\.2, got 3 in row 0"),
        (torch.tensor([[0, 0, 0, 0, -1]]), r"factor 4 must lie in 0\.\.31, got -1 in row 0"),
    ],
)
def test_bad_factors_are_refused_by_column_and_value(factors, message):
    with pytest.raises(ValueError, match=message):
        sprites.render(factors)
