"""Tables of numbers in memory: their text files, what is wrong with them, and how their rows are split."""

import csv
import difflib
import gzip
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ..shared.collate import listed

Floats = NDArray[np.float64]
BLOCK = 4096  # rows that are parsed together
LONGEST = 2**24  # characters of a line: a packed file of kilobytes may unpack to a line of gigabytes


@dataclass(frozen=True)
class Table:
    """Numbers as they were measured.

    Attributes:
        features: (N, D) float64.
        target: (N,) float64.
        groups: (N,) what rows of one subject share, numbers or text; None where each row stands for itself.
        test_rows: (N,) bool, the rows of a published test split; None where there is none.
        feature_names: D names for messages; none for ``column 0``, ``column 1`` and so on.
        lines: (N,) line of its file that each row ends in, from 1; None for the number of the row, from 0.
    """

    features: Floats
    target: Floats
    groups: NDArray | None = None
    test_rows: NDArray[np.bool_] | None = None
    feature_names: tuple[str, ...] = ()
    lines: NDArray[np.int64] | None = None


def read_header(path: Path) -> tuple[list[str], str]:
    """The names in the first line of a text file, and what separates them: its most frequent of ``,``, ``;`` and tab.

    Raises:
        ValueError: The file is empty or no text, its first line holds numbers only, or a name comes twice.
    """
    with _readable(path) as file:
        line = next((line for line in _lines(file, path) if line.strip()), "")
        delimiter = max(",;\t", key=line.count)
        names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    if not names:
        raise ValueError(f"{path} is empty")
    if all(_is_number(name) for name in names):
        raise ValueError(f"{path} has no header: its first line should name the columns, but is {line.strip()[:60]!r}")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise ValueError(f"{path} has two columns called {twice[0]!r}")
    return names, delimiter


def choose_features(path: Path, names: list[str], target: str, drop: Collection[str], group: str | None) -> list[int]:
    """Positions of the features in ``names``: of all columns but the target, the dropped ones and the group's.

    Raises:
        ValueError: A column does not exist, has two roles or no name, or no feature is left.
    """
    roles = [("target", target), *(("drop", name) for name in drop), *([] if group is None else [("group", group)])]
    for role, name in roles:
        if name not in names:
            close = difflib.get_close_matches(name, names, 2)
            meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
            raise ValueError(f"{role}={name!r} is no column of {path}, which has {listed(names)}{meant}")
    left_out = [name for _, name in roles]
    if target in left_out[1:] or (group is not None and group in drop):
        raise ValueError(f"target={target!r}, group={group!r} and drop={list(drop)} must be different columns")
    features = [number for number, name in enumerate(names) if name not in left_out]
    if not features:
        raise ValueError(f"no feature is left of the columns of {path}: {listed(names)}")
    if nameless := [number for number in features if not names[number]]:
        raise ValueError(
            f"column {nameless[0]} of {path} has no name; it often is the row's number, which tells of the order "
            "of the file: leave it out by an empty name in drop, or give it a name"
        )
    return features


def read_rows(
    path: Path, columns: dict[int, str], delimiter: str | None, header: bool = False, group: int | None = None
) -> Table:
    """Reads columns of numbers, about two million numbers a second; empty lines are skipped.

    Args:
        path: Text in UTF-8, or such text packed by gzip if the name ends in ``.gz``.
        columns: Position and name of each feature and then of the target.
        delimiter: What separates the columns; None for white space.
        header: Whether the first line is skipped.
        group: Position of a column that is kept as text.

    Raises:
        ValueError: The file is no text or has no rows, a row has more or fewer columns than the first line, or a wanted
            field is no number; the message says where.
    """
    pick, blocks, lines = itemgetter(*columns), [], []
    groups: list[str] = []
    width, first = 0, 1
    with _readable(path) as file:
        rows = _rows(_lines(file, path), delimiter)
        if header:
            first, row = next(rows)
            width = len(row)
        while block := list(islice(rows, BLOCK)):
            if not width:
                first, width = block[0][0], len(block[0][1])
            for line, row in block:
                if len(row) != width:
                    raise ValueError(f"line {line} of {path} has {len(row)} columns, but line {first} has {width}")
            if max(columns) >= width:
                raise ValueError(f"{path} has {width} columns, but at least {max(columns) + 1} were expected")
            blocks.append(_numbers([pick(row) for _, row in block], block, columns, path))
            lines.extend([line for line, _ in block])
            if group is not None:
                groups.extend([row[group].strip() for _, row in block])
    if "" in groups:
        raise ValueError(f"the group has no value in line {lines[groups.index('')]} of {path}")
    if not blocks:
        raise ValueError(f"{path} has no rows")
    values, names = np.concatenate(blocks), tuple(columns.values())[:-1]
    texts = None if group is None else np.array(groups)
    return Table(values[:, :-1], values[:, -1], texts, None, names, np.array(lines))


