"""Data modules of tables: formats, splits, standardisation, batches, bad input."""

import gzip
import json
import os
from itertools import chain
from pathlib import Path

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
from torch.utils.data import RandomSampler

from datamodules import CSVRegressionDataModule, UCIRegressionDataModule
from datamodules.tables import sources as tabular_sources
from datamodules.tables import text as tables
from datamodules.tables.base import RowSet, TabularDataModule
from datamodules.tables.sources import TABLES
from datamodules.tables.text import Table, equal_rows, split_rows
from zoo.command_line import messages as errors

ZOO_DATA = os.environ.get("ZOO_DATA", "")
REAL = {  # rows, features, first label and sum of the labels
    "bike-sharing": (17_379, 12, 16, 3_292_679),
    "bostonHousing": (506, 13, 24.0, 11_401.6),
    "concrete": (1_030, 8, 79.99, 36_892.5),
    "energy": (768, 8, 15.55, 17_131.93),
    "naval-propulsion-plant": (11_934, 16, 0.95, 11_635.65),
    "power-plant": (9_568, 4, 480.48, 4_347_364.41),
    "wine-quality-red": (1_599, 11, 5, 9_012),
    "yacht": (308, 6, 0.11, 3_232.57),
}


class Numbered(TabularDataModule):
    """A user's own table: row i has the features (i, -i, 7) and the label 10 i, so that every row can be recognised."""

    name, num_features, target_name = "numbered", 3, "ten times the number"
    count = 50

    def load_table(self):
        number = np.arange(self.count, dtype=np.float64)
        return Table(np.stack((number, -number, np.full(self.count, 7.0)), 1), 10 * number)


