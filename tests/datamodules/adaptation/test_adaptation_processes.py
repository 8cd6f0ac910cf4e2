"""Pairs of domains on several processes, in resumed runs, and pairs that are refused."""

import json
from itertools import chain

import lightning.pytorch as pl
import pytest
import torch
from data_sets import IN_A_FORK, Numbered, trainer
from domain_pairs import QUIET, Both, Colour, Other, numbers

from callbacks import Randomness
from datamodules import (
    AdaptationDataModule,
    DigitsDataModule,
    ImageFolderDataModule,
)


class Orders(Both):
    """Each rank writes the numbers of the images it got, a list for each step."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        seen = {
            "source": [numbers(step["source"][0]) for step in self.seen["train"]],
            "target": [numbers(step["target"]) for step in self.seen["train"]],
        }
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(seen))
        self.trainer.save_checkpoint(self.folder / f"{self.trainer.max_epochs}.ckpt")


def orders(folder, devices, source, target, epochs=2, checkpoint=None, **arguments):
    several = {"devices": devices, "strategy": "ddp_fork"} if devices > 1 else {}
    runner = trainer(num_sanity_val_steps=0, **several, **arguments)
    runner.fit_loop.max_epochs = epochs
    runner.fit(Orders(folder), AdaptationDataModule(source, target), ckpt_path=checkpoint, weights_only=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


def joined(ranks, domain, steps):
    return [list(chain(*rank[domain][steps])) for rank in ranks]


@IN_A_FORK
@pytest.mark.parametrize("smaller", ["source", "target"])
def test_two_processes_see_both_domains_in_every_step_and_share_out_either(smaller, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    large, small = Numbered(batch_size=3, **QUIET), Other(batch_size=3, val_split=6, augment=False)
    pair = (small, large) if smaller == "source" else (large, small)
    ranks = orders(tmp_path, 2, *pair)
    larger = "target" if smaller == "source" else "source"
    epochs = []
    for rank in ranks:
        assert [len(step) for domain in ("source", "target") for step in rank[domain]] == [3] * (2 * 2 * 6)
    for epoch in (slice(0, 6), slice(6, 12)):
        first, second = joined(ranks, larger, epoch)
        assert sorted(first + second) == sorted(large.fit_sets()[0].images[:, 0, 0, 0].tolist())
        epochs.append(first)
    assert epochs[0] != epochs[1]
    passes = [joined(ranks, smaller, slice(step, step + 2)) for step in range(0, 12, 2)]  # 12 images: two steps
    for first, second in passes:
        assert sorted(first + second) == sorted(small.fit_sets()[0].images[:, 0, 0, 0].tolist())
    assert len({str(one) for one in passes}) == 6


@IN_A_FORK
def test_equally_large_domains_are_shuffled_independently_on_two_processes_too(tmp_path, monkeypatch):
    class Same(Other):
        train_images = 40

    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    ranks = orders(tmp_path, 2, Numbered(batch_size=6, **QUIET), Same(batch_size=6, **QUIET))
    for rank in ranks:
        for source, target in zip(rank["source"], rank["target"], strict=True):
            assert [number + 200 for number in source] != target


@IN_A_FORK
def test_where_lightning_is_to_put_no_sampler_all_processes_read_all(tmp_path):
    pl.seed_everything(0, verbose=False)
    source, target = Numbered(batch_size=12, **QUIET), Other(batch_size=7, **QUIET)
    first, second = orders(tmp_path, 2, source, target, use_distributed_sampler=False)
    assert first == second
    assert sorted(chain(*first["source"][:3])) == sorted(source.fit_sets()[0].images[:, 0, 0, 0].tolist())


@IN_A_FORK
@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_run_goes_on_with_the_batches_it_would_have_had(devices, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def fit(epochs, checkpoint=None):
        torch.rand(3 if checkpoint else 1)  # whatever else a process draws
        domains = Numbered(batch_size=4, **QUIET), Other(batch_size=4, **QUIET)
        return orders(tmp_path, devices, *domains, epochs, checkpoint, callbacks=[Randomness()])

    torch.manual_seed(0)
    whole, steps = fit(3), 9 // devices
    torch.manual_seed(0)
    assert fit(2) == [{domain: rank[domain][: 2 * steps] for domain in rank} for rank in whole]
    assert fit(3, tmp_path / "2.ckpt") == [{domain: rank[domain][2 * steps :] for domain in rank} for rank in whole]


@pytest.mark.parametrize(
    ("domains", "arguments", "message"),
    [
        ((Numbered, DigitsDataModule), {}, "same num_classes: 'numbered' has 4, 'digits' has 10"),
        ((Numbered, Colour), {}, r"source .* \(1, 4, 4\), the target .* \(3, 6, 6\): .* channels=3 and image_size=6"),
        ((Numbered, Colour), {"channels": 3}, r"e\.g\. by image_size=6$"),
        ((Numbered, Colour), {"image_size": 9}, r"e\.g\. by channels=3$"),
        ((Numbered, Other), {"channels": 2}, r"channels must be 1 \(grey\), 3 \(RGB\) or None, got 2"),
        ((Numbered, Other), {"image_size": 0}, "image_size must be at least 1 or None, got 0"),
    ],
)
def test_domains_that_do_not_fit_together_are_refused_at_construction(domains, arguments, message):
    source, target = (domain() for domain in domains)
    with pytest.raises(ValueError, match=message):
        AdaptationDataModule(source, target, **arguments)


@pytest.mark.parametrize(
    ("of_source", "of_target", "message"),
    [
        ({}, {"ood": ["far/uniform"]}, r"ood of the source, not of the target: \['far/uniform'\]"),
        ({"val_split": 0}, {}, "val_split=0 of the source 'numbered': runs are judged by its validation images"),
        ({"classes_per_batch": 2}, {}, "classes_per_batch=2 of the source 'numbered' is not for pairs of domains"),
        ({}, {"classes_per_batch": 2}, "classes_per_batch=2 of the target 'other' .* has no labels to choose by"),
        ({}, {"cutout": 2}, "cutout=2 of the target 'other' is not for pairs of domains"),
        ({"held_out_classes": [1]}, {}, r"same held_out_classes: 'numbered' has \[1\], 'other' has \[\]"),
        (
            {"held_out_classes": [1]},
            {"held_out_classes": [2]},
            r"same held_out_classes: 'numbered' has \[1\], 'other' has \[2\]",
        ),
    ],
)
def test_arguments_of_the_domains_that_pairs_cannot_have_are_refused(of_source, of_target, message):
    with pytest.raises(ValueError, match=message):
        AdaptationDataModule(Numbered(**of_source), Other(**of_target))


@pytest.mark.parametrize(("attribute", "value"), [("mean", 0.1307), ("std", (0.2, 0.2, 0.2))])
def test_two_normalisations_are_refused(attribute, value):
    source = Numbered()
    setattr(source, attribute, value)
    with pytest.raises(ValueError, match=f"the same {attribute}: 'numbered' has .*, 'other' has 0.5"):
        AdaptationDataModule(source, Other())


def test_what_is_no_image_data_module_is_refused_by_domain_and_type():
    with pytest.raises(TypeError, match=r"source must be an image data module such as .*, got MoonsLike"):
        AdaptationDataModule(type("MoonsLike", (pl.LightningDataModule,), {})(), Other())
    with pytest.raises(TypeError, match=r"target must be an image data module such as .*, got NoneType"):
        AdaptationDataModule(Numbered(), None)


def test_more_than_three_channels_pass_as_they_are_and_cannot_be_changed():
    spectral = type("Spectral", (Numbered,), {"image_shape": (5, 4, 4), "name": "spectral"})
    assert AdaptationDataModule(spectral(), spectral()).image_shape == (5, 4, 4)
    with pytest.raises(ValueError, match=r"\(5, 4, 4\), .* only grey \(1\) and RGB \(3\) can be brought to channels=3"):
        AdaptationDataModule(spectral(), Numbered(), channels=3)


def test_classes_of_other_names_are_refused(tmp_path):
    for place in ("one/train/cat", "one/train/dog", "one/test", "two/train/cat", "two/train/cow", "two/test"):
        (tmp_path / place).mkdir(parents=True)
    one, two = (ImageFolderDataModule(str(tmp_path / name)) for name in ("one", "two"))
    with pytest.raises(ValueError, match=r"same classes: 'one' alone has \['dog'\], 'two' alone has \['cow'\]"):
        AdaptationDataModule(one, two)
    AdaptationDataModule(one, ImageFolderDataModule(str(tmp_path / "one")))


def sized(count, test=6, label=None):
    class Sized(Other):
        def load_split(self, train):
            images, labels = super().load_split(train)
            size = count if train else test
            return images[:size], labels[:size] if label is None else labels[:size] * 0 + label

    return Sized


def test_a_domain_smaller_than_a_batch_is_refused_by_name():
    data = AdaptationDataModule(Numbered(batch_size=8, **QUIET), sized(7)(batch_size=8, val_split=0))
    with pytest.raises(ValueError, match="batch_size=8 is more than the 7 training images of other"):
        data.train_dataloader()
    data = AdaptationDataModule(Numbered(batch_size=37, **QUIET), Other(**QUIET))
    with pytest.raises(ValueError, match="batch_size=37 is more than the 36 training images of numbered"):
        data.train_dataloader()


@IN_A_FORK
def test_a_domain_smaller_than_the_batches_of_two_processes_is_refused(tmp_path):
    with pytest.raises(Exception, match="in each of 2 processes is more than the 14 training images of other"):
        orders(tmp_path, 2, Numbered(batch_size=8, **QUIET), Other(batch_size=8, **QUIET))


def test_an_empty_domain_is_refused_by_name():
    with pytest.raises(ValueError, match="the training split of other: 0 images"):
        AdaptationDataModule(Numbered(), sized(0)()).setup("fit")
    with pytest.raises(ValueError, match="the test split of other: 0 images"):
        AdaptationDataModule(Numbered(), sized(9, test=0)()).setup("test")
    nothing = {"held_out_classes": [1], "val_split": 0}
    with pytest.raises(ValueError, match="val_split=0 leaves none of the 0 images of other to train"):
        AdaptationDataModule(Numbered(held_out_classes=[1]), sized(9, label=1)(**nothing)).setup("fit")
    with pytest.raises(ValueError, match="the target 'other' has no test images"):
        AdaptationDataModule(Numbered(held_out_classes=[1]), sized(9, label=1)(**nothing)).setup("test")
    with pytest.raises(ValueError, match=r"val_split=0\.01 leaves the source 'numbered' no validation images"):
        AdaptationDataModule(Numbered(val_split=0.01), Other()).setup("fit")
