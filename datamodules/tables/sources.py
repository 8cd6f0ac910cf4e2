"""The published regression tables: where their files lie, in which formats, and what is to be predicted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

from .text import Table, choose_features, read_header, read_rows

OFFICIAL_SONGS = (463_715, 51_630)  # to train and to test on, in the order of the file: no producer is on both sides


@dataclass(frozen=True)
class TableSource:
    """One published table.

    Attributes:
        name: As in ``UCIRegressionDataModule(name=...)``.
        title: What its publisher calls it.
        num_features: Columns to predict from.
        target: What is predicted.
        files: Files that may hold it, each with what reads it; the first that is found counts. It lies in
            ``<data_dir>/uci/<name>`` or ``<data_dir>/<name>`` or, unless it is called ``data.txt``, in ``data_dir``.
        embedded: Gives it without a file.
        official_split: Whether it has a published test split.
    """

    name: str
    title: str
    num_features: int
    target: str
    files: Mapping[str, Callable[[Path], Table]]
    embedded: Callable[[], Table] | None = None
    official_split: bool = False

    def find(self, data_dir: str) -> tuple[Path, Callable[[Path], Table]]:
        """The file of the table, and what reads it.

        Raises:
            FileNotFoundError: There is none; the message says which were looked for, and where.
        """
        own = [Path(data_dir, "uci", self.name), Path(data_dir, self.name)]
        for file, read in self.files.items():
            for folder in (*own, *([] if file == "data.txt" else [Path(data_dir)])):
                if (folder / file).is_file():
                    return folder / file, read
        raise FileNotFoundError(
            f"{self.name} is not in data_dir={data_dir!r}: it needs {' or '.join(self.files)} in "
            f"{str(own[0])!r} or {str(own[1])!r}. Get {self.title}, and put it there"
        )

    def load(self, data_dir: str) -> Table:
        """Reads the table.

        Raises:
            FileNotFoundError: The file is missing.
            ValueError: The file holds something else.
        """
        if self.embedded is not None:
            return self.embedded()
        path, read = self.find(data_dir)
        table = read(path)
        if table.features.shape[1] != self.num_features:
            raise ValueError(
                f"{path} has {table.features.shape[1]} features, but {self.name} has {self.num_features}: "
                "another version of it? CSVRegressionDataModule reads any table"
            )
        return table


def _diabetes() -> Table:
    bunch = load_diabetes(scaled=False)  # the scaled one was standardised with the test rows
    return Table(bunch.data, bunch.target, feature_names=tuple(bunch.feature_names))


def _white_space(num_features: int) -> Callable[[Path], Table]:
    def read(path: Path) -> Table:
        """Columns between white space. ``index_*.txt`` beside it count them from 0; else the target is the next."""
        features = _indices(path.with_name("index_features.txt"), list(range(num_features)))
        (target, *more) = _indices(path.with_name("index_target.txt"), [num_features])
        if more or target in features or len(set(features)) < len(features):
            raise ValueError(
                f"the index files beside {path} must name different columns and one target, got "
                f"features {features} and target {[target, *more]}"
            )
        return read_rows(path, {number: f"column {number}" for number in (*features, target)}, None)

    return read


def _indices(path: Path, otherwise: list[int]) -> list[int]:
    if not path.is_file():
        return otherwise
    words = path.read_text(encoding="utf-8").split()
    if not words or not all(word.isdecimal() for word in words):
        raise ValueError(f"{path} must hold numbers of columns, counted from 0, got {' '.join(words)[:60]!r}")
    return [int(word) for word in words]


def read_csv(path: Path, target: str, drop: tuple[str, ...] = (), group: str | None = None) -> Table:
    """Reads a text file as ``CSVRegressionDataModule`` describes it.

    Raises:
        ValueError: A column is missing or holds text, or rows differ in their number of columns.
    """
    names, delimiter = read_header(path)
    features = choose_features(path, names, target, drop, group)
    columns = {number: names[number] for number in (*features, names.index(target))}
    return read_rows(path, columns, delimiter, header=True, group=None if group is None else names.index(group))


def _songs(path: Path) -> Table:
    """Columns between commas without a header: the year first, then 90 features of the timbre."""
    table = read_rows(path, {number: f"column {number}" for number in (*range(1, 91), 0)}, ",")
    complete = len(table.target) == sum(OFFICIAL_SONGS)
    return replace(table, test_rows=np.arange(len(table.target)) >= OFFICIAL_SONGS[0] if complete else None)


def _with_header(target: str, drop: tuple[str, ...] = (), group: str | None = None) -> Callable[[Path], Table]:
    return lambda path: read_csv(path, target, drop, group)


UCI = "of the UCI Machine Learning Repository"
SHEET = f"{UCI} (its sheet saved as text: white space between columns, no header)"


def _text(name: str, title: str, num_features: int, target: str, *more: str) -> TableSource:
    """A table whose files, ``data.txt`` and `more`, have their columns between white space."""
    read = _white_space(num_features)
    return TableSource(name, title, num_features, target, dict.fromkeys(("data.txt", *more), read))


_CT_SLICES = {"slice_localization_data.csv": _with_header("reference", group="patientId")}
# casual + registered = cnt; instant is the row's number, and dteday a date, which yr, mnth and hr tell of
_RENTALS = {"hour.csv": _with_header("cnt", ("instant", "dteday", "casual", "registered"))}
_POLE = dict.fromkeys(("201_pol.tsv.gz", "201_pol.tsv"), _with_header("target"))
_WINE = {"data.txt": _white_space(11), "winequality-red.csv": _with_header("quality")}
_NAVAL = f"'Condition Based Maintenance of Naval Propulsion Plants' {UCI}"
_SLICES = f"'Relative location of CT slices on axial axis' {UCI}"
_SONGS = {"YearPredictionMSD.txt": _songs}
TABLES = {
    table.name: table
    for table in (
        TableSource("diabetes", "scikit-learn's diabetes", 10, "progression", {}, _diabetes),
        TableSource("bike-sharing", f"'Bike Sharing' {UCI}", 12, "cnt", _RENTALS),
        _text("bostonHousing", f"'Housing', once {UCI}", 13, "median value", "housing.data"),
        _text("concrete", f"'Concrete Compressive Strength' {SHEET}", 8, "compressive strength"),
        TableSource("ct-slices", _SLICES, 384, "reference", _CT_SLICES),
        _text("energy", f"'Energy Efficiency' {SHEET}", 8, "heating load"),
        _text("naval-propulsion-plant", _NAVAL, 16, "compressor decay", "UCI CBM Dataset/data.txt"),
        TableSource("pole", "'201_pol' of the Penn Machine Learning Benchmarks (PMLB)", 48, "target", _POLE),
        _text("power-plant", f"'Combined Cycle Power Plant' {SHEET}", 4, "electrical output"),
        TableSource("wine-quality-red", f"'Wine Quality' {UCI}", 11, "quality", _WINE),
        _text("yacht", f"'Yacht Hydrodynamics' {UCI}", 6, "residuary resistance", "yacht_hydrodynamics.data"),
        TableSource("year-prediction-msd", f"'Year Prediction MSD' {UCI}", 90, "year", _SONGS, official_split=True),
    )
}
