"""Semi-supervised training: two minibatches a step, few labels, their orders on one process and on two."""

import json
from itertools import chain

import lightning.pytorch as pl
import pytest
import torch
from data_sets import IN_A_FORK, Numbered, Recorder, as_bytes, trainer

from datamodules import DigitsDataModule, SemiSupervisedDataModule
from datamodules.images.image_set import ImageSet
from datamodules.shared.augment import normalise
from datamodules.shared.samplers import RestartingSampler


def test_semi_supervised_steps_get_two_different_minibatches_and_no_unlabelled_labels():
    data, module = SemiSupervisedDataModule(Numbered(batch_size=10, val_split=0, augment=False)), Recorder()
    trainer().fit(module, data)
    steps = module.seen["train"]
    assert len(steps) == 4  # one pass over 40 images
    labelled = torch.cat([as_bytes(step["labelled"][0])[:, 0, 0, 0] for step in steps])
    unlabelled = torch.cat([as_bytes(step["unlabelled"])[:, 0, 0, 0] for step in steps])
    assert sorted(labelled.tolist()) == sorted(unlabelled.tolist()) == list(range(40))
    assert labelled.tolist() != unlabelled.tolist()
    assert torch.equal(labelled.long() % 4, torch.cat([step["labelled"][1] for step in steps]))
    assert all(isinstance(step["unlabelled"], torch.Tensor) for step in steps)
    assert steps[0]["unlabelled"].dtype == torch.float32


def test_semi_supervised_labels_are_few_fixed_and_cycle_in_new_order():
    wrapped = Numbered(batch_size=4, val_split=0, augment=False)
    data, module = SemiSupervisedDataModule(wrapped, labels_per_class=2), Recorder()
    trainer().fit(module, data)
    values = [as_bytes(step["labelled"][0])[:, 0, 0, 0] for step in module.seen["train"]]
    assert len(values) == 10  # the unlabelled set decides
    chosen = torch.cat(values).unique()
    assert torch.bincount(chosen.long() % 4).tolist() == [2, 2, 2, 2]
    passes = [torch.cat(values[i : i + 2]).tolist() for i in range(0, 10, 2)]
    assert all(sorted(one) == chosen.tolist() for one in passes)
    assert len({tuple(one) for one in passes}) > 1
    train, _ = wrapped.fit_sets()
    same, other = (SemiSupervisedDataModule(wrapped, 2, seed=seed).labelled_set(train).images for seed in (0, 1))
    assert sorted(same[:, 0, 0, 0].tolist()) == chosen.tolist()
    assert sorted(other[:, 0, 0, 0].tolist()) != chosen.tolist()


