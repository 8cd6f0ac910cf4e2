"""`RegressionCalibration` on several processes: each row counts once, and the metrics are those of one process."""

import json

import pytest
import torch
from evaluation_toys import Dump
from regression_toys import Regressor, Table, histogram, run_test
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from callbacks import RegressionCalibration


def results_of(folder, devices, data=None, module=None, **options):
    folder.mkdir()
    strategy = {"strategy": "ddp_fork"} if devices > 1 else {}
    run_test([RegressionCalibration(), Dump(folder)], module, data, devices=devices, **strategy, **options)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


def assert_close(found, expected):
    """Equal but for the last digits: a row's sums depend on the rows beside it by what the processor adds at once."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-9, abs=1e-12) if isinstance(expected, float) else expected)


class TestProcesses:
    @pytest.fixture(autouse=True)
    def cpu_only(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.delenv("MASTER_PORT", raising=False)
        torch.set_num_threads(1)

    @pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.long), 3])
    def test_several_processes_give_the_metrics_of_one(self, tmp_path, devices):
        (alone,) = results_of(tmp_path / "one", 1)
        together = results_of(tmp_path / "many", devices)
        assert alone[0][0]["samples"] == 43  # the sampler repeated samples: 43 and 60 rows, 8 a batch
        for rank in together:
            assert_close(rank, alone)
            assert rank == together[0]

    def test_a_histogram_and_whole_test_sets_on_every_process(self, tmp_path):
        module = Regressor(histogram)
        (alone,) = results_of(tmp_path / "one", 1, module=module)
        for rank in results_of(tmp_path / "two", 2, module=module, use_distributed_sampler=False):
            assert_close(rank, alone)

    def test_one_row_on_two_processes(self, tmp_path):
        (alone,) = results_of(tmp_path / "one", 1, Table(1, 1))
        for rank in results_of(tmp_path / "two", 2, Table(1, 1)):
            assert_close(rank, alone)

    @pytest.mark.parametrize("kind", ["stream", "random"])
    def test_loaders_of_unknown_order_are_refused(self, tmp_path, kind):
        class Stream(IterableDataset):
            def __init__(self, dataset):
                self.dataset = dataset

            def __iter__(self):
                return iter(self.dataset)

        class Unknown(Table):
            def test_dataloader(self):
                if kind == "stream":
                    return DataLoader(Stream(self.test), 8)
                return DataLoader(self.test, 8, sampler=RandomSampler(self.test))

        with pytest.raises(Exception, match="has no sampler" if kind == "stream" else "is random"):
            results_of(tmp_path / "two", 2, Unknown(), use_distributed_sampler=False)
