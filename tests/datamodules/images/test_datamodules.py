"""Data modules of images: splits, loaders, processes, arguments refused, the command line."""

import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from data_sets import IN_A_FORK, Numbered, Recorder, as_bytes, images_of, trainer
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch.utils.data import DistributedSampler

import datamodules
from datamodules import DigitsDataModule
from datamodules.images.base import ImageDataModule
from datamodules.images.image_set import stratified_split
from datamodules.shared.augment import normalise


def test_digits_are_split_once_and_for_all_into_1197_300_300_of_each_class_alike():
    first, second = DigitsDataModule(), DigitsDataModule(batch_size=7)
    splits = [*first.fit_sets(), first.test_dataloader()[0].dataset]
    assert [len(split) for split in splits] == [1197, 300, 300]
    again = [*second.fit_sets(), second.test_dataloader()[0].dataset]
    assert all(torch.equal(a.images, b.images) for a, b in zip(splits, again, strict=True))
    shares = torch.bincount(torch.from_numpy(load_digits().target)) / 1797
    for split in splits:
        assert (torch.bincount(split.labels) - shares * len(split)).abs().max() <= 1
    # Together the splits are the whole set, each digit once.
    pixels = torch.cat([split.images for split in splits]).flatten(1).tolist()
    expected = np.rint(load_digits().data * 255 / 16).astype(int).tolist()
    assert sorted(pixels) == sorted(expected)


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), data=st.data())
def test_stratified_split_parts_the_set_in_proportion(labels, data):
    labels = torch.tensor(labels)
    size = data.draw(st.integers(0, len(labels)))
    rest, chosen = stratified_split(labels, size)
    assert len(chosen) == size
    assert torch.cat([rest, chosen]).sort().values.tolist() == list(range(len(labels)))
    ideal = torch.bincount(labels, minlength=5) * size / len(labels)
    assert (torch.bincount(labels[chosen], minlength=5) - ideal).abs().max() <= 1


@pytest.mark.parametrize(("val_split", "expected"), [(0.25, 10), (3, 3), (3.0, 3), (None, 4)])
def test_val_split_is_a_share_or_a_number(val_split, expected):
    train, val = Numbered(val_split=val_split).fit_sets()
    assert (len(train), len(val)) == (40 - expected, expected)


def test_without_validation_lightning_skips_it():
    data, module = Numbered(val_split=0, batch_size=40), Recorder()
    trainer(num_sanity_val_steps=2).fit(module, data)
    assert not module.seen["val"]
    assert len(module.seen["train"]) == 1  # a batch as large as the set is still a batch


def test_held_out_classes_leave_every_split_and_become_a_test_set():
    data = DigitsDataModule(held_out_classes=[3, 0], ood=["near/held_out_classes"])
    assert data.num_classes == 8
    train, val = data.fit_sets()
    test, outside = (loader.dataset for loader in data.test_dataloader())
    full = DigitsDataModule()
    kept = [1, 2, 4, 5, 6, 7, 8, 9]
    for split, whole in ((test, full.test_dataloader()[0].dataset),):
        assert torch.equal(torch.tensor(kept)[split.labels], whole.labels[torch.isin(whole.labels, torch.tensor(kept))])
    whole = full.test_dataloader()[0].dataset
    assert torch.equal(outside.images, whole.images[(whole.labels == 0) | (whole.labels == 3)])
    assert set(outside.labels.tolist()) == {-1}
    assert set(train.labels.tolist()) == set(val.labels.tolist()) == set(range(8))
    held = {tuple(row) for row in outside.images.flatten(1).tolist()}
    assert not held & {tuple(row) for row in torch.cat([train.images, val.images]).flatten(1).tolist()}


def test_batches_are_bytes_until_the_hook_and_keep_images_with_their_labels():
    data = Numbered(batch_size=6, val_split=0)
    batches = list(data.train_dataloader())
    assert [len(x) for x, _ in batches] == [6] * 6  # the remainder of 40 is dropped
    values = torch.cat([x[:, 0, 0, 0] for x, _ in batches]).long()
    assert torch.equal(values % 4, torch.cat([y for _, y in batches]))
    assert len(values.unique()) == 36
    assert values.tolist() != sorted(values.tolist())
    x, y = batches[0]
    assert (x.dtype, y.dtype) == (torch.uint8, torch.int64)
    floats, labels = data.on_after_batch_transfer((x, y), 0)  # also without a trainer
    assert torch.equal(floats, normalise(x))
    assert labels is y


