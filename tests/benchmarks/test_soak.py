"""What the soak test measures with."""

import math
import mmap

import numpy as np
import pytest

from benchmarks.speed.soak import resources, slope
from callbacks.report.record import ROWS, thinned


def test_the_slope_is_that_of_the_line_and_its_error_that_of_the_noise():
    x = np.linspace(0, 10, 4000)
    noise = np.random.default_rng(0).normal(0, 0.5, len(x))
    assert slope(x, 3 - 0.25 * x) == pytest.approx((-0.25, 0), abs=1e-9)
    value, error = slope(x, 3 - 0.25 * x + noise)
    expected = 0.5 / math.sqrt(len(x) * x.var())
    assert error == pytest.approx(expected, rel=0.5)
    assert abs(value + 0.25) < 4 * expected


def test_memory_open_files_and_the_sizes_of_files_are_those_of_now(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(bytes(2**20))
    (tmp_path / "metrics.csv").write_bytes(bytes(2**19))
    (tmp_path / "soak.csv").write_bytes(bytes(2**19))  # its own
    before = resources(tmp_path)
    held = mmap.mmap(-1, 2**24)  # from the system: an array may lie in memory that was held already
    np.frombuffer(held, np.uint8).fill(1)
    with (tmp_path / "soak.csv").open():
        after = resources(tmp_path)
    assert (after["checkpoints"], after["logs"], after["files"]) == (1, 0.5, 2)
    assert after["open_files"] == before["open_files"] + 1
    assert after["memory"] - before["memory"] == pytest.approx(len(held) / 2**20, abs=4)


def test_learning_curves_stay_bounded_and_lose_no_quantity():
    rows: list[dict[str, float]] = []
    for epoch in range(10 * ROWS):
        rows = thinned([*rows, {"epoch": epoch, "train/loss": epoch} | ({} if epoch % 2 else {"val/loss": epoch})])
        assert len(rows) <= ROWS
    assert len(rows) >= ROWS // 2
    assert [row["epoch"] for row in rows] == sorted({row["epoch"] for row in rows})
    assert rows[-1]["epoch"] == 10 * ROWS - 1
    assert all("val/loss" in row for row in rows[: ROWS // 4])
