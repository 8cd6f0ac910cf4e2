"""Class-limited batches: their invariants, several processes, the loaders of the data modules under a Trainer."""

import json
import time
from itertools import chain

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from data_sets import IN_A_FORK, Numbered, Recorder, as_bytes, trainer
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler, TensorDataset

from datamodules import DigitsDataModule, ImageFolderDataModule, SemiSupervisedDataModule
from datamodules.images.class_limited import ClassLimitedBatchSampler

HUNDRED = torch.arange(50_000) % 100
GOOD = {"labels": torch.arange(40) % 4, "batch_size": 10, "classes_per_batch": 2}


def classes_of(labels, batches):
    return [len(set(labels[batch].tolist())) for batch in batches]


# --- the sampler ---


@examples(100)
@given(
    labels=st.lists(st.integers(-2, 6), min_size=1, max_size=90),
    processes=st.integers(1, 3),
    epoch=st.integers(0, 3),
    drop_last=st.booleans(),
    limited=st.booleans(),
    data=st.data(),
)
def test_batches_of_all_processes_are_the_samples_once_up_to_the_remainder(
    labels, processes, epoch, drop_last, limited, data
):
    least = processes if not drop_last else 1
    size = data.draw(st.integers(1, max(1, len(labels) // processes)))
    wanted = data.draw(st.integers(1, min(size, len(set(labels)))))
    if len(labels) < max(least, size * processes if drop_last else processes):
        return
    parts = []
    for rank in range(processes):
        sampler = ClassLimitedBatchSampler(
            labels, size, wanted, 3, None if limited else 0, drop_last, num_replicas=processes, rank=rank
        )
        sampler.set_epoch(epoch)
        parts.append(list(sampler))
        assert len(parts[-1]) == len(sampler)
    assert len({len(part) for part in parts}) == 1
    seen = list(chain.from_iterable(chain.from_iterable(parts)))
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(len(labels)))
    assert len(labels) - len(seen) == len(labels) % (size * processes if drop_last else processes)
    whole = len(labels) // (size * processes)
    for part in parts:
        assert [len(batch) for batch in part[:whole]] == [size] * whole
        assert all(0 < len(batch) < size for batch in part[whole:])


@pytest.mark.parametrize("labels", [HUNDRED, np.random.default_rng(0).integers(0, 100, 50_000) ** 2 // 100])
def test_batches_have_the_classes_asked_for_and_more_only_to_fill_the_last_few(labels):
    labels = torch.as_tensor(labels)
    batches = list(ClassLimitedBatchSampler(labels, 128, 20))
    found = classes_of(labels, batches)
    assert len(found) == 391
    assert set(found[:-10]) == {20}
    assert min(found) == 20
    assert sum(count > 20 for count in found) < 5


def test_pairs_share_a_class_far_more_often_than_at_random():
    def share(sampler):
        counts = torch.stack([torch.bincount(HUNDRED[batch], minlength=100) for batch in sampler]).double()
        return ((counts * (counts - 1)).sum(1) / (128 * 127)).mean().item()

    batches = list(ClassLimitedBatchSampler(HUNDRED, 128, 20, drop_last=True))
    assert share(batches) == pytest.approx(0.049, abs=0.001)  # the figures of the docstring
    assert share(batches[:100]) == pytest.approx(share(batches[-110:-10]), abs=0.002)  # classes drain evenly
    assert share(ClassLimitedBatchSampler(HUNDRED, 128, 14, drop_last=True)) == pytest.approx(0.071, abs=0.001)
    plain = ClassLimitedBatchSampler(HUNDRED, 128, 20, limited_epochs=0, drop_last=True)
    assert share(plain) == pytest.approx(0.01, abs=0.001)


def test_every_class_and_every_member_of_a_class_has_the_same_chance():
    first = torch.zeros(60)
    for seed in range(2000):
        first[next(iter(ClassLimitedBatchSampler(torch.arange(60) % 6, 10, 2, seed)))] += 1
    assert (first - 2000 / 6).abs().max() < 5 * (2000 * 5 / 36) ** 0.5


def test_large_classes_are_drawn_in_proportion():
    labels = torch.tensor([0] * 30 + [1] * 10)
    large = sum(0 in labels[next(iter(ClassLimitedBatchSampler(labels, 8, 1, seed)))] for seed in range(2000))
    assert abs(large / 2000 - 0.75) < 0.05


def test_batches_follow_from_seed_and_epoch_alone():
    def batches(seed, epoch):
        sampler = ClassLimitedBatchSampler(HUNDRED[:1000], 50, 5, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    torch.manual_seed(0)
    state, first = torch.get_rng_state(), batches(1, 2)
    assert torch.equal(state, torch.get_rng_state())  # no draw of anyone else's
    torch.manual_seed(1)
    assert batches(1, 2) == first
    assert batches(1, 3) != first
    assert batches(2, 1) != first  # nor is it their sum that counts


def test_after_the_limited_epochs_batches_are_plainly_shuffled():
    sampler = ClassLimitedBatchSampler(HUNDRED, 128, 10, limited_epochs=2)
    for epoch, most in ((0, 10), (1, 10), (2, 100)):
        sampler.set_epoch(epoch)
        found = classes_of(HUNDRED, sampler)
        assert max(found[:300]) <= most
        assert min(found[:300]) >= (10 if epoch < 2 else 50)


def test_labels_may_be_any_whole_numbers_in_any_sequence():
    for labels in ([7, -1, 7, -1, 1000, 1000], np.array([7, 255, 7, 255, 0, 0], dtype=np.uint8)):
        batches = list(ClassLimitedBatchSampler(labels, 2, 1))
        assert sorted(chain(*batches)) == list(range(6))
        assert all(labels[first] == labels[second] for first, second in batches)


def test_an_epoch_of_50_000_labels_is_planned_in_a_fraction_of_a_second():
    times = []
    for _ in range(3):
        start = time.perf_counter()
        list(ClassLimitedBatchSampler(HUNDRED, 128, 20))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3  # 0.03 s without other load


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": []}, r"whole numbers of shape \(N,\), got float64 of shape \(0,\)"),
        ({"labels": torch.zeros(4)}, "whole numbers .*, got float32"),
        ({"labels": torch.zeros(4, 2).long()}, r"got int64 of shape \(4, 2\)"),
        ({"classes_per_batch": 0}, r"classes_per_batch must lie in 1\.\.4 .*, got 0"),
        ({"classes_per_batch": 5}, r"classes_per_batch must lie in 1\.\.4 for batch_size=10 and 4 classes, got 5"),
        ({"classes_per_batch": 3, "batch_size": 2}, r"must lie in 1\.\.2 for batch_size=2 .*, got 3"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"limited_epochs": -1}, "limited_epochs must not be negative, got -1"),
        ({"num_replicas": 2, "rank": 2}, "rank"),
        ({"batch_size": 41, "drop_last": True}, "40 samples are too few for one batch_size=41 in each of 1 processes"),
        ({"num_replicas": 5, "drop_last": True}, "40 samples are too few for one batch_size=10 in each of 5 processes"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClassLimitedBatchSampler(**(GOOD | arguments))


def test_a_distributed_sampler_says_the_process_and_the_epoch():
    labels = torch.arange(100) % 10
    explicit = ClassLimitedBatchSampler(labels, 10, 3, num_replicas=2, rank=1)
    explicit.set_epoch(4)
    said = DistributedSampler(labels, num_replicas=2, rank=1)
    said.set_epoch(4)
    assert list(ClassLimitedBatchSampler(labels, 10, 3, sampler=said)) == list(explicit)
    assert list(ClassLimitedBatchSampler(labels, 10, 3, num_replicas=2, rank=1, epoch=4)) == list(explicit)


def test_samplers_that_do_not_shuffle_stay_with_the_first_epoch():
    labels = torch.arange(100) % 10
    for still in (SequentialSampler(labels), DistributedSampler(labels, num_replicas=1, rank=0, shuffle=False)):
        fixed = ClassLimitedBatchSampler(labels, 10, 3, sampler=still)
        first = list(fixed)
        fixed.set_epoch(1)
        assert list(fixed) == first


# --- under a Trainer ---


def run(data, **arguments):
    module = Recorder()
    runner = trainer(num_sanity_val_steps=0, **arguments)
    runner.fit_loop.max_epochs = 2
    runner.fit(module, data)
    return module.seen["train"]


def test_a_data_module_gives_batches_of_few_classes_in_another_order_each_epoch():
    data = Numbered(batch_size=6, val_split=0, classes_per_batch=2)
    steps = run(data)
    assert len(steps) == 12  # six whole batches of 40 an epoch
    # With ten images of each class the last two batches of an epoch may need a third one.
    assert all(len(set(y.tolist())) == 2 for epoch in (steps[:4], steps[6:10]) for _, y in epoch)
    epochs = [torch.cat([as_bytes(x)[:, 0, 0, 0] for x, _ in part]).tolist() for part in (steps[:6], steps[6:])]
    assert all(len(set(epoch)) == 36 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert all(torch.equal(as_bytes(x)[:, 0, 0, 0].long() % 4, y) for x, y in steps)


def test_the_seed_of_seed_everything_decides_the_batches(monkeypatch):
    def first(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        return next(iter(Numbered(batch_size=6, classes_per_batch=2).train_dataloader().batch_sampler))

    assert first("3") == first("3") != first("4")


def test_class_limited_epochs_come_first():
    data = Numbered(batch_size=20, val_split=0, classes_per_batch=2, class_limited_epochs=1)
    steps = run(data)
    assert len(set(steps[0][1].tolist())) == 2
    assert all(len(set(y.tolist())) == 4 for _, y in steps[2:])


def test_overfitting_to_some_batches_repeats_them():
    steps = run(Numbered(batch_size=6, val_split=0, classes_per_batch=2), overfit_batches=2)
    assert [x.tolist() for x, _ in steps[:2]] == [x.tolist() for x, _ in steps[2:]]


class Plain(pl.LightningDataModule):
    """A user's own: a plain data set, items one by one, the usual collation."""

    def train_dataloader(self):
        images, labels = Numbered(val_split=0).load_split(train=True)
        batches = ClassLimitedBatchSampler(labels, 5, 2, drop_last=True)
        return DataLoader(TensorDataset(images / 127.5 - 1, labels), batch_sampler=batches)


class Writer(Recorder):
    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        steps = [as_bytes(x)[:, 0, 0, 0].tolist() for x, _ in self.seen["train"]]
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(steps))


class Saver(Writer):
    def on_train_end(self):
        super().on_train_end()
        self.trainer.save_checkpoint(self.folder / f"{self.trainer.max_epochs}.ckpt")


@IN_A_FORK
@pytest.mark.parametrize("kind", ["ours", "plain", "remainder"])
def test_two_real_processes_get_disjoint_batches_of_few_classes_that_are_together_the_set(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    size = 7 if kind == "remainder" else 5
    ours = Numbered(batch_size=size, val_split=0, augment=False, classes_per_batch=2)
    runner = trainer(devices=2, strategy="ddp_fork", num_sanity_val_steps=0)
    runner.fit_loop.max_epochs = 2
    runner.fit(Writer(tmp_path), Plain() if kind == "plain" else ours)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    rounds = 2 if kind == "remainder" else 4  # two rounds of 14 images: 12 of 40 are left out
    alone = ClassLimitedBatchSampler(torch.arange(40) % 4, size, 2, drop_last=True)
    for epoch in (0, 1):
        parts = [rank[rounds * epoch : rounds * epoch + rounds] for rank in ranks]
        numbers = list(chain(*chain(*parts)))
        assert len(set(numbers)) == len(numbers) == 2 * rounds * size
        alone.set_epoch(epoch)
        together = list(chain(*zip(*parts, strict=True)))
        assert together == list(alone)[: 2 * rounds]  # the batches of one process, in turn
        assert all(len({number % 4 for number in batch}) == 2 for batch in together[:2])
    assert all(len(rank) == 2 * rounds for rank in ranks)
    assert ranks[0][:rounds] != ranks[0][rounds:]


@IN_A_FORK
@pytest.mark.parametrize(("devices", "num_workers"), [(1, 0), (1, 1), (2, 1)])
def test_a_resumed_run_goes_on_with_the_batches_it_would_have_had(devices, num_workers, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")

    def fit(epochs, checkpoint=None):
        data = Numbered(batch_size=5, val_split=0, classes_per_batch=2, augment=False, num_workers=num_workers)
        runner = trainer(devices=devices, strategy="ddp_fork" if devices > 1 else "auto", num_sanity_val_steps=0)
        runner.fit_loop.max_epochs = epochs
        runner.fit(Saver(tmp_path), data, ckpt_path=checkpoint, weights_only=False)
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(devices)]

    whole, steps = fit(3), 8 // devices
    assert fit(2) == [part[: 2 * steps] for part in whole]
    assert fit(3, tmp_path / "2.ckpt") == [part[2 * steps :] for part in whole]


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes_per_batch": 0}, r"classes_per_batch must lie in 1\.\.10 .*, got 0"),
        ({"classes_per_batch": 11}, r"must lie in 1\.\.10 for batch_size=64 and the 10 classes of digits, got 11"),
        ({"classes_per_batch": 9, "held_out_classes": [1, 2]}, r"must lie in 1\.\.8 .*, got 9"),
        ({"classes_per_batch": 6, "batch_size": 5}, r"must lie in 1\.\.5 for batch_size=5 .*, got 6"),
        ({"class_limited_epochs": 3}, "class_limited_epochs=3 .* needs classes_per_batch"),
        ({"class_limited_epochs": -1, "classes_per_batch": 2}, "class_limited_epochs=-1 must be at least 0"),
    ],
)
def test_bad_arguments_of_a_data_module_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**arguments)


def test_a_batch_larger_than_the_set_is_refused_and_pairs_of_batches_have_no_limit():
    with pytest.raises(ValueError, match="batch_size=41 is more than the 40 training images of numbered"):
        Numbered(batch_size=41, val_split=0, classes_per_batch=2).train_dataloader()
    with pytest.raises(ValueError, match="classes_per_batch=2 is not for semi-supervised batches"):
        SemiSupervisedDataModule(Numbered(classes_per_batch=2))


def test_a_folder_of_pictures_has_the_arguments_too(tmp_path):
    for name in ("train/a", "train/b", "test/a"):
        (tmp_path / name).mkdir(parents=True)
    data = ImageFolderDataModule(str(tmp_path), cutout=16, classes_per_batch=1, class_limited_epochs=5)
    assert (data.cutout, data.classes_per_batch, data.class_limited_epochs) == (16, 1, 5)