def test_only_training_is_augmented_and_every_stage_is_normalised():
    data, module = DigitsDataModule(batch_size=300, ood=["far/uniform"]), Recorder()
    runner = trainer(num_sanity_val_steps=1)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    train, val = data.fit_sets()
    originals = {tuple(row) for row in train.images.flatten(1).tolist()}
    seen = torch.cat([as_bytes(x) for x, _ in module.seen["train"]]).flatten(1).tolist()
    unchanged = sum(tuple(row) in originals for row in seen) / len(seen)
    assert 0.05 < unchanged < 0.2  # one of nine shifts is none
    assert len(module.seen["val"]) == 3  # one of the sanity check, two of the epoch
    assert torch.equal(torch.cat([x for x, _ in module.seen["val"][1:]]), normalise(val.images))
    assert torch.equal(module.seen["val"][0][0], module.seen["val"][1][0])
    test = torch.cat([x for index, (x, _) in module.seen["test"] if index == 0])
    assert torch.equal(test, normalise(data.test_dataloader()[0].dataset.images))
    plain = Recorder()
    trainer().fit(plain, DigitsDataModule(batch_size=300, augment=False))
    assert all(tuple(row) in originals for x, _ in plain.seen["train"] for row in as_bytes(x).flatten(1).tolist())


def test_reading_training_images_during_a_test_run_does_not_augment():
    class ReadsTraining(pl.Callback):
        def on_test_start(self, trainer, pl_module):
            trainer.datamodule.setup("fit")
            for name, loader in (("train", trainer.datamodule.train_dataloader()),):
                self.batches = [(name, trainer.strategy.batch_to_device(batch)) for batch in loader]

    data, reader = Numbered(val_split=0, batch_size=8), ReadsTraining()
    data.padding = 2
    trainer(callbacks=[reader]).test(Recorder(), data, verbose=False)
    images = torch.cat([x for _, (x, _) in reader.batches])
    assert (images == images[:, :, :1, :1]).all()  # planes still: no border came in


def test_setup_reads_each_split_once():
    class Counted(Numbered):
        reads = ()

        def load_split(self, train):
            self.reads += (train,)
            return super().load_split(train)

    data = Counted(batch_size=8, ood=["near/rotated"])
    for stage in ("fit", "validate", "test", "predict", "fit"):
        data.setup(stage)
    data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()
    assert data.reads == (True, False)


def test_two_processes_share_the_training_images_and_read_them_all():
    data = Numbered(batch_size=5, val_split=0)
    loader = data.train_dataloader()
    values = []
    for rank in (0, 1):  # what Lightning does: a new DataLoader with the same arguments and another sampler
        sampler = DistributedSampler(loader.dataset, num_replicas=2, rank=rank, shuffle=True, seed=0)
        kept = {name: getattr(loader, name) for name in ("batch_size", "collate_fn", "drop_last", "num_workers")}
        values.append(images_of(type(loader)(loader.dataset, sampler=sampler, **kept))[:, 0, 0, 0].tolist())
    assert len(values[0]) == len(values[1]) == 20
    assert sorted(values[0] + values[1]) == list(range(40))


@IN_A_FORK
def test_lightning_gives_two_real_processes_disjoint_halves(tmp_path, monkeypatch):
    class Writer(Recorder):
        def on_train_end(self):
            values = torch.cat([as_bytes(x)[:, 0, 0, 0] for x, _ in self.seen["train"]])
            (tmp_path / f"{self.global_rank}.json").write_text(json.dumps(values.tolist()))

    monkeypatch.setattr("sys.argv", ["pytest"])
    data = Numbered(batch_size=5, val_split=0, augment=False)
    trainer(devices=2, strategy="ddp_fork", num_sanity_val_steps=0).fit(Writer(), data)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == len(second) == 20
    assert sorted(first + second) == list(range(40))


@IN_A_FORK
@pytest.mark.parametrize(("padding", "flip", "cutout"), [(2, False, 0), (0, True, 0), (0, False, 2)])
def test_two_processes_with_equal_seeds_and_no_callback_augment_differently(padding, flip, cutout, tmp_path):
    class Alike(Numbered):
        """One picture, again and again: what differs was drawn."""

        def load_split(self, train):
            images, labels = super().load_split(train)
            return torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand_as(images).contiguous(), labels

    class Writer(Recorder):
        def on_train_end(self):
            torch.save(torch.stack([as_bytes(x) for x, _ in self.seen["train"]]), tmp_path / f"{self.global_rank}.pt")
            torch.save(torch.get_rng_state(), tmp_path / f"state{self.global_rank}.pt")

    data = Alike(batch_size=10, val_split=0, cutout=cutout)
    data.padding, data.flip = padding, flip
    pl.seed_everything(0, verbose=False)
    trainer(devices=2, strategy="ddp_fork", num_sanity_val_steps=0).fit(Writer(), data)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert len(first) == len(second) == 2
    assert all((x != y).any() for x, y in zip(first, second, strict=True))
    assert torch.equal(*(torch.load(tmp_path / f"state{rank}.pt") for rank in (0, 1)))  # in step for the next draw