def check_numbers(table: Table, where: str, target_name: str) -> None:
    """Raise ``ValueError`` if shapes do not fit, or a number is NaN, infinite or too large for float32."""
    features, target = table.features, table.target
    shapes = {"target": target.shape} | {
        name: column.shape
        for name, column in (("groups", table.groups), ("test_rows", table.test_rows), ("lines", table.lines))
        if column is not None
    }
    if features.ndim != 2 or any(shape != (len(features),) for shape in shapes.values()):
        raise ValueError(f"{where} must have features (N, D) and target (N,), got {features.shape} and {shapes}")
    names = (*(table.feature_names or [f"column {i}" for i in range(features.shape[1])]), target_name)
    # A sum is finite only if all its parts are: fast, and without a second table of the size of the first.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = ~np.isfinite(features.sum(1, dtype=np.float32)) | ~np.isfinite(target.astype(np.float32))
        rows = np.flatnonzero(suspects)
        values = np.column_stack((features[rows], target[rows]))
        bad = ~np.isfinite(values.astype(np.float32))
    if bad.any():
        places = (rows if table.lines is None else table.lines[rows])[bad.any(1)]
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{where}: NaN, infinite or beyond float32 in {len(places)} of {len(target)} rows: {names[column]!r} is "
            f"{values[row, column]} in {'row' if table.lines is None else 'line'} {places[0]}; "
            f"all: {listed(places.tolist())}"
        )


def equal_rows(table: Table) -> NDArray[np.int64] | None:
    """(N,) the first row that each row equals, target included, for ``Table.groups``; None if all are different."""
    values = np.column_stack([table.features, table.target]) + 0.0  # no negative zero
    whole = values.view(np.dtype((np.void, values.itemsize * values.shape[1]))).reshape(-1)
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    return None if len(first) == len(whole) else first[inverse.reshape(-1)]


def split_rows(
    count: int,
    seed: int,
    test_share: float,
    val_share: float,
    groups: NDArray | None = None,
    test_rows: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Splits the rows at random, alike on every machine; rows of one group stay together.

    The test rows are drawn first: they do not depend on ``val_share``.

    Args:
        count: Number of rows N.
        seed: Of the draw.
        test_share: Share of all rows to test on, in (0, 1); without meaning where ``test_rows`` is given.
        val_share: Share of the other rows to validate on, in [0, 1). A positive share is at least one row or group.
        groups: (N,) what rows of one subject share.
        test_rows: (N,) bool, a published test split.

    Returns:
        Indices of the rows to train on, to validate on and to test on, each ascending.

    Raises:
        ValueError: There are too few rows, or too few groups.
    """
    unit = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)
    units = int(unit.max(initial=-1)) + 1
    place = np.empty(units, dtype=np.int64)  # where each unit stands in a random order
    place[check_random_state(seed).permutation(units)] = np.arange(units)
    place = place[unit]
    test = place < _units(place, test_share * count) if test_rows is None else test_rows
    rest = np.where(test, units, place)
    val = rest < (_units(rest[~test], val_share * np.sum(~test)) if val_share else 0)
    train = ~test & ~val
    if train.sum() < 2 or not test.any() or (val_share and not val.any()):
        kind = "rows" if groups is None else "groups (rows of one group stay together)"
        raise ValueError(
            f"{units} {kind} are too few: test_share={test_share} and val_share={val_share} leave {train.sum()} rows "
            f"to train on (at least 2), {val.sum()} to validate on{' (at least 1)' if val_share else ''} and "
            f"{test.sum()} to test on (at least 1)"
        )
    return np.flatnonzero(train), np.flatnonzero(val), np.flatnonzero(test)


def _units(places: NDArray[np.int64], wanted: float) -> int:
    """The place before which about ``wanted`` rows stand, at least the first one's."""
    if not len(places):
        return 0
    sizes = np.bincount(places)
    filled = np.flatnonzero(sizes)
    return int(filled[np.abs(np.cumsum(sizes[filled]) - wanted).argmin()]) + 1


@contextmanager
def _readable(path: Path) -> Iterator[TextIO]:
    """The text of a file; whatever is wrong with it is a ``ValueError`` with the name of the file."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            yield cast(TextIO, file)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error
        except (csv.Error, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a text, none of which may be endless."""
    for number, line in enumerate(iter(partial(file.readline, LONGEST), ""), 1):
        if len(line) == LONGEST:
            raise ValueError(f"line {number} of {path} has {LONGEST:,} characters or more; expected a table")
        yield line


def _rows(lines: Iterator[str], delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Number of the line and fields of each row that has any."""
    if delimiter is None:
        yield from ((number, row) for number, line in enumerate(lines, 1) if (row := line.split()))
    else:
        reader = csv.reader(lines, delimiter=delimiter)
        yield from ((reader.line_num, row) for row in reader if len(row) > 1 or "".join(row).strip())


def _numbers(fields: list[tuple], block: list[tuple[int, list[str]]], columns: dict[int, str], path: Path) -> Floats:
    try:
        return np.array(fields, dtype=np.float64)
    except ValueError as error:
        for row, (line, _) in zip(fields, block, strict=True):
            named = zip(columns.values(), row, strict=True)
            if text := {name: field for name, field in named if not _is_number(field)}:
                (name, field), *_ = text.items()
                what = f"holds {field[:40]!r}, which is no number" if field.strip() else "has no value"
                raise ValueError(
                    f"column {name!r} {what}, in line {line} of {path}; only numbers can be read. Columns without "
                    f"numbers there, which could be left out by drop: {list(text)}"
                ) from error
        raise


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
