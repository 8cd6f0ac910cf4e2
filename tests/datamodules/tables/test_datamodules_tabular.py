"""Data modules of tables: splits, standardisation, batches, repeated rows, and arguments that are refused."""

import json
from itertools import chain

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from data_sets import trainer
from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_diabetes
from table_toys import Numbered, Recorder, csv_file, joined, rows_of, table_text
from torch.utils.data import RandomSampler

from datamodules import CSVRegressionDataModule, UCIRegressionDataModule
from datamodules.tables.base import RowSet, TabularDataModule
from datamodules.tables.text import Table, equal_rows, split_rows


@examples(150)
@given(
    count=st.integers(8, 80),
    seed=st.integers(0, 2**32 - 1),
    shares=st.tuples(st.floats(0.1, 0.5), st.floats(0.1, 0.5), st.floats(0.1, 0.5)),
)
def test_rows_are_parted_and_the_test_rows_do_not_depend_on_validation(count, seed, shares):
    test_share, val_share, other_val_share = shares
    train, val, test = split_rows(count, seed, test_share, val_share)
    assert sorted([*train, *val, *test]) == list(range(count))
    assert all((np.diff(rows) > 0).all() for rows in (train, val, test))
    assert abs(len(test) - test_share * count) <= 1
    assert abs(len(val) - val_share * (count - len(test))) <= 1
    for other in (other_val_share, 0.0):
        again = split_rows(count, seed, test_share, other)
        assert np.array_equal(again[2], test)
        smaller, larger = sorted((set(val), set(again[1])), key=len)
        assert smaller <= larger
    assert not len(again[1])


@examples(150)
@given(groups=st.lists(st.integers(0, 9), min_size=12, max_size=60), seed=st.integers(0, 99), share=st.floats(0.1, 0.4))
def test_rows_of_a_group_are_never_on_two_sides(groups, seed, share):
    groups = np.array(groups)
    assume(len(set(groups)) >= 6)
    try:
        parts = split_rows(len(groups), seed, share, share, groups)
    except ValueError:
        assume(False)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    train, val, test = (set(groups[rows]) for rows in parts)
    assert not train & val
    assert not train & test
    assert not val & test
    largest = np.bincount(groups).max()
    assert abs(len(parts[2]) - share * len(groups)) <= max(largest, 1)
    # the names of the groups play no role but by their order, and text is as good as numbers
    named = split_rows(len(groups), seed, share, share, np.array([f"patient {group}" for group in groups]))
    assert all(np.array_equal(a, b) for a, b in zip(parts, named, strict=True))


def test_the_split_is_the_same_on_every_machine_and_another_for_another_seed():
    # NumPy's legacy stream is frozen
    assert split_rows(10, 0, 0.2, 0.25)[2].tolist() == [2, 8]
    assert split_rows(10, 0, 0.2, 0.25)[1].tolist() == [4, 9]
    assert split_rows(10, 1, 0.2, 0.25)[2].tolist() == [2, 9]


def test_a_published_test_split_is_kept_and_the_seed_draws_validation_from_the_rest():
    test_rows = np.arange(20) >= 15
    drawn = [split_rows(20, seed, 0.5, 0.2, test_rows=test_rows) for seed in (0, 1)]
    for train, val, test in drawn:
        assert test.tolist() == [15, 16, 17, 18, 19]
        assert len(val) == 3
        assert sorted([*train, *val]) == list(range(15))
    assert drawn[0][1].tolist() != drawn[1][1].tolist()


def test_diabetes_is_embedded_and_split_into_319_35_88_rows_of_ten_features():
    data = UCIRegressionDataModule()
    assert (data.num_features, data.target_name, data.test_sets) == (10, "progression", ("diabetes",))
    data.prepare_data()
    data.setup("fit")
    train, val, test = data.sets()
    assert [len(rows) for rows in (train, val, test)] == [319, 35, 88]
    assert torch.equal(data.training_targets, train.targets)
    bunch = load_diabetes(scaled=False)
    expected = np.column_stack((bunch.data, bunch.target))
    assert np.allclose(joined(data), expected[np.lexsort(expected.T)], atol=1e-4)
    other = UCIRegressionDataModule(seed=1).sets()[2]
    assert sorted(other.targets.tolist()) != sorted(test.targets.tolist())


