"""The figures are those of one process on any number of them; real processes, made by fork."""

import json

import pytest
import torch
from evaluation_toys import Data, Dump, ToyClassifier, run_test
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, TensorDataset

from callbacks import CalibrationEvaluation, OODEvaluation
from callbacks.shared.collect import gather_rows


def found_by(folder, devices, data=None, module=None, **options):
    folder.mkdir()
    callbacks = [CalibrationEvaluation(), OODEvaluation(odin_epsilon=0.25, resamples=20, knn_k=3), Dump(folder)]
    strategy = {"strategy": "ddp_fork"} if devices > 1 else {}
    run_test(callbacks, module, data, devices=devices, **strategy, **options)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


@pytest.fixture(autouse=True)
def cpu_only(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    torch.set_num_threads(1)


@pytest.mark.parametrize("devices", [2, 3])
def test_several_processes_give_the_figures_of_one_to_the_last_digit(tmp_path, devices):
    (alone,) = found_by(tmp_path / "one", 1)
    together = found_by(tmp_path / "many", devices)
    assert alone[0][0]["samples"] == 11  # the sampler repeated samples: 11, 7 and 5 divide by neither
    assert alone[0][1]["sets"]["far/shifted"]["samples"] == 5
    for rank in together:
        assert rank == alone


def test_a_realistic_module_differs_by_rounding_only(tmp_path):
    class Realistic(ToyClassifier):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            for parameter in self.parameters():
                torch.nn.init.normal_(parameter)

    data = Data(sizes=(151, 70), batch_size=16)
    (alone,) = found_by(tmp_path / "one", 1, data, Realistic())
    first, second = found_by(tmp_path / "two", 2, data, Realistic())
    assert first == second
    assert first[1] == pytest.approx(alone[1], abs=1e-6)


def test_a_sampler_of_the_user_without_repetition_is_understood(tmp_path):
    class Strided(Sampler):
        def __init__(self, size):
            self.size = size

        def __iter__(self):
            rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
            world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
            return iter(range(rank, self.size, world))

        def __len__(self):
            return len(list(iter(self)))

    class Own(Data):
        def test_dataloader(self):
            return [DataLoader(test, 4, sampler=Strided(len(test))) for test in self.tests]

    (alone,) = found_by(tmp_path / "one", 1)
    assert found_by(tmp_path / "two", 2, Own(), use_distributed_sampler=False) == [alone, alone]


def test_whole_test_sets_on_every_process_count_once(tmp_path):
    (alone,) = found_by(tmp_path / "one", 1)
    assert found_by(tmp_path / "two", 2, Data(), use_distributed_sampler=False) == [alone, alone]


def test_shuffled_by_the_distributed_sampler_is_understood(tmp_path):
    (alone,) = found_by(tmp_path / "one", 1)
    assert found_by(tmp_path / "two", 2, Data(shuffle=True)) == [alone, alone]


def test_limited_batches_count_what_was_seen(tmp_path):
    first, second = found_by(tmp_path / "two", 2, Data(batch_size=2), limit_test_batches=1, limit_val_batches=0)
    assert first == second
    assert first[0][0]["samples"] == 4
    assert first[0][1]["sets"]["near/shifted"]["samples"] == 4


def test_one_sample_on_two_processes(tmp_path):
    (alone,) = found_by(tmp_path / "one", 1, Data(sizes=(1, 1), validation=1, train=2))
    assert found_by(tmp_path / "two", 2, Data(sizes=(1, 1), validation=1, train=2)) == [alone, alone]


def test_a_process_without_any_sample_of_a_set_takes_part(tmp_path):
    class Empty(Sampler):
        """Gives the second process nothing."""

        def __init__(self, size):
            self.size = size

        def __iter__(self):
            second = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
            return iter(range(0 if second else self.size))

        def __len__(self):
            return len(list(iter(self)))

    class Uneven(Data):
        def test_dataloader(self):
            first, *others = self.tests  # with no batch at all Lightning would not run the process's hooks
            return [DataLoader(first, 4), *(DataLoader(test, 4, sampler=Empty(len(test))) for test in others)]

    (alone,) = found_by(tmp_path / "one", 1)
    data = Uneven()
    data.allow_zero_length_dataloader_with_multiple_devices = True
    assert found_by(tmp_path / "two", 2, data, use_distributed_sampler=False) == [alone, alone]


class Stream(IterableDataset):
    def __init__(self, dataset):
        self.dataset = dataset

    def __iter__(self):
        return iter(self.dataset)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda test: DataLoader(Stream(test), 4), "has no sampler"),
        (lambda test: DataLoader(test, 4, sampler=RandomSampler(test)), "is random"),
    ],
)
def test_loaders_of_unknown_order_are_refused(tmp_path, loader, message):
    class Unknown(Data):
        def test_dataloader(self):
            return [loader(test) for test in self.tests]

    found_by(tmp_path / "one", 1, Unknown())  # one process counts what comes
    with pytest.raises(Exception, match=message):
        found_by(tmp_path / "two", 2, Unknown(), use_distributed_sampler=False)


def test_loaders_that_draw_whole_batches_are_understood(tmp_path):
    class Batches(TensorDataset):
        def __getitem__(self, index):
            return tuple(tensor[4 * index : 4 * index + 4] for tensor in self.tensors)

        def __len__(self):
            return -(-len(self.tensors[0]) // 4)

    class Whole(LightningDataModule):
        def __init__(self):
            super().__init__()
            self.plain = Data()
            self.test_sets = self.plain.test_sets

        def loader(self, dataset):
            return DataLoader(Batches(*dataset.tensors), batch_size=None)

        def train_dataloader(self):
            return self.loader(self.plain.train)

        def val_dataloader(self):
            return self.loader(self.plain.validation)

        def test_dataloader(self):
            return [self.loader(test) for test in self.plain.tests]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0].float() - 3, batch[1]

    (alone,) = found_by(tmp_path / "one", 1)
    assert found_by(tmp_path / "whole", 1, Whole()) == [alone]
    assert found_by(tmp_path / "two", 2, Whole()) == [alone, alone]


def test_rows_of_one_process_are_sorted_and_unique():
    class Alone:
        world_size = 1

    table = {"key": torch.tensor([3, 1, 3, 0]), "value": torch.tensor([30.0, 10.0, 31.0, 0.0])}
    found = gather_rows(Alone(), table)
    assert found["key"].tolist() == [0, 1, 3]
    assert found["value"].tolist() == [0.0, 10.0, 30.0]
