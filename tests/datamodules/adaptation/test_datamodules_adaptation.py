"""Pairs of domains: batches, the target's labels, evaluation, one shape for both, the command line, real data."""

import json
import pickle
from itertools import chain
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from data_sets import Numbered, Recorder, as_bytes, trainer
from domain_pairs import QUIET, ZOO_DATA, Both, Colour, Other, numbers, run

import train
from datamodules import (
    AdaptationDataModule,
    DigitsDataModule,
    DigitsMDataModule,
    MNISTDataModule,
    SVHNDataModule,
    USPSDataModule,
)
from datamodules.images import sources
from datamodules.images.ood_sets import fit
from datamodules.shared.augment import normalise


def test_what_a_pair_offers_is_known_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(Numbered, "load_split", None)
    data = AdaptationDataModule(Numbered(ood=["far/uniform", "near/rotated"]), Other())
    assert (data.num_classes, data.image_shape) == (4, (1, 4, 4))
    assert (data.source_name, data.target_name) == ("numbered", "other")
    assert data.val_sets == ("numbered", "target/other")
    assert data.test_sets == ("numbered", "target/other", "far/uniform", "near/rotated")
    saved = json.loads(json.dumps(dict(data.hparams)))
    assert (saved["source"]["class_path"], saved["target"]["class_path"]) == ("Numbered", "Other")
    assert saved["source"]["ood"] == ["far/uniform", "near/rotated"]
    assert (saved["image_size"], saved["channels"]) == (None, None)


@pytest.mark.parametrize("smaller", ["source", "target"])
def test_an_epoch_is_a_pass_over_the_larger_domain_and_the_smaller_begins_anew_in_another_order(smaller):
    large, small = Numbered(batch_size=3, **QUIET), Other(batch_size=3, val_split=3, augment=False)
    data = AdaptationDataModule(small, large) if smaller == "source" else AdaptationDataModule(large, small)
    steps = run(data)
    assert len(steps) == 12  # 36 images
    assert all(set(step) == {"source", "target"} for step in steps)
    source = [numbers(step["source"][0]) for step in steps]
    target = [numbers(step["target"]) for step in steps]
    rare, common = (source, target) if smaller == "source" else (target, source)
    assert sorted(chain(*common)) == sorted(large.fit_sets()[0].images[:, 0, 0, 0].tolist())
    passes = [list(chain(*rare[start : start + 5])) for start in (0, 5)]
    assert [sorted(one) for one in passes] == [sorted(small.fit_sets()[0].images[:, 0, 0, 0].tolist())] * 2
    assert passes[0] != passes[1]
    assert list(chain(*common)) != sorted(chain(*common))
    labels = torch.cat([step["source"][1] for step in steps])
    assert torch.equal(torch.tensor(list(chain(*source))) % 4, labels)  # 200 is a multiple of 4
    assert steps[0]["source"][0].dtype == steps[0]["target"].dtype == torch.float32


def test_each_domain_has_its_own_batch_size_and_the_one_with_more_batches_makes_the_epoch():
    steps = run(AdaptationDataModule(Numbered(batch_size=12, **QUIET), Other(batch_size=2, **QUIET)))
    assert {(len(step["source"][0]), len(step["target"])) for step in steps} == {(12, 2)}
    assert len(steps) == 7


def test_equally_large_domains_are_shuffled_independently():
    class Same(Numbered):
        name = "same"

    for step in run(AdaptationDataModule(Numbered(batch_size=18, **QUIET), Same(batch_size=18, **QUIET))):
        assert numbers(step["source"][0]) != numbers(step["target"])


class Nonsense(Other):
    """The same images, and labels that say nothing."""

    def load_split(self, train):
        images, labels = super().load_split(train)
        return images, (labels * 0 + 3 if train else labels)