def test_features_are_standardised_by_the_training_rows_only_and_labels_keep_their_units():
    data = Numbered()
    train, val, test = rows_of(data)
    numbers = np.array(train, dtype=np.float64)
    for rows, kept in zip(data.sets(), (train, val, test), strict=True):
        expected = (np.array(kept) - numbers.mean()) / numbers.std()
        assert np.allclose(rows.features[:, 0], expected, atol=1e-6)
        assert np.allclose(rows.features[:, 1], -expected, atol=1e-6)
        assert (rows.features.dtype, rows.targets.dtype) == (torch.float32, torch.float32)
    assert abs(data.sets()[0].features[:, 0].mean()) < 1e-6
    assert abs(data.sets()[2].features[:, 0].mean()) > 1e-3
    assert torch.equal(data.standardise(np.array([[3.0, -3.0, 7.0]])), data.sets()[0].features[[train.index(3)]])


@pytest.mark.parametrize("value", [0.0, 0.1, 288.0, -1e30])
def test_a_column_that_is_constant_in_training_is_zero_everywhere(value):
    class Constant(Numbered):
        def load_table(self):
            table = super().load_table()
            test = split_rows(self.count, self.seed, self.test_share, self.val_share)[2]
            table.features[:, 2] = value
            table.features[test[0], 2] = 5e20
            return table

    for rows in Constant().sets():
        assert rows.features.isfinite().all()
        assert (rows.features[:, 2] == 0).all()
        assert rows.features[:, 0].std() > 0.1


def test_an_epoch_gives_every_training_row_once_in_a_new_order_and_each_with_its_label():
    data = Numbered(batch_size=8, val_share=0)
    loader, orders = data.train_dataloader(), []
    for _ in range(2):
        batches = list(loader)
        assert [len(x) for x, _ in batches] == [8, 8, 8, 8, 8]
        assert all((x.shape, y.shape) == ((8, 3), (8,)) for x, y in batches)
        x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
        assert torch.allclose(x[:, 0], (y / 10 - data.mean[0]) / data.std[0], atol=1e-5)
        assert sorted((y / 10).long().tolist()) == rows_of(data)[0]
        orders.append(y.tolist())
    assert orders[0] != orders[1]
    assert [len(y) for _, y in Numbered(batch_size=16).train_dataloader()] == [16, 16, 4]


def test_rows_are_fetched_a_batch_at_a_time(monkeypatch):
    def fail(self, index):
        raise AssertionError("a single row was fetched")

    monkeypatch.setattr(RowSet, "__getitem__", fail)
    assert len(list(Numbered().train_dataloader())) == 1
    rows = RowSet(torch.arange(12.0).view(6, 2), torch.arange(6.0))
    x, y = rows.__getitems__([4, 0, 4])
    assert (x.tolist(), y.tolist()) == ([[8, 9], [0, 1], [8, 9]], [4, 0, 4])


def test_a_trainer_runs_all_stages_and_the_table_is_read_once():
    class Counted(Numbered):
        reads = 0

        def load_table(self):
            self.reads += 1
            return super().load_table()

    data, module = Counted(batch_size=16, eval_batch_size=3), Recorder()
    runner = trainer(num_sanity_val_steps=0)
    runner.fit(module, data)
    runner.test(module, data, verbose=False)
    assert data.reads == 1
    train, val, test = ([10 * row for row in rows] for rows in rows_of(data))
    assert sorted(chain(*module.seen["train"])) == train
    assert module.seen["val"] == [val[:3], val[3:]]  # in order
    assert list(chain(*module.seen["test"])) == test
    assert [len(batch) for batch in module.seen["test"]] == [3, 3, 3, 1]
    assert [y.tolist() for _, y in data.predict_dataloader()] == module.seen["test"]


def test_without_validation_lightning_skips_it():
    module = Recorder()
    trainer(num_sanity_val_steps=2).fit(module, Numbered(val_share=0))
    assert not module.seen["val"]
    assert len(module.seen["train"]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="pinned memory cannot be used in a fork after CUDA has begun")
def test_lightning_gives_two_real_processes_disjoint_halves(tmp_path):
    class Writer(Recorder):
        def on_train_end(self):
            (tmp_path / f"{self.global_rank}.json").write_text(json.dumps(list(chain(*self.seen["train"]))))

    data = Numbered(batch_size=5, val_share=0)
    trainer(devices=2, strategy="ddp_fork", num_sanity_val_steps=0).fit(Writer(), data)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(first) == len(second) == 20
    assert sorted(first + second) == [10.0 * row for row in rows_of(data)[0]]