class Recorder(pl.LightningModule):
    """Keeps the labels that each stage got; they identify the rows of ``Numbered``."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch[1].tolist())
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["val"].append(batch[1].tolist())

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch[1].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def rows_of(data):
    """The numbers of the rows of ``Numbered`` in training, validation and test."""
    return [(rows.targets / 10).long().tolist() for rows in data.sets()]


def raw(data, rows):
    """Features as they were measured, (N, D) float64."""
    return rows.features.double().numpy() * np.where(np.isinf(data.std), 0, data.std) + data.mean


def joined(data):
    """All rows of the three sets, features first, sorted by all columns; constant columns are the training mean."""
    sets = data.sets()
    table = np.concatenate([np.column_stack((raw(data, rows), rows.targets.double().numpy())) for rows in sets])
    return table[np.lexsort(table.T)]


def csv_file(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text)
    return str(path)


def table_text(count=20, columns=("a", "b", "y"), delimiter=","):
    random = np.random.default_rng(0)
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(f"{value:.3f}" for value in random.normal(size=len(columns))) for _ in range(count)]
    return "\n".join(lines) + "\n"


# --- splits ---


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


# --- standardisation and batches ---


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


# --- published formats ---


@pytest.mark.parametrize("name", REAL)
def test_the_real_tables_are_read(name):
    if not Path(ZOO_DATA, "uci", name).is_dir():
        pytest.skip(f"ZOO_DATA does not lead to a folder with uci/{name}")
    count, features, first, total = REAL[name]
    data = UCIRegressionDataModule(name, ZOO_DATA)
    assert data.num_features == features
    data.prepare_data()
    table = data.load_table()
    assert table.features.shape == (count, features)
    assert table.target[0] == first
    assert table.target.sum() == pytest.approx(total, rel=1e-6)
    sets = data.sets()
    assert sum(len(rows) for rows in sets) == count
    assert abs(len(sets[2]) - 0.2 * count) <= 2
    for rows in sets:
        assert rows.features.isfinite().all()
    assert torch.allclose(sets[0].features.mean(0), torch.zeros(features), atol=1e-4)
    deviation = sets[0].features.std(0)
    assert torch.allclose(deviation[deviation > 0], torch.ones(1), atol=1e-2)
    assert int((deviation == 0).sum()) == (2 if name == "naval-propulsion-plant" else 0)


@pytest.mark.skipif(not Path(ZOO_DATA, "uci", "bike-sharing").is_dir(), reason="ZOO_DATA has no uci/bike-sharing")
def test_the_parts_of_the_bike_sharing_target_are_no_features():
    table = UCIRegressionDataModule("bike-sharing", ZOO_DATA).load_table()
    hours = "season yr mnth hr holiday weekday workingday weathersit temp atemp hum windspeed"
    assert table.feature_names == tuple(hours.split())
    path = Path(ZOO_DATA, "uci", "bike-sharing", "hour.csv")
    leaking = CSVRegressionDataModule(str(path), "cnt", drop=["instant", "dteday"])
    assert leaking.num_features == 14
    days = CSVRegressionDataModule(str(path), "cnt", ["instant", "casual", "registered"], group="dteday")
    assert len(set(days.load_table().groups)) == 731
    full = leaking.load_table().features
    assert np.array_equal(full[:, -2] + full[:, -1], table.target)


def numbers_like(count, columns, seed=0):
    return np.random.default_rng(seed).normal(size=(count, columns)).round(4)


def lines_of(values, delimiter=" ", end=""):
    return "".join(delimiter.join(f"{value:g}" for value in row) + end + "\n" for row in values)


WHITE_SPACE = {
    name: file
    for name, source in TABLES.items()
    for file in source.files
    if file.endswith((".data", "data.txt"))  # the last one of a name counts: the raw file
}


@pytest.mark.parametrize("name", WHITE_SPACE)
@pytest.mark.parametrize("folder", ["uci/{}", "{}", "."])
def test_white_space_tables_are_read_by_their_raw_names_from_each_place(name, folder, tmp_path):
    file, count = WHITE_SPACE[name], TABLES[name].num_features
    values = numbers_like(12, count + 2)
    path = tmp_path / folder.format(name) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines_of(values, "  ", end=" ") + "\n\n")  # blank lines at the end, as in the yachts' file
    data = UCIRegressionDataModule(name, str(tmp_path))
    if folder == "." and file == "data.txt":  # whose data that would be cannot be told
        with pytest.raises(FileNotFoundError, match=f"{name} is not in data_dir="):
            data.prepare_data()
        return
    table = data.load_table()
    assert np.array_equal(table.features, values[:, :count])
    assert np.array_equal(table.target, values[:, count])
    assert table.lines.tolist() == list(range(1, 13))


def test_index_files_choose_the_columns(tmp_path):
    folder = tmp_path / "yacht"
    folder.mkdir()
    values = numbers_like(12, 9)
    (folder / "data.txt").write_text(lines_of(values, "\t"))
    (folder / "index_features.txt").write_text("8\n7\n6\n5\n4\n3\n")
    (folder / "index_target.txt").write_text("0\n")
    table = UCIRegressionDataModule("yacht", str(tmp_path)).load_table()
    assert np.array_equal(table.features, values[:, [8, 7, 6, 5, 4, 3]])
    assert np.array_equal(table.target, values[:, 0])
    for text, message in (
        ("0 1\n", r"must name different columns and one target, got features .* and target \[0, 1\]"),
        ("8\n", r"must name different columns and one target, got .* target \[8\]"),
        ("cnt\n", r"index_target\.txt must hold numbers of columns, counted from 0, got 'cnt'"),
        ("\n", r"index_target\.txt must hold numbers of columns"),
        ("9\n", r"data\.txt has 9 columns, but at least 10 were expected"),
    ):
        (folder / "index_target.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            UCIRegressionDataModule("yacht", str(tmp_path)).setup("fit")
    (folder / "index_target.txt").write_text("0\n")
    (folder / "index_features.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match="has 2 features, but yacht has 6: another version"):
        UCIRegressionDataModule("yacht", str(tmp_path)).setup("fit")


def test_the_wine_format_has_semicolons_and_quoted_names(tmp_path):
    values = numbers_like(12, 12)
    names = ";".join(f'"{name}"' for name in ("fixed acidity", *"bcdefghijk", "quality"))
    (tmp_path / "winequality-red.csv").write_text(names + "\n" + lines_of(values, ";"))
    table = UCIRegressionDataModule("wine-quality-red", str(tmp_path)).load_table()
    assert np.array_equal(table.features, values[:, :11])
    assert np.array_equal(table.target, values[:, 11])
    assert table.feature_names[0] == "fixed acidity"
    assert table.lines[0] == 2


def test_the_bike_sharing_format_loses_its_leak_and_its_dates(tmp_path):
    head = "instant,dteday,season,yr,mnth,hr,holiday,weekday,workingday,weathersit,temp,atemp,hum,windspeed"
    rows = [f"{i},2011-01-{i + 1:02},1,0,1,{i},0,6,0,1,0.{i + 1},0.28,0.8,0,{i},{2 * i},{3 * i}" for i in range(9)]
    (tmp_path / "hour.csv").write_text("\n".join([head + ",casual,registered,cnt", *rows]))
    data = UCIRegressionDataModule("bike-sharing", str(tmp_path))
    table = data.load_table()
    assert table.features[3].tolist() == [1, 0, 1, 3, 0, 6, 0, 1, 0.4, 0.28, 0.8, 0]
    assert table.target.tolist() == [3 * i for i in range(9)]
    assert data.num_features == 12


def test_the_ct_format_keeps_the_slices_of_a_patient_together(tmp_path):
    patients = np.repeat(np.arange(8), (3, 9, 5, 7, 4, 2, 6, 4))
    values = numbers_like(40, 385)
    head = ",".join(["patientId", *(f"value{i}" for i in range(384)), "reference"])
    (tmp_path / "slice_localization_data.csv").write_text(
        head + "\n" + lines_of(np.column_stack((patients, values)), ",")
    )
    data = UCIRegressionDataModule("ct-slices", str(tmp_path), val_share=0.3)
    table = data.load_table()
    assert np.array_equal(table.features, values[:, :384])
    assert np.array_equal(table.target, values[:, 384])
    of = {np.float32(y): patient for y, patient in zip(values[:, 384], patients, strict=True)}
    train, val, test = ({of[y] for y in rows.targets.numpy()} for rows in data.sets())
    assert (train | val | test) == set(range(8))
    assert len(train) + len(val) + len(test) == 8
    assert min(len(train), len(val), len(test)) >= 1
    by_row = CSVRegressionDataModule(
        str(tmp_path / "slice_localization_data.csv"), "reference", drop=["patientId"]
    ).sets()
    assert {of[y] for y in by_row[0].targets.numpy()} & {of[y] for y in by_row[2].targets.numpy()}


@pytest.mark.parametrize("file", ["201_pol.tsv", "201_pol.tsv.gz"])
def test_the_pole_format_has_tabs_and_may_be_packed(file, tmp_path):
    values = numbers_like(12, 49)
    text = "\t".join([*(f"f{i}" for i in range(1, 49)), "target"]) + "\n" + lines_of(values, "\t")
    (tmp_path / file).write_bytes(gzip.compress(text.encode()) if file.endswith("gz") else text.encode())
    table = UCIRegressionDataModule("pole", str(tmp_path)).load_table()
    assert np.array_equal(table.features, values[:, :48])
    assert np.array_equal(table.target, values[:, 48])


def test_the_song_format_has_the_year_first_and_an_official_split(tmp_path, monkeypatch):
    values = numbers_like(30, 91)
    values[:, 0] = 1990 + np.arange(30)
    (tmp_path / "YearPredictionMSD.txt").write_text(lines_of(values, ","))
    songs = {"name": "year-prediction-msd", "data_dir": str(tmp_path)}
    table = UCIRegressionDataModule(**songs).load_table()
    assert np.array_equal(table.features, values[:, 1:])
    assert np.array_equal(table.target, values[:, 0])
    with pytest.raises(ValueError, match="official_split: year-prediction-msd has 30 rows here"):
        UCIRegressionDataModule(**songs, official_split=True).setup("fit")
    assert tabular_sources.OFFICIAL_SONGS == (463_715, 51_630)
    monkeypatch.setattr(tabular_sources, "OFFICIAL_SONGS", (24, 6))
    train, val, test = UCIRegressionDataModule(**songs, official_split=True, val_share=0.25).sets()
    assert test.targets.tolist() == values[24:, 0].tolist()
    assert (len(train), len(val)) == (18, 6)
    drawn = UCIRegressionDataModule(**songs).sets()[2]
    assert len(drawn) == 6
    assert drawn.targets.tolist() != test.targets.tolist()


@pytest.mark.parametrize("name", [name for name in TABLES if name != "diabetes"])
def test_a_missing_file_gives_its_name_its_place_and_its_source(name, tmp_path):
    data = UCIRegressionDataModule(name, str(tmp_path / "nowhere"))  # construction looks for nothing
    for failing in (data.prepare_data, lambda: data.setup("fit")):
        with pytest.raises(FileNotFoundError) as caught:
            failing()
        message = str(caught.value)
        assert message.startswith(f"{name} is not in data_dir={str(tmp_path / 'nowhere')!r}")
        assert all(file in message for file in TABLES[name].files)
        assert f"{os.path.join('nowhere', 'uci', name)}'" in message
        assert "Get " in message


# --- a user's own file ---


def test_an_own_file_is_read_by_the_names_of_its_columns(tmp_path):
    text = "id;height;city;weight;age\n" + "".join(
        f"{i};{1 + i / 10};town {i % 3};{50 + i};{20 + i}\n" for i in range(20)
    )
    path = csv_file(tmp_path, "\ufeff" + text, "people.csv")
    data = CSVRegressionDataModule(path, target="weight", drop=["id"], group="city", val_share=0.2)
    assert (data.name, data.num_features, data.target_name) == ("people", 2, "weight")  # before the file is read
    assert data.test_sets == ("people",)
    table = data.load_table()
    assert table.features[4].tolist() == [1.4, 24]
    assert table.target[4] == 54
    assert table.groups[4] == "town 1"
    assert table.feature_names == ("height", "age")
    towns = [{int(y) % 3 for y in rows.targets - 50} for rows in data.sets()]
    assert sorted(len(town) for town in towns) == [1, 1, 1]
    assert set.union(*towns) == {0, 1, 2}


@pytest.mark.parametrize(("delimiter", "name"), [(",", "a.csv"), (";", "a.txt"), ("\t", "a.tsv"), (",", "a.csv.gz")])
def test_delimiters_are_recognised(delimiter, name, tmp_path):
    text = table_text(delimiter=delimiter)
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    data = CSVRegressionDataModule(str(tmp_path / name), "y")
    assert (data.num_features, data.name) == (2, "a")
    assert sum(len(rows) for rows in data.sets()) == 20


def test_many_rows_are_read_over_the_borders_of_blocks(tmp_path):
    count = 2 * tables.BLOCK + 3
    text = "a,b,y\n" + "".join(f"{i},{i % 7},{2 * i}\n" for i in range(count)) + "\n"
    table = CSVRegressionDataModule(csv_file(tmp_path, text), "y").load_table()
    assert table.features[:, 0].tolist() == list(range(count))
    assert (table.target == 2 * table.features[:, 0]).all()
    assert table.lines.tolist() == list(range(2, count + 2))
    with pytest.raises(ValueError, match=rf"line {count + 3} of .* has 2 columns, but line 1 has 3"):
        CSVRegressionDataModule(csv_file(tmp_path, text + "1,2\n"), "y").setup("fit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "z"}, r"target='z' is no column of .*table\.csv, which has age, price, rooms$"),
        ({"target": "prise"}, r"target='prise' is no column .* did you mean 'price'\?"),
        ({"target": "price", "drop": ["room"]}, r"drop='room' is no column .* did you mean 'rooms'\?"),
        ({"target": "price", "group": "patient"}, r"group='patient' is no column"),
        ({"target": "price", "drop": ["price"]}, r"target='price', group=None and drop=\['price'\] must be different"),
        ({"target": "price", "group": "age", "drop": ["age"]}, r"group='age' and drop=\['age'\] must be different"),
        ({"target": "price", "drop": ["age", "rooms"]}, "no feature is left of the columns of .*: age, price, rooms"),
        ({"target": "price", "path": "nowhere.csv"}, "path: no file 'nowhere.csv'"),
    ],
)
def test_columns_and_files_that_do_not_exist_are_refused_at_construction(arguments, message, tmp_path):
    path = csv_file(tmp_path, table_text(columns=("age", "price", "rooms")))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        CSVRegressionDataModule(**({"path": path} | arguments))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "table.csv is empty"),
        ("\n \n", "table.csv is empty"),
        ("1,2,3\n4,5,6\n", "table.csv has no header: its first line should name the columns, but is '1,2,3'"),
        ("a,y,a\n1,2,3\n", "table.csv has two columns called 'a'"),
        (",a,y\n0,1,2\n", "column 0 of .*table.csv has no name; it often is the row's number"),
        ("a,y\n", "table.csv has no rows"),
        ("a,y\n \n\n\t\n", "table.csv has no rows"),
        ("a,y\n1,2\n3\n", "line 3 of .*table.csv has 1 columns, but line 1 has 2"),
        ("a,y\n1,2\n\n3,4,5\n", "line 4 of .*table.csv has 3 columns, but line 1 has 2"),
        ("a,b,y\n1,2,3\n1,red,3\n", "column 'b' holds 'red', which is no number, in line 3 of .*table.csv;"),
        ("a,b,y\nred,1,blue\n", r"column 'a' holds 'red'.* could be left out by drop: \['a', 'y'\]"),
        ("a,y\n1,\n", "column 'y' has no value, in line 2 of"),
        ("a;y\n1,5;2\n", "column 'a' holds '1,5', which is no number, in line 2"),
        ("a,y\n?,2\n", r"column 'a' holds '\?', which is no number"),
        (
            "a,y\n1,2\nnan,3\n4,5\n",
            "table: NaN, infinite or beyond float32 in 1 of 3 rows: 'a' is nan in line 3; all: 3$",
        ),
        ("a,y\n1,2\n3,inf\n-inf,5\n", "in 2 of 3 rows: 'y' is inf in line 3; all: 3, 4$"),
        ("a,y\n1,1e39\n2,3\n", r"in 1 of 2 rows: 'y' is 1e\+39 in line 2"),
        ("a,y\n" + "".join(f"{i},nan\n" for i in range(30)), "in 30 of 30 rows: .* and 18 more$"),
        ("a,y\n1,2\n", r"1 rows are too few: test_share=0.2 and val_share=0.1 leave 0 rows to train on \(at least 2\)"),
        ("a,y\n1,2\n2,3\n3,4\n", r"3 rows are too few: .* leave 1 rows to train on \(at least 2\)"),
        ("a,y\n" + "".join(f"{i},5\n" for i in range(9)), "the target 'y' of table is 5 in all 6 training rows"),
        ('a,y\n"1,2\n', "column 'a'|columns"),
    ],
)
def test_bad_files_are_refused_with_the_place_and_what_was_expected(text, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        CSVRegressionDataModule(csv_file(tmp_path, text), "y").setup("fit")
    assert errors.expected(caught.value) == str(caught.value)  # the command line shows it, and no traceback


def test_numbers_that_fit_into_float32_are_no_error_where_their_sum_does_not():
    class Large(Numbered):
        def load_table(self):
            table = super().load_table()
            table.features[:] = 6e36 * np.abs(table.features)  # each fits into float32, the sum of a row does not
            return table

    assert Large().sets()[0].features.abs().max() < 4


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,y\n1,\xff\xfe\n")
    with pytest.raises(ValueError, match=r"a\.csv is no text in UTF-8: invalid start byte at byte 6") as caught:
        CSVRegressionDataModule(str(tmp_path / "a.csv"), "y").setup("fit")
    assert errors.expected(caught.value)
    (tmp_path / "b.csv.gz").write_text("a,y\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv\.gz cannot be read: Not a gzipped file"):
        CSVRegressionDataModule(str(tmp_path / "b.csv.gz"), "y")
    packed = gzip.compress(table_text(500).encode())
    for damaged in (packed[:-200], packed[:200] + bytes(50) + packed[250:]):
        (tmp_path / "b.csv.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"b\.csv\.gz|column"):
            CSVRegressionDataModule(str(tmp_path / "b.csv.gz"), "y").setup("fit")


def test_groups_that_are_too_few_or_missing_are_refused(tmp_path):
    rows = "".join(f"{i},{2 * i},{i % 2}\n" for i in range(10))
    path = csv_file(tmp_path, "a,y,subject\n" + rows)
    with pytest.raises(ValueError, match=r"2 groups \(rows of one group stay together\) are too few"):
        CSVRegressionDataModule(path, "y", group="subject").setup("fit")
    assert len(CSVRegressionDataModule(path, "y", group="subject", val_share=0).sets()[2]) == 5
    path = csv_file(tmp_path, "a,y,subject\n" + rows + "3,4, \n")
    with pytest.raises(ValueError, match=r"the group has no value in line 12 of"):
        CSVRegressionDataModule(path, "y", group="subject").setup("fit")


# --- other bad input ---


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


# --- command line ---


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


# ---------------------------------------------------------------- rows that repeat another one


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
