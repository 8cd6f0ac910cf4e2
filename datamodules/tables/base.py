"""Data modules of tables of numbers, for regression; batches are ``(x, y)``.

x is (B, D) float32, standardised by the training rows; y is (B,) float32, in the units in which it was measured.
"""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..shared.arguments import check_at_least
from ..shared.collate import as_is
from ..shared.memory import MemorySet
from ..shared.resumable import ResumableLoader
from .sources import TABLES, read_csv
from .text import Floats, Table, check_numbers, choose_features, equal_rows, read_header, split_rows


class RowSet(MemorySet):
    """Features (N, D) float32 with labels (N,) float32."""

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        super().__init__(features, targets)
        self.features, self.targets = features, targets


class TabularDataModule(LightningDataModule):
    """Parent of the data modules of tables; a batch is ``(x, y)``: x (B, D) float32, y (B,) float32.

    The features are standardised by mean and deviation of the training rows; a column that is constant in them is 0
    everywhere, as nothing can be learned about it. The labels keep their units. Rows that repeat another one go where
    that one goes: none is tested that was trained on. The table is read once, in ``setup``,
    and held in memory. Training batches are shuffled, and the last one of an epoch is smaller.

    For a table of your own that is no text file, set ``name``, ``num_features`` and ``target_name`` in a subclass and
    override ``load_table``.

    Attributes:
        name: Name of the table, the only one of ``test_sets``.
        num_features: Number of features D.
        target_name: What is predicted.
        mean: (D,) float64, after ``setup``: what is subtracted from the features.
        std: (D,) float64, after ``setup``: by what they are divided then; infinite for a constant column.
    """

    name: str
    num_features: int
    target_name: str
    mean: Floats
    std: Floats

    def __init__(
        self,
        batch_size: int = 256,
        eval_batch_size: int = 1024,
        seed: int = 0,
        test_share: float = 0.2,
        val_share: float = 0.1,
    ) -> None:
        """Checks the arguments.

        Args:
            batch_size: Training rows in a batch (for each process).
            eval_batch_size: Rows in a batch of validation, test and prediction.
            seed: Of the split, at least 0: another seed is another test set. It is no part of the run's own seed.
            test_share: Share of all rows to test on, in (0, 1); where rows have groups, as near as whole groups come.
            val_share: Share of the remaining rows to validate on, in [0, 1), likewise. It never changes the test rows.
        """
        super().__init__()
        self.save_hyperparameters(logger=False)  # for reports, those of a subclass too
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, seed=seed)
        if seed >= 2**32:
            raise ValueError(f"seed must be below 2**32, got {seed}")
        if not 0 < test_share < 1:  # NaN fails too
            raise ValueError(f"test_share must lie in (0, 1), got {test_share}")
        if not 0 <= val_share < 1:
            raise ValueError(f"val_share must lie in [0, 1), got {val_share}")
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.test_share, self.val_share = test_share, val_share
        self._sets: tuple[RowSet, RowSet, RowSet] | None = None

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the test sets: that of the table."""
        return (self.name,)

    @property
    def training_targets(self) -> Tensor:
        """Labels of the training rows, (N,) float32, in their own units."""
        return self.sets()[0].targets

    def load_table(self) -> Table:
        """Reads the whole table; override it for one of your own.

        Returns:
            Numbers as they were measured: finite, at least one feature; the rows in an order that never changes.
        """
        raise NotImplementedError(f"{type(self).__name__} must override load_table")

    def setup(self, stage: str) -> None:
        """Reads and splits the table, unless it has been read."""
        if self._sets is not None:
            return
        table = self.load_table()
        check_numbers(table, self.name, self.target_name)
        groups, test_rows = equal_rows(table) if table.groups is None else table.groups, table.test_rows
        splits = split_rows(len(table.target), self.seed, self.test_share, self.val_share, groups, test_rows)
        train = splits[0]
        if np.ptp(table.target[train]) == 0:
            raise ValueError(
                f"the target {self.target_name!r} of {self.name} is {table.target[train[0]]:g} in all {len(train)} "
                "training rows: a constant has nothing to learn"
            )
        features = table.features[train]
        constant = np.ptp(features, axis=0) == 0  # not by the deviation, which rounding makes positive
        self.mean, self.std = features.mean(0), np.where(constant, np.inf, features.std(0))
        targets = torch.from_numpy(table.target.astype(np.float32))
        sets = [RowSet(self.standardise(table.features[rows]), targets[torch.from_numpy(rows)]) for rows in splits]
        self._sets = (sets[0], sets[1], sets[2])

    def standardise(self, features: Floats) -> Tensor:
        """What the module is to see, (N, D) float32, of features (N, D) as they were measured; after ``setup``."""
        return torch.from_numpy(((features - self.mean) / self.std).astype(np.float32))

    def sets(self) -> tuple[RowSet, RowSet, RowSet]:
        """The rows to train on, to validate on (none for ``val_share=0``) and to test on."""
        self.setup("fit")
        assert self._sets is not None
        return self._sets

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of ``batch_size``; the last one of an epoch is smaller."""
        return self.loader(self.sets()[0], self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader | list[DataLoader]:
        """One loader of the validation rows; an empty list for ``val_share=0``, which makes Lightning skip it."""
        val = self.sets()[1]
        return self.loader(val, self.eval_batch_size) if len(val) else []

    def test_dataloader(self) -> list[DataLoader]:
        """One loader for each of ``test_sets``: of the test rows."""
        return [self.loader(self.sets()[2], self.eval_batch_size)]

    def predict_dataloader(self) -> DataLoader:
        """The test rows; batches are ``(x, y)`` like all others."""
        return self.test_dataloader()[0]

    def loader(self, rows: RowSet, batch_size: int, shuffle: bool = False) -> DataLoader:
        """A DataLoader without worker processes, in which Lightning can put the sampler of several processes."""
        pinned = torch.cuda.is_available()
        kind = ResumableLoader if shuffle else DataLoader
        return kind(rows, batch_size=batch_size, shuffle=shuffle, collate_fn=as_is, pin_memory=pinned)


class UCIRegressionDataModule(TabularDataModule):
    """Published regression tables by name, most of them of the UCI repository; no download.

    =======================  ========  =================================================================================
    name                     features  target; file
    =======================  ========  =================================================================================
    diabetes                 10        progression after a year; embedded in scikit-learn: no file
    bike-sharing             12        ``cnt``, rentals in an hour; ``hour.csv``
    bostonHousing            13        median value in 1000 dollars; ``data.txt`` or ``housing.data``
    concrete                 8         compressive strength in MPa; ``data.txt``
    ct-slices                384       ``reference``, place of the slice in the body; ``slice_localization_data.csv``
    energy                   8         heating load (not the cooling load); ``data.txt``
    naval-propulsion-plant   16        decay of the compressor (not of the turbine); ``data.txt``
    pole                     48        ``target``; ``201_pol.tsv.gz`` or ``201_pol.tsv`` of PMLB
    power-plant              4         net electrical output in MW; ``data.txt``
    wine-quality-red         11        ``quality``, a whole number; ``data.txt`` or ``winequality-red.csv``
    yacht                    6         residuary resistance; ``data.txt`` or ``yacht_hydrodynamics.data``
    year-prediction-msd      90        year of a song; ``YearPredictionMSD.txt``
    =======================  ========  =================================================================================

    A file lies in ``<data_dir>/uci/<name>`` or ``<data_dir>/<name>``, or, unless it is called ``data.txt``, in
    ``data_dir`` itself. ``data.txt`` has its columns between white space; ``index_features.txt`` and
    ``index_target.txt`` beside it count columns from 0, and without them the target follows the features. Where a table
    has two targets, the other one is no feature.

    - bike-sharing: ``casual`` and ``registered`` are left out: they add up to the target, which published loaders
      overlooked. ``instant`` (the row's number) and ``dteday`` (the date) are left out too. Hours of one day may be
      on both sides; ``CSVRegressionDataModule`` with ``group="dteday"`` keeps days together.
    - ct-slices: the slices of one patient stay together, and ``patientId`` is no feature. For the split by single rows
      of older work, whose errors are too small, use ``CSVRegressionDataModule`` with ``drop=["patientId"]``.
    - year-prediction-msd: half a minute to read. ``official_split`` tests on the last 51,630 songs, so that no producer
      is on both sides; validation comes out of the first 463,715 by single rows.
    - wine-quality-red: 240 of its 1,599 rows repeat another one; elsewhere they are often on both sides.
    - bostonHousing: for comparison with old tables only; one of its features, ``B``, is a statistic about race.
    """

    def __init__(
        self,
        name: str = "diabetes",
        data_dir: str = "data",
        official_split: bool = False,
        **arguments: Any,
    ) -> None:
        """Checks the arguments; reads nothing.

        Args:
            name: One of the names above.
            data_dir: Folder that holds the files.
            official_split: Whether the published test rows are used, where there are some; then ``test_share`` has no
                meaning, and ``seed`` chooses the validation rows only.
            **arguments: Those of ``TabularDataModule``.

        Raises:
            ValueError: The name is unknown, or an argument is out of its range.
        """
        if name not in TABLES:
            close = difflib.get_close_matches(name, TABLES, 1, cutoff=0.5)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown table {name!r}; there are {', '.join(TABLES)}{meant}")
        self.source = TABLES[name]
        if official_split and not self.source.official_split:
            official = ", ".join(table.name for table in TABLES.values() if table.official_split)
            raise ValueError(f"official_split: {name} has no published test split, only {official} has one")
        self.name, self.num_features, self.target_name = name, self.source.num_features, self.source.target
        self.data_dir, self.official_split = str(data_dir), official_split
        super().__init__(**arguments)

    def prepare_data(self) -> None:
        """Looks for the file before the run."""
        if self.source.files:
            self.source.find(self.data_dir)

    def load_table(self) -> Table:
        """Reads the table named at construction, with its published split if that was asked for."""
        table = self.source.load(self.data_dir)
        if self.official_split and table.test_rows is None:
            raise ValueError(
                f"official_split: {self.name} has {len(table.target)} rows here, so they are not those that the "
                "published split counts"
            )
        return table if self.official_split else dataclasses.replace(table, test_rows=None)


class CSVRegressionDataModule(TabularDataModule):
    """A table of your own in a text file: its first line names the columns, the others hold numbers.

    Columns stand between commas, semicolons or tabs, whichever the first line has most of; a file that ends in ``.gz``
    is unpacked. All columns but ``target``, ``drop`` and ``group`` are features, and must hold numbers with a decimal
    point. The name of the set is that of the file.
    """

    def __init__(
        self,
        path: str,
        target: str,
        drop: list[str] | None = None,
        group: str | None = None,
        **arguments: Any,
    ) -> None:
        """Checks the arguments and reads the first line of the file.

        Args:
            path: The file, text in UTF-8.
            target: The column to predict.
            drop: Columns to leave out: text, numbers of rows, and whatever tells of the target, such as its parts.
            group: The column, numbers or text, that says which rows share a subject; they stay together in training,
                validation or test. It is no feature.
            **arguments: Those of ``TabularDataModule``.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: A column is missing, or an argument is out of its range.
        """
        self.path, self.target_name, self.group = Path(path), target, group
        self.drop = tuple(drop or ())
        if not self.path.is_file():
            raise FileNotFoundError(f"path: no file {str(path)!r}; expected a table whose first line names its columns")
        names, _ = read_header(self.path)
        self.num_features = len(choose_features(self.path, names, target, self.drop, group))
        self.name = self.path.name.removesuffix(".gz").rpartition(".")[0] or self.path.name
        super().__init__(**arguments)

    def load_table(self) -> Table:
        """Reads the file."""
        return read_csv(self.path, self.target_name, self.drop, self.group)