def test_an_epoch_fetches_whole_batches_and_no_single_row(monkeypatch):
    fetched: list[int] = []
    whole = RowSet.__getitems__

    def counting(self: RowSet, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        fetched.append(len(indices))
        return whole(self, indices)

    monkeypatch.setattr(RowSet, "__getitems__", counting)
    monkeypatch.setattr(RowSet, "__getitem__", None)
    loader = Numbered().loader(RowSet(torch.randn(17_000, 12), torch.randn(17_000)), 256, shuffle=True)
    assert isinstance(loader.sampler, RandomSampler)
    assert sum(len(y) for _, y in loader) == 17_000
    assert fetched == [256] * 66 + [104]


def test_arguments_are_kept_for_reports():
    assert UCIRegressionDataModule("yacht", seed=3).hparams == {
        "name": "yacht", "data_dir": "data", "batch_size": 256, "eval_batch_size": 1024, "seed": 3,
        "test_share": 0.2, "val_share": 0.1, "official_split": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "naval-propulsion"},
            r"unknown table 'naval-propulsion'; there are diabetes, .* did you mean 'naval-",
        ),
        ({"name": "moon"}, "unknown table 'moon'; there are diabetes, bike-sharing"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"eval_batch_size": -1}, "eval_batch_size must be at least 1, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**32}, r"seed must be below 2\*\*32, got 4294967296"),
        ({"test_share": 0}, r"test_share must lie in \(0, 1\), got 0"),
        ({"test_share": 1.0}, r"test_share must lie in \(0, 1\), got 1"),
        ({"test_share": float("nan")}, r"test_share must lie in \(0, 1\), got nan"),
        ({"val_share": 1}, r"val_share must lie in \[0, 1\), got 1"),
        ({"val_share": -0.1}, r"val_share must lie in \[0, 1\), got -0.1"),
        ({"val_share": float("nan")}, r"val_share must lie in \[0, 1\), got nan"),
        ({"official_split": True}, "diabetes has no published test split, only year-prediction-msd has one"),
    ],
)
def test_bad_arguments_are_refused_at_construction_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        UCIRegressionDataModule(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": np.zeros(50)}, r"must have features \(N, D\) and target \(N,\), got \(50,\)"),
        ({"target": np.zeros((50, 1))}, r"must have features .*'target': \(50, 1\)"),
        ({"groups": np.zeros(49)}, r"'groups': \(49,\)"),
        ({"target": np.full(50, np.nan)}, "in 50 of 50 rows: 'ten times the number' is nan in row 0"),
        ({"target": np.full(50, 4.5)}, "the target 'ten times the number' of numbered is 4.5 in all 36 training rows"),
    ],
)
def test_bad_numbers_of_an_own_table_are_refused(change, message):
    class Bad(Numbered):
        def load_table(self):
            table = super().load_table()
            return Table(**({"features": table.features, "target": table.target} | change))

    with pytest.raises(ValueError, match=message):
        Bad().setup("fit")


def test_a_subclass_must_read_its_table():
    with pytest.raises(NotImplementedError, match="TabularDataModule must override load_table"):
        TabularDataModule().load_table()


def test_the_command_line_builds_them(monkeypatch, tmp_path):
    def built(*arguments):
        monkeypatch.setattr("sys.argv", ["train.py"])
        return LightningCLI(
            pl.LightningModule, pl.LightningDataModule, subclass_mode_model=True, subclass_mode_data=True, run=False,
            save_config_callback=None,
            args=["--model", "lightning.pytorch.demos.boring_classes.BoringModel", *arguments],
        ).datamodule  # fmt: skip

    data = built("--data", "UCIRegressionDataModule", "--data.name", "yacht", "--data.val_share", "0")
    assert (data.name, data.num_features, data.val_share) == ("yacht", 6, 0)
    path = csv_file(tmp_path, table_text(columns=("age", "id", "price", "town")))
    own = ("--data.path", path, "--data.target", "price", "--data.drop", "[id]", "--data.group", "town")
    data = built("--data", "CSVRegressionDataModule", *own)
    assert (data.num_features, data.drop, data.group) == (1, ("id",), "town")
    assert data.hparams["path"] == path


def test_rows_that_repeat_another_one_are_never_on_two_sides(tmp_path):
    random = np.random.default_rng(0)
    rows = random.integers(3, size=(200, 3)).astype(float)  # 27 different ones
    path = tmp_path / "table.csv"
    path.write_text("a,b,y\n" + "\n".join(",".join(map(str, row)) for row in rows))
    data = CSVRegressionDataModule(str(path), "y", val_share=0.2)
    sides = [{tuple(row) for row in torch.cat([s.features, s.targets[:, None]], 1).tolist()} for s in data.sets()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 27
    assert sum(map(len, data.sets())) == 200


def test_where_all_rows_differ_single_rows_are_drawn():
    features, target = np.arange(12.0).reshape(6, 2), np.zeros(6)
    assert equal_rows(Table(features, target)) is None
    assert equal_rows(Table(features[[0, 1, 0, 2, 1]], target[:5])).tolist() == [0, 1, 0, 3, 1]
    assert equal_rows(Table(features[[0, 0]], np.array([0.0, 1.0]))) is None
    assert equal_rows(Table(np.array([[0.0], [-0.0]]), target[:2])).tolist() == [0, 0]