def test_worker_processes_give_the_same_batches():
    alone, workers = Numbered(eval_batch_size=7), Numbered(eval_batch_size=7, num_workers=1)
    assert torch.equal(images_of(alone.predict_dataloader()), images_of(workers.predict_dataloader()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -1}, "eval_batch_size must be at least 1, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"val_split": -3}, "val_split must be .*, got -3"),
        ({"val_split": float("nan")}, "val_split must be .*, got nan"),
        ({"val_split": 1.5}, r"val_split must be .*, got 1\.5"),
        ({"ood": ["far/moon"]}, "unknown ood set 'far/moon'; there are near/interpolated,.*svhn"),
        ({"ood": ["far/rotated"]}, "unknown ood set 'far/rotated'"),
        ({"ood": ["mnist"]}, "unknown ood set 'mnist'"),
        ({"ood": ["near/digits"]}, "in-distribution set itself"),
        ({"ood": ["far/mnist", "far/mnist"]}, "named once"),
        ({"ood": ["near/held_out_classes"]}, "needs held_out_classes"),
        ({"held_out_classes": [10]}, r"held_out_classes must lie in 0\.\.9, got 10"),
        ({"held_out_classes": list(range(9))}, "two classes: digits has 10, .* leaves 1"),
    ],
)
def test_bad_arguments_are_refused_at_construction_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**arguments)


def test_sizes_that_do_not_fit_the_set_are_refused():
    with pytest.raises(ValueError, match="batch_size=41 is more than the 40 training images of numbered"):
        Numbered(batch_size=41, val_split=0).train_dataloader()
    assert len(Numbered(batch_size=40, val_split=0).train_dataloader()) == 1
    with pytest.raises(ValueError, match="val_split=40 leaves none of the 40 images"):
        Numbered(val_split=40).setup("fit")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(5, 1, 4, 4), torch.zeros(5).long(), "must be uint8"),
        (torch.zeros(5, 1, 4, 5).byte(), torch.zeros(5).long(), "of shape"),
        (torch.zeros(5, 1, 4, 4).byte(), torch.tensor([0, 1, 2, 3, 4]), r"must lie in 0\.\.3, got 0\.\.4"),
        (torch.zeros(5, 1, 4, 4).byte(), torch.tensor([0, 1, 2, 3, -1]), r"got -1\.\.3"),
        (torch.zeros(5, 1, 4, 4).byte(), torch.zeros(4).long(), r"5 images have labels of shape \(4,\)"),
        (torch.zeros(0, 1, 4, 4).byte(), torch.zeros(0).long(), "0 images"),
    ],
)
def test_bad_images_and_labels_of_an_own_set_are_refused(images, labels, message):
    class Bad(Numbered):
        def load_split(self, train):
            return images, labels

    with pytest.raises(ValueError, match=message):
        Bad().setup("fit")


def test_a_subclass_must_describe_its_images():
    class Nameless(ImageDataModule):
        pass

    with pytest.raises(TypeError, match="Nameless must set name, num_classes and image_shape"):
        Nameless()


def test_interpolation_of_a_single_image_is_refused():
    class Single(Numbered):
        def load_split(self, train):
            images, labels = super().load_split(train)
            return images[:1], labels[:1]

    with pytest.raises(ValueError, match="at least two test images, got 1"):
        Single(ood=["near/interpolated"]).setup("test")


def command_line(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["train.py"])
    base, kind = (pl.LightningModule, pl.LightningDataModule)
    return LightningCLI(
        base, kind, subclass_mode_model=True, subclass_mode_data=True, run=False, save_config_callback=None,
        args=["--model", "lightning.pytorch.demos.boring_classes.BoringModel", *arguments],
    )  # fmt: skip


def test_every_exported_name_of_images_is_a_data_module_the_command_line_can_build(monkeypatch):
    for name in datamodules.__all__:
        if name != "ImageFolderDataModule" and issubclass(getattr(datamodules, name), ImageDataModule):
            required = ["--data.domain=dslr"] if name == "Office31DataModule" else []
            data = command_line(
                monkeypatch, "--data", name, *required, "--data.val_split=0.2", "--data.ood=[far/uniform]",
                "--data.cutout=4", "--data.classes_per_batch=5", "--data.class_limited_epochs=9",
            ).datamodule  # fmt: skip
            assert (data.cutout, data.classes_per_batch, data.class_limited_epochs) == (4, 5, 9)
            assert type(data).__name__ == name
            assert (data.val_split, data.test_sets[1:]) == (0.2, ("far/uniform",))
            assert len(data.image_shape) == 3
            assert data.num_classes >= 10


def test_the_command_line_takes_a_share_or_a_number_of_validation_images(monkeypatch):
    for value, count in (("0.5", 748), ("7", 7)):
        data = command_line(monkeypatch, "--data", "DigitsDataModule", "--data.val_split", value).datamodule
        assert len(data.fit_sets()[1]) == count


def test_the_command_line_nests_a_data_module(monkeypatch):
    arguments = ("--data.data", "DigitsDataModule", "--data.data.batch_size", "9", "--data.labels_per_class", "3")
    data = command_line(monkeypatch, "--data", "SemiSupervisedDataModule", *arguments).datamodule
    assert (data.data.batch_size, data.labels_per_class, data.num_classes) == (9, 3, 10)
