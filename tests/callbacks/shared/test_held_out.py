"""What the evaluation callbacks share: data to fit on, names of loaders, logging of equal values."""

from types import SimpleNamespace

import pytest
import torch
from evaluation_toys import QUIET, Data, ToyClassifier, run_test
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader, TensorDataset

from callbacks.shared.batches import has_targets, target_batch
from callbacks.shared.collect import log_identical
from callbacks.shared.held_out import HeldOut
from callbacks.shared.samplers import loader_names, named_loaders


class Counting(Data):
    """Counts how often it is set up for a fit."""

    fits = 0

    def setup(self, stage):
        self.fits += stage == "fit"


class Uses(Callback):
    """Runs held-out data through `measure` at the start of a test, as the evaluation callbacks do."""

    def __init__(self, *arguments, max_samples=None):
        self.held_out, self.max_samples = HeldOut(*arguments), max_samples

    def setup(self, trainer, pl_module, stage):
        self.held_out.remember(trainer, stage)

    def on_test_start(self, trainer, pl_module):
        self.loader = self.held_out.find(trainer, pl_module)
        self.table = None
        if self.loader is not None:
            arguments = (trainer, pl_module, self.loader, lambda x, y: {"x": x, "y": y})
            self.table = self.held_out.run(*arguments, self.max_samples)


class Fitting(ToyClassifier):
    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-3)


def used(stage="val", *arguments, max_samples=None, data=None, **options):
    callback = Uses(stage, *arguments, max_samples=max_samples)
    run_test([callback], data=data, **options)
    return callback.table


def test_validation_data_go_through_the_hooks_in_the_order_of_the_data_set():
    data = Data(validation=9)
    table = used(data=data)
    assert torch.equal(table["x"], data.validation.tensors[0].float() - 3)
    assert torch.equal(table["y"], data.validation.tensors[1])


def test_training_data_are_not_shuffled_and_at_most_so_many():
    data = Data(train=40)
    table = used("train", max_samples=5, data=data)
    assert torch.equal(table["x"], data.train.tensors[0][::8].float() - 3)


def test_the_trainers_limit_holds_for_its_own_loaders_only():
    assert len(used(limit_val_batches=1)["y"]) == 4
    given = DataLoader(Data(validation=9).validation, 4)
    assert len(used("val", given, limit_val_batches=1)["y"]) == 9
    assert used(limit_val_batches=0) is None


def test_other_kinds_of_labels_are_read_where_they_are_asked_for():
    numbers = DataLoader(TensorDataset(torch.zeros(3, 6, dtype=torch.uint8), torch.tensor([0.5, 1.5, 2.5])), 2)
    assert used("val", numbers, has_targets, target_batch)["y"].tolist() == [0.5, 1.5, 2.5]

    class Numbers(Data):
        def val_dataloader(self):
            return numbers

    assert used("val", None, has_targets, target_batch, data=Numbers())["y"].tolist() == [0.5, 1.5, 2.5]
    assert used(data=Numbers()) is None, "no integer labels"


def test_a_data_module_is_set_up_for_a_fit_once_however_often_it_is_tested():
    data, callback = Counting(), Uses("train")
    trainer = Trainer(accelerator="cpu", devices=1, max_steps=1, **QUIET, callbacks=[callback], limit_val_batches=0)
    trainer.fit(Fitting(), data)
    trainer.test(Fitting(), data, verbose=False)
    assert data.fits == 1, "a second time might draw another split"
    other = Counting()
    trainer.test(Fitting(), other, verbose=False)
    assert other.fits == 1
    assert len(callback.table["y"]) == 40


def test_without_a_loader_there_is_none():
    class Bare(Data):
        val_dataloader = Data.__base__.val_dataloader

    assert used(data=Bare()) is None


def trainer_with(names, loaders, testing=True):
    data = SimpleNamespace() if names is None else SimpleNamespace(test_sets=names, val_sets=names)
    kinds = {"test_dataloaders": loaders if testing else None, "val_dataloaders": None if testing else loaders}
    return SimpleNamespace(datamodule=data, testing=testing, **kinds)


@pytest.mark.parametrize("testing", [True, False])
def test_loaders_come_with_their_names(testing):
    attribute = "test_sets" if testing else "val_sets"
    trainer = trainer_with(("a", "b"), {"x": 1, "y": [2]}, testing)
    assert named_loaders(trainer, attribute, None, "Me") == (["a", "b"], [1, 2])
    assert named_loaders(trainer, attribute, ["c", "d"], "Me") == (["c", "d"], [1, 2])


@pytest.mark.parametrize("names", [None, (), [1, 2], "ab", 3])
def test_what_is_no_list_of_names_names_nothing(names):
    assert named_loaders(trainer_with(names, [1, 2]), "test_sets", None, "Me") == (None, [1, 2])
    assert loader_names(SimpleNamespace(datamodule=None), "test_sets", None) is None


def test_names_must_be_one_for_each_loader_and_distinct():
    with pytest.raises(ValueError, match="Me knows 3 names for 2 loaders: test_sets is"):
        named_loaders(trainer_with(("a", "b", "c"), [1, 2]), "test_sets", None, "Me")
    with pytest.raises(ValueError, match="Me expects distinct names in test_sets, got"):
        named_loaders(trainer_with(("a", "a"), [1, 2]), "test_sets", None, "Me")


@pytest.mark.parametrize("processes", [1, 3])
def test_equal_values_are_logged_without_a_mean_over_processes(processes):
    logged = {}
    module = SimpleNamespace(
        trainer=SimpleNamespace(world_size=processes),
        log_dict=lambda metrics, **options: logged.update(metrics=metrics, **options),
    )
    log_identical(module, {"a": 0.1})
    expected = {"reduce_fx": "max", "sync_dist": processes > 1, "add_dataloader_idx": False}
    assert logged == {"metrics": {"a": 0.1}, **expected}