@pytest.mark.parametrize("val_split", [0, 3, 0.3])
def test_with_other_labels_of_the_target_every_training_batch_is_the_same_bit_for_bit(val_split):
    found = []
    for kind in (Other, Nonsense):
        torch.manual_seed(0)
        target = kind(batch_size=5, val_split=val_split)
        data = AdaptationDataModule(Numbered(batch_size=5), target)
        data.source.padding = data.target.padding = 1
        steps = run(data)
        found.append((steps, [x for x, _ in data.val_dataloader()[1]]))
    (steps, val), (others, other_val) = found
    assert all(torch.equal(a["target"], b["target"]) for a, b in zip(steps, others, strict=True))
    for index in (0, 1):
        assert all(torch.equal(a["source"][index], b["source"][index]) for a, b in zip(steps, others, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(val, other_val, strict=True))


class Thief(pl.Callback):
    """Takes whatever the hooks of a training step hand out."""

    def __init__(self):
        self.taken = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.taken.append(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.taken.append(batch)


def test_no_hook_of_a_training_step_sees_a_label_of_the_target():
    class Hooks(Both):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            thief.taken.append(batch)
            return super().transfer_batch_to_device(batch, device, dataloader_idx)

    class Watched(AdaptationDataModule):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            thief.taken.append(batch)
            return batch

        def on_after_batch_transfer(self, batch, dataloader_idx):
            moved = super().on_after_batch_transfer(batch, dataloader_idx)
            thief.taken += [batch, moved]
            return moved

    thief, module = Thief(), Hooks()
    data = Watched(Numbered(batch_size=6, **QUIET), Other(batch_size=6, **QUIET))
    trainer(callbacks=[thief], num_sanity_val_steps=0, limit_val_batches=0).fit(module, data)
    taken = thief.taken + module.seen["train"]
    assert len(taken) == 6 * 7  # before, around and after the transfer (two), the step and around it (two)
    for batch in taken:
        assert set(batch) == {"source", "target"}
        assert isinstance(batch["target"], torch.Tensor)
        assert batch["target"].shape == (6, 1, 4, 4)
        assert len(batch["source"]) == 2


def test_the_loader_of_the_target_and_what_its_workers_get_hold_no_labels():
    class Marked(Other):
        num_classes, marks = 99_999, 98_765

        def load_split(self, train):
            images, labels = super().load_split(train)
            return images, labels * 0 + self.marks

    class Many(Numbered):
        num_classes = 99_999

    mark = torch.full((6,), Marked.marks).numpy().tobytes()
    data = AdaptationDataModule(Many(batch_size=6, **QUIET), Marked(batch_size=6, val_split=0, num_workers=1))
    loader = data.train_dataloader()["target"]
    assert len(loader.dataset.columns) == 1
    assert vars(loader.dataset).keys() == {"columns", "images"}
    assert mark in pickle.dumps(data.target.fit_sets()[0])  # the search finds labels where there are any
    assert mark not in pickle.dumps((loader.dataset, loader.sampler.data_source, loader.collate_fn))


def test_the_target_is_split_without_its_labels_and_the_source_of_each_class_in_proportion():
    class Sorted(Other):
        train_images = 40

        def load_split(self, train):
            images, labels = super().load_split(train)
            return images, labels.sort().values

    data = AdaptationDataModule(Numbered(val_split=8), Sorted(val_split=8))
    data.setup("fit")
    assert torch.bincount(data.source.fit_sets()[1].labels).tolist() == [2, 2, 2, 2]
    train_images, val = data.target.fit_sets()
    assert torch.bincount(val.labels, minlength=4).tolist() != [2, 2, 2, 2]
    together = torch.cat([train_images.images, val.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(200, 240))
    assert torch.bincount(Sorted(val_split=8).fit_sets()[1].labels).tolist() == [2, 2, 2, 2]  # alone, as ever


def test_a_target_that_was_read_before_with_a_look_at_its_labels_is_refused():
    target = Other(**QUIET)
    pair = AdaptationDataModule(Numbered(**QUIET), target)
    pair.setup("fit")
    AdaptationDataModule(Numbered(**QUIET), target)  # was read without
    alone = Other(**QUIET)
    alone.setup("fit")
    with pytest.raises(ValueError, match="the target 'other' has been read already"):
        AdaptationDataModule(Numbered(**QUIET), alone)


def test_validation_has_the_source_then_the_target():
    data, module = AdaptationDataModule(Numbered(**QUIET), Other(val_split=5)), Both()
    trainer().validate(module, data, verbose=False)
    assert [index for index, _ in module.seen["val"]] == [0, 1]
    for (_, (x, y)), domain in zip(module.seen["val"], (data.source, data.target), strict=True):
        assert torch.equal(x, normalise(domain.fit_sets()[1].images))
        assert torch.equal(y, domain.fit_sets()[1].labels)


def test_a_target_without_validation_images_is_validated_on_its_training_images_in_order():
    data = AdaptationDataModule(Numbered(batch_size=9, **QUIET), Other(batch_size=9, val_split=0, eval_batch_size=7))
    loader = data.val_dataloader()[1]
    x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert x[:, 0, 0, 0].tolist() == list(range(200, 218))
    assert torch.equal(y, torch.arange(18) % 4)
    assert len(data.train_dataloader()["target"].dataset) == 18


def test_test_sets_are_the_source_the_target_and_the_sets_of_the_source_in_the_common_shape():
    source = Numbered(ood=["near/interpolated", "far/constant"], held_out_classes=[3], **QUIET)
    data = AdaptationDataModule(source, Colour(held_out_classes=[3]), image_size=6, channels=3)
    module = Recorder()
    trainer().test(module, data, verbose=False)
    found = {index: as_bytes(x) for index, (x, _) in module.seen["test"]}
    labels = {index: y for index, (_, y) in module.seen["test"]}
    own, *outside = (loader.dataset for loader in source.test_dataloader())
    (target,) = (loader.dataset for loader in data.target.test_dataloader())
    for index, expected in enumerate((own, target, *outside)):
        assert torch.equal(found[index], fit(expected.images, (3, 6, 6)))
        assert torch.equal(labels[index], expected.labels)
    assert set(torch.cat([labels[2], labels[3]]).tolist()) == {-1}
    assert data.num_classes == 3


def test_prediction_reads_the_test_set_of_the_target():
    data = AdaptationDataModule(Numbered(**QUIET), Other())
    (x, y), *more = data.predict_dataloader()
    assert more == []
    assert x[:, 0, 0, 0].tolist() == list(range(230, 236))
    assert torch.equal(y, torch.arange(6) % 4)


def test_a_callback_can_transform_a_batch_of_either_training_loader_alone():
    data = AdaptationDataModule(Numbered(batch_size=6, **QUIET), Other(batch_size=6, **QUIET))
    loaders = data.train_dataloader()
    x, y = next(iter(loaders["source"]))
    floats, labels = data.on_after_batch_transfer((x, y), 0)
    assert torch.equal(floats, normalise(x))
    assert labels is y
    z = next(iter(loaders["target"]))
    assert torch.equal(data.on_after_batch_transfer(z, 0), normalise(z))


def test_grey_becomes_colour_by_replication_and_sizes_change_by_antialiased_interpolation():
    data = AdaptationDataModule(DigitsDataModule(augment=False), ten_classes(), channels=3, image_size=5)
    data.setup("fit")
    assert data.image_shape == (3, 5, 5)
    found, original = data._fit_sets["source"][0].images, data.source.fit_sets()[0].images
    expected = torch.nn.functional.interpolate(original.float(), (5, 5), mode="bilinear", antialias=True)
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert (found[:, :1].float() - expected).abs().max() < 1.1
    assert found.shape[0] == 1197
    target = torch.nn.functional.interpolate(
        data.target.fit_sets()[0].images.float(), (5, 5), mode="bilinear", antialias=True
    )
    assert (data._fit_sets["target"][0].images.float() - target).abs().max() < 1.1


def ten_classes():
    data = type("Ten", (Colour,), {"num_classes": 10, "name": "ten"})
    return data(**QUIET)


def test_colour_becomes_grey_by_luminance():
    data = AdaptationDataModule(Numbered(**QUIET), Colour(**QUIET), channels=1, image_size=6)
    data.setup("fit")
    red, green, blue = data.target.fit_sets()[0].images.float().unbind(1)
    grey = data._fit_sets["target"][0].images.float()[:, 0]
    assert (grey - (0.299 * red + 0.587 * green + 0.114 * blue)).abs().max() < 1.1


def test_sets_that_have_the_common_shape_are_not_copied():
    data = AdaptationDataModule(Numbered(**QUIET), Other(**QUIET))
    data.setup("fit")
    assert data._fit_sets["target"][0].images is data.target.fit_sets()[0].images


def test_images_are_brought_to_the_shape_once_and_not_in_each_step(monkeypatch):
    calls = []

    def counted(images, shape):
        calls.append(len(images))
        return fit(images, shape)

    monkeypatch.setattr("datamodules.adaptation.pairs.fit", counted)
    data = AdaptationDataModule(
        Numbered(batch_size=6, **QUIET), Colour(batch_size=6, **QUIET), channels=3, image_size=6
    )
    run(data)
    run(data)
    assert calls == [36, 4]


@pytest.mark.parametrize("augmented", ["source", "target"])
def test_each_domain_is_augmented_as_it_says_after_the_resizing_and_in_training_only(augmented):
    arguments = {"batch_size": 9, "val_split": 4}
    data = AdaptationDataModule(
        Numbered(**arguments, augment=augmented == "source"),
        Other(**arguments, augment=augmented == "target"),
        image_size=8,
    )
    data.source.padding = data.target.padding = 2
    module = Both()
    torch.manual_seed(0)
    trainer(num_sanity_val_steps=0).fit(module, data)
    x = torch.cat([step["source"][0] for step in module.seen["train"]])
    z = torch.cat([step["target"] for step in module.seen["train"]])

    def is_plane(images):
        return (images == images[:, :, 4:5, 4:5]).flatten(1).all(1)

    cropped, whole = (x, z) if augmented == "source" else (z, x)
    assert is_plane(whole).all()
    assert is_plane(cropped).float().mean() < 0.3  # one of 25 shifts is none
    assert any((image[:, :2] == -1).all() for image in cropped)  # two rows of the padding: pixels of the new size
    assert all(is_plane(images).all() for _, (images, _) in module.seen["val"])
    assert x.shape[1:] == (1, 8, 8)


def test_preparing_asks_for_the_files_of_both_domains(tmp_path):
    pair = {"channels": 3, "image_size": 32}
    for domains in ((SVHNDataModule, MNISTDataModule), (MNISTDataModule, SVHNDataModule)):
        data = AdaptationDataModule(*(domain(data_dir=str(tmp_path)) for domain in domains), **pair)
        with pytest.raises(FileNotFoundError, match=f"{domains[0].__name__[:-10]} is not in data_dir"):
            data.prepare_data()
    data = AdaptationDataModule(DigitsDataModule(), MNISTDataModule(data_dir=str(tmp_path)), image_size=28)
    with pytest.raises(FileNotFoundError, match="MNIST is not in data_dir"):
        data.prepare_data()


def test_the_command_line_nests_two_data_modules_and_reads_nothing(monkeypatch, tmp_path):
    def forbidden(*_):
        raise AssertionError("read")

    monkeypatch.setattr(sources.Source, "read", forbidden)
    monkeypatch.setattr("datamodules.images.mnistm.load_sample_images", forbidden)
    config = {
        "class_path": "datamodules.AdaptationDataModule",
        "init_args": {
            "source": {"class_path": "datamodules.DigitsDataModule", "init_args": {"batch_size": 9}},
            "target": {
                "class_path": "datamodules.DigitsMDataModule",
                "init_args": {"photographs": str(tmp_path), "binarise": True, "val_split": 0},
            },
            "channels": 3,
        },
    }
    model = {"class_path": "zoo.DANN", "init_args": {"network_args": {"padding": 2}}}
    found = train.main([f"--config={json.dumps({'model': model, 'data': config})}"], run=False)
    data = found.datamodule
    assert isinstance(data, AdaptationDataModule)
    assert isinstance(data.target, DigitsMDataModule)
    assert (data.source.batch_size, data.image_shape, data.target.photographs) == (9, (3, 8, 8), str(tmp_path))
    assert (found.model.hparams["num_classes"], tuple(found.model.hparams["image_shape"])) == (10, (3, 8, 8))


@pytest.mark.skipif(
    not (Path(ZOO_DATA, "MNIST").is_dir() and Path(ZOO_DATA, "USPS").is_dir()), reason="ZOO_DATA lacks MNIST or USPS"
)
def test_real_mnist_and_usps_are_a_pair_in_both_directions():
    mnist, usps = MNISTDataModule(data_dir=ZOO_DATA), USPSDataModule(data_dir=ZOO_DATA)
    data = AdaptationDataModule(mnist, usps, image_size=28)
    loaders = data.train_dataloader()
    assert {domain: len(loader.dataset) for domain, loader in loaders.items()} == {"source": 54_000, "target": 6_562}
    assert [len(loader.dataset) for loader in data.val_dataloader()] == [6_000, 729]
    assert [len(loader.dataset) for loader in data.test_dataloader()] == [10_000, 2_007]
    assert next(iter(loaders["target"])).shape == (64, 1, 28, 28)
    back = AdaptationDataModule(USPSDataModule(), MNISTDataModule(), image_size=16)
    assert (back.test_sets, back.image_shape) == (("usps", "target/mnist"), (1, 16, 16))
