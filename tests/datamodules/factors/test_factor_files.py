"""Published sets with known factors: small files in the real formats, sizes of the paper, missing and damaged files."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_sets import Recorder, trainer
from factor_set_files import (
    SMALL,
    H5File,
    SmallCars3D,
    SmallDSprites,
    SmallMPI3D,
    SmallShapes3D,
    SmallSmallNORB,
    write_cars3d,
    write_dsprites,
    write_mpi3d,
    write_norb,
    write_shapes3d,
)
from scipy.io import savemat

import datamodules
from datamodules import Cars3DDataModule, DSpritesDataModule, MPI3DDataModule, Shapes3DDataModule, SmallNORBDataModule
from datamodules.factors import render as sprites
from datamodules.factors.formats import grid

# --- writers of the real formats, each gives the images (*factor sizes, ..., 64, 64, C) ---


@pytest.fixture(autouse=True)
def h5(monkeypatch):
    if find_spec("h5py") is None:
        monkeypatch.setitem(sys.modules, "h5py", SimpleNamespace(File=H5File))


SETS = {
    "dsprites": (SmallDSprites, write_dsprites, "dsprites"),
    "shapes3d": (SmallShapes3D, write_shapes3d, "shapes3d"),
    "cars3d": (SmallCars3D, write_cars3d, "cars"),
    "smallnorb": (SmallSmallNORB, write_norb, "small_norb"),
    "mpi3d": (SmallMPI3D, write_mpi3d, "mpi3d"),
}
ALL = pytest.mark.parametrize("name", SETS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_floats(images):
    return torch.from_numpy(np.moveaxis(images, -1, -3).copy()).float() / 127.5 - 1


# --- what is published ---


@pytest.mark.parametrize(
    ("data", "shape", "sizes", "images"),
    [
        (DSpritesDataModule(), (1, 64, 64), (3, 6, 40, 32, 32), 737_280),
        (SmallNORBDataModule(), (1, 64, 64), (5, 9, 18, 6), 4_860),
        (Cars3DDataModule(), (3, 64, 64), (4, 24, 183), 17_568),
        (Shapes3DDataModule(), (3, 64, 64), (10, 10, 10, 8, 4, 15), 480_000),
        *((MPI3DDataModule(part), (3, 64, 64), (6, 6, 2, 3, 3, 40, 40), 1_036_800) for part in ("toy", "real")),
        (MPI3DDataModule("complex"), (3, 64, 64), (4, 4, 2, 3, 3, 40, 40), 460_800),
    ],
)
def test_shapes_and_factor_sizes_are_the_published_ones_before_a_file_is_read(data, shape, sizes, images):
    assert (data.image_shape, data.factor_sizes, data.num_images) == (shape, sizes, images)
    assert len(data.factor_names) == len(sizes)
    assert data.deterministic_images == (data.name != "smallnorb")
    assert data.instances == (10 if data.name == "smallnorb" else 1)


def test_files_have_their_published_names():
    assert DSpritesDataModule.files == ("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",)
    assert Shapes3DDataModule.files == ("3dshapes.h5",)
    assert "smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat" in SmallNORBDataModule.files
    assert "smallnorb-5x01235x9x18x6x2x96x96-testing-info.mat" in SmallNORBDataModule.files
    assert [MPI3DDataModule(part).files[0] for part in ("toy", "realistic", "real", "complex")] == [
        "mpi3d_toy.npz", "mpi3d_realistic.npz", "mpi3d_real.npz", "mpi3d_real_complex.npz"
    ]  # fmt: skip


def test_all_combinations_come_with_the_last_factor_fastest():
    assert grid((2, 1, 3)).tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 0, 0], [1, 0, 1], [1, 0, 2]]


# --- reading ---


@ALL
@pytest.mark.parametrize("own_folder", [True, False])
def test_every_image_is_found_under_its_factors(name, own_folder, tmp_path):
    kind, write, folder = SETS[name]
    images = write(tmp_path / folder)
    data = kind(data_dir=str(tmp_path if own_folder else tmp_path / folder), **SMALL)
    data.prepare_data()
    data.setup("fit")
    factors = torch.from_numpy(grid(data.factor_sizes))
    found = data.images_of(factors, generator())
    assert (found.dtype, found.shape) == (torch.float32, (data.num_images, *data.image_shape))
    expected = as_floats(images).view(data.num_images, -1, *data.image_shape)  # instances in the middle
    assert expected.shape[1] == data.instances
    distance = (found[:, None] - expected).abs().amax((2, 3, 4))
    assert distance.min(1).values.max() < 1e-6
    assert torch.equal(found[[5, 3]], data.images_of(factors[[5, 3]], generator())) == data.deterministic_images


@ALL
def test_training_gives_the_images_of_the_factors_that_come_with_them(name, tmp_path):
    kind, write, folder = SETS[name]
    images, module = write(tmp_path / folder), Recorder()
    data = kind(data_dir=str(tmp_path), **SMALL)
    trainer().fit(module, data)
    trainer().test(module, data, verbose=False)
    batches = [*module.seen["train"], *(batch for _, batch in module.seen["test"])]
    assert [len(x) for x, _ in batches] == [8, 8, 10]
    expected = as_floats(images).view(*data.factor_sizes, -1, *data.image_shape)
    for x, factors in batches:
        assert (x.dtype, factors.dtype) == (torch.float32, torch.int64)
        distance = (x[:, None] - expected[tuple(factors.T)]).abs().amax((2, 3, 4))
        assert distance.min(1).values.max() < 1e-6


def test_an_instance_of_smallnorb_is_drawn_for_each_access(tmp_path):
    images = write_norb(tmp_path)
    data = SmallSmallNORB(data_dir=str(tmp_path), **SMALL)
    x = data.images_of(torch.tensor([[1, 2, 3, 1]]).expand(400, -1), generator())
    distance = (x[:, None] - as_floats(images)[1, 2, 3, 1]).abs().amax((2, 3, 4))
    assert torch.bincount(distance.argmin(1), minlength=4).min() > 60


def test_packed_files_of_smallnorb_are_read_like_unpacked_ones(tmp_path):
    write_norb(tmp_path / "packed", packed=True)
    write_norb(tmp_path / "plain")
    packed, plain = (SmallSmallNORB(data_dir=str(tmp_path / name), **SMALL).images() for name in ("packed", "plain"))
    assert torch.equal(packed, plain)


def test_dsprites_are_held_as_bits(tmp_path):
    write_dsprites(tmp_path)
    held = SmallDSprites(data_dir=str(tmp_path), **SMALL).images()
    assert held.numel() * held.element_size() == 72 * 512


def test_a_file_of_rendered_sprites_gives_what_the_renderer_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(datamodules.factors.formats, "CHUNK", 4096 * 50)  # several pieces and a rest
    factors = torch.from_numpy(grid((3, 6, 2, 2, 2)))
    np.savez_compressed(
        tmp_path / DSpritesDataModule.files[0],
        imgs=sprites.render(factors).numpy().astype(np.uint8),
        latents_classes=np.pad(factors.numpy(), ((0, 0), (1, 0))),
    )

    class Few(DSpritesDataModule):
        factor_sizes = (3, 6, 2, 2, 2)

    data, drawn_on_demand = Few(data_dir=str(tmp_path)), datamodules.SpritesDataModule()
    assert torch.equal(data.images_of(factors, generator()), drawn_on_demand.images_of(factors, generator()))


@pytest.mark.parametrize("order", ["C", "F"])
def test_both_orders_of_arrays_and_several_pieces_give_the_same_images(order, tmp_path, monkeypatch):
    monkeypatch.setattr(datamodules.factors.formats, "CHUNK", 64 * 64 * 3 * 50)  # 5 pieces and a rest
    images = write_mpi3d(tmp_path / "mpi3d").reshape(-1, 64, 64, 3)
    np.savez_compressed(tmp_path / "mpi3d" / "mpi3d_toy.npz", images=np.asarray(images, order=order))
    held = SmallMPI3D(data_dir=str(tmp_path)).images()
    assert len(held) == 288
    np.testing.assert_array_equal(held, images)


def test_the_parts_of_mpi3d_are_told_apart_by_their_files(tmp_path):
    write_mpi3d(tmp_path / "mpi3d", "mpi3d_real_complex", "complex")
    assert SmallMPI3D("complex", data_dir=str(tmp_path)).images().shape == (144, 64, 64, 3)
    with pytest.raises(FileNotFoundError, match=r"mpi3d_toy is not in .*: mpi3d_toy\.npz"):
        SmallMPI3D("toy", data_dir=str(tmp_path)).prepare_data()
    with pytest.raises(ValueError, match="part must be toy, realistic, real, complex, got 'simple'"):
        MPI3DDataModule("simple")


# --- missing, damaged, other files ---


@ALL
def test_missing_files_are_named_with_the_place_where_they_are_published(name, tmp_path):
    kind, write, folder = SETS[name]
    write(tmp_path / folder)
    data = kind(data_dir=str(tmp_path), **SMALL)
    gone = data.paths()[-1]
    gone.unlink()
    expected = "4 files .*, got 3" if name == "cars3d" else gone.name.replace(".", r"\.")
    for call in (data.prepare_data, lambda: data.setup("fit")):
        with pytest.raises(FileNotFoundError, match=rf"not in data_dir=.*{expected}.*published at http"):
            call()
    with pytest.raises(FileNotFoundError, match="published at http"):
        kind(data_dir=str(tmp_path / "nowhere"), **SMALL).prepare_data()


@ALL
@pytest.mark.parametrize("damage", ["cut off", "empty", "zeros"])
def test_a_damaged_file_is_one_clear_error(name, damage, tmp_path):
    kind, write, folder = SETS[name]
    write(tmp_path / folder)
    data = kind(data_dir=str(tmp_path), **SMALL)
    path = data.paths()[0]
    whole = path.read_bytes()
    path.write_bytes({"cut off": whole[: len(whole) // 2], "empty": b"", "zeros": bytes(len(whole))}[damage])
    with pytest.raises(ValueError, match=rf"the files of {data.name} in .* cannot be read .*published at http"):
        data.setup("fit")


def test_a_flipped_byte_in_an_archive_is_noticed_by_its_checksum(tmp_path):
    write_mpi3d(tmp_path / "mpi3d")
    path = Path(tmp_path, "mpi3d", "mpi3d_toy.npz")
    images = np.load(path)["images"]
    np.savez(path, images=images)  # stored, so that nothing but the checksum can tell
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"cannot be read \(BadZipFile"):
        SmallMPI3D(data_dir=str(tmp_path)).setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imgs": lambda imgs: imgs * 255}, "imgs must be 0 or 1, got 255"),
        ({"imgs": lambda imgs: imgs[1:]}, r"imgs must be uint8 of shape \(72, 64, 64\), got uint8 of \(71, 64, 64\)"),
        ({"imgs": lambda imgs: imgs.astype(float)}, "imgs must be uint8 .*, got float64"),
        ({"latents_classes": lambda classes: classes[::-1]}, "not all combinations of the factors in order"),
    ],
)
def test_a_file_of_another_set_is_refused_by_what_differs(change, message, tmp_path):
    write_dsprites(tmp_path / "dsprites")
    (path,) = (tmp_path / "dsprites").iterdir()
    with np.load(path) as file:
        arrays = {name: file[name] for name in ("imgs", "latents_classes")}
    np.savez(path, **arrays | {name: function(arrays[name]) for name, function in change.items()})
    with pytest.raises(ValueError, match=message):
        SmallDSprites(data_dir=str(tmp_path)).setup("fit")


def test_an_archive_without_the_array_is_refused_by_its_name(tmp_path):
    np.savez(tmp_path / "mpi3d_toy.npz", pictures=np.zeros(3))
    with pytest.raises(ValueError, match=r"cannot be read \(KeyError.*images\.npy"):
        SmallMPI3D(data_dir=str(tmp_path)).setup("fit")


def test_labels_of_shapes3d_in_another_order_are_refused(tmp_path):
    write_shapes3d(tmp_path / "shapes3d", labels=lambda values: values[::-1])
    with pytest.raises(ValueError, match="labels are not all combinations of the factors in order"):
        SmallShapes3D(data_dir=str(tmp_path)).setup("fit")


def test_h5py_is_asked_for_in_one_line_before_training_begins(tmp_path, monkeypatch):
    write_shapes3d(tmp_path / "shapes3d")
    monkeypatch.setitem(sys.modules, "h5py", None)
    for call in (SmallShapes3D(data_dir=str(tmp_path)).prepare_data, SmallShapes3D(data_dir=str(tmp_path)).images):
        with pytest.raises(ModuleNotFoundError, match="pip install h5py"):
            call()


def test_a_mesh_of_other_sizes_is_refused_by_the_name_of_its_file(tmp_path):
    write_cars3d(tmp_path / "cars")
    savemat(tmp_path / "cars" / "car_002_mesh.mat", {"im": np.zeros((128, 128, 3, 2, 3), np.uint8)})
    with pytest.raises(
        ValueError,
        match=r"car_002_mesh\.mat must be .* \(H, W, 3, 3, 2\), got uint8 of \(128, 128, 3, 2, 3\)",
    ):
        SmallCars3D(data_dir=str(tmp_path)).setup("fit")


def test_parts_of_smallnorb_that_do_not_make_all_combinations_are_refused(tmp_path):
    write_norb(tmp_path)
    train, test = (f"smallnorb-{part}-info.mat" for part in (
        "5x46789x9x18x6x2x96x96-training", "5x01235x9x18x6x2x96x96-testing"
    ))  # fmt: skip
    (tmp_path / test).write_bytes((tmp_path / train).read_bytes())
    with pytest.raises(ValueError, match="cat and info are not all combinations of the factors"):
        SmallSmallNORB(data_dir=str(tmp_path)).setup("fit")
