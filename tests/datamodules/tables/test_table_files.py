"""Tables from files: the published formats, a user's own file, and what is wrong with either."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from table_toys import REAL, ZOO_DATA, Numbered, csv_file, table_text

from datamodules import CSVRegressionDataModule, UCIRegressionDataModule
from datamodules.tables import sources as tabular_sources
from datamodules.tables import text as tables
from datamodules.tables.sources import TABLES
from zoo.command_line import messages as errors


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