class Orders(Recorder):
    """Each rank writes the numbers of the images it got, a list for each step."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_train_end(self):
        numbers = {
            "labelled": [as_bytes(step["labelled"][0])[:, 0, 0, 0].tolist() for step in self.seen["train"]],
            "unlabelled": [as_bytes(step["unlabelled"])[:, 0, 0, 0].tolist() for step in self.seen["train"]],
        }
        (self.folder / f"{self.global_rank}.json").write_text(json.dumps(numbers))


def orders(folder, devices, labels_per_class, epochs=2, num_workers=0, **arguments):
    wrapped = Numbered(batch_size=5, val_split=0, augment=False, num_workers=num_workers)
    runner = trainer(devices=devices, strategy="ddp_fork", num_sanity_val_steps=0, **arguments)
    runner.fit_loop.max_epochs = epochs
    runner.fit(Orders(folder), SemiSupervisedDataModule(wrapped, labels_per_class))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


def joined(ranks, kind, steps):
    return [[number for step in rank[kind][steps] for number in step] for rank in ranks]


@IN_A_FORK
@pytest.mark.parametrize("devices", [1, 2])
def test_both_minibatches_are_shuffled_independently_on_real_processes_too(devices, tmp_path):
    ranks = orders(tmp_path, devices, labels_per_class=None)
    steps, seen = 8 // devices, []
    for epoch in (slice(0, steps), slice(steps, 2 * steps)):
        for kind in ("labelled", "unlabelled"):
            parts = joined(ranks, kind, epoch)
            assert sorted(chain(*parts)) == list(range(40)), "disjoint parts, together all"
            seen.append(parts)
    for rank in ranks:
        assert len(rank["labelled"]) == 2 * steps
        assert all(set(x) != set(y) for x, y in zip(rank["labelled"], rank["unlabelled"], strict=True))
    assert all(a != b for i, a in enumerate(seen) for b in seen[:i])


@IN_A_FORK
@pytest.mark.parametrize("num_workers", [0, 1])
def test_few_labelled_images_are_shared_out_anew_in_each_pass(num_workers, tmp_path):
    ranks = orders(tmp_path, 2, labels_per_class=3, num_workers=num_workers)  # 12 labelled: batches of 5, one dropped
    passes = [joined(ranks, "labelled", slice(step, step + 1)) for step in range(8)]  # a step is a pass here
    for first, second in passes:
        assert len(first) == len(second) == 5
        assert len(set(first + second)) == 10
    assert len({number for first, second in passes for number in first + second}) == 12
    assert len({str(one) for one in passes}) == 8


def test_the_labelled_order_of_a_process_follows_from_epoch_and_pass(monkeypatch):
    images = ImageSet(torch.zeros(13, 1, 1, 1, dtype=torch.uint8), torch.zeros(13).long())

    def passes(epoch, rank=0, seed="3"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        sampler = RestartingSampler(images, num_replicas=2, rank=rank)
        sampler.set_epoch(epoch)
        first = list(sampler)
        sampler.set_epoch(epoch)  # Lightning does so after it has made the first iterator
        return [first, list(sampler)]

    first, again = passes(1)
    other_first, other_again = passes(1, rank=1)
    assert first != again
    assert passes(1) == [first, again]  # as in a resumed run
    for mine, theirs in ((first, other_first), (again, other_again)):
        assert len(set(mine + theirs)) == 12
    assert passes(0)[0] != first
    assert passes(1, seed="4")[0] != first
    continued = RestartingSampler(images, num_replicas=2, rank=0)
    continued.set_epoch(0)
    list(continued), list(continued), list(continued)
    continued.set_epoch(1)
    assert list(continued) == passes(1, seed="4")[0]  # the number of passes in earlier epochs does not matter


def test_semi_supervised_augments_both_batches_in_training_only_and_delegates_the_rest():
    wrapped = DigitsDataModule(batch_size=100, ood=["far/uniform"])
    data, module = SemiSupervisedDataModule(wrapped, labels_per_class=1), Recorder()
    runner = trainer()
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    assert (data.num_classes, data.image_shape, data.test_sets) == (10, (1, 8, 8), ("digits", "far/uniform"))
    assert len(module.seen["train"][0]["labelled"][1]) == 10  # fewer labelled images than a batch has: all of them
    originals = {tuple(row) for row in wrapped.fit_sets()[0].images.flatten(1).tolist()}
    for part in (lambda step: step["labelled"][0], lambda step: step["unlabelled"]):
        seen = torch.cat([as_bytes(part(step)) for step in module.seen["train"]]).flatten(1).tolist()
        assert 0 < sum(tuple(row) in originals for row in seen) < 0.5 * len(seen)
    assert torch.equal(module.seen["val"][-1][0][-1:], normalise(wrapped.fit_sets()[1].images[-1:]))
    assert {index for index, _ in module.seen["test"]} == {0, 1}


def test_semi_supervised_refuses_what_it_cannot_do():
    with pytest.raises(TypeError, match="image data module such as DigitsDataModule, got LightningDataModule"):
        SemiSupervisedDataModule(pl.LightningDataModule())
    with pytest.raises(ValueError, match="labels_per_class must be at least 1 or None, got 0"):
        SemiSupervisedDataModule(Numbered(), labels_per_class=0)
    with pytest.raises(ValueError, match="labels_per_class=11, but class 0 has 10 training images"):
        SemiSupervisedDataModule(Numbered(val_split=0), labels_per_class=11).train_dataloader()
