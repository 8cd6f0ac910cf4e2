"""The tables of the study of domain adaptation say what they claim."""

import math

import pytest

from benchmarks.dann.digits import TEST, accuracies, pick, selection
from benchmarks.shared.runs import keep, kept


def record(history, **test):
    return {"history": history, "target": "target/T", "test": test, "settings": {"steps": 10}}


def evaluations(*rows):
    names = (TEST, "validator/entropy", "oracle/val_acc", "validator/dev_max_weight")
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_a_validator_picks_where_it_is_largest_the_first_of_equals_and_never_nan():
    found = evaluations((0.1, math.nan, 0, 9), (0.2, -1.0, 0, 9), (0.3, -0.5, 0, 9), (0.4, -0.5, 0, 9))
    assert pick(found, "validator/entropy") == 0.3


def test_the_table_of_picks_sets_every_validator_beside_the_oracle_and_never_shows_train_on_target():
    dann = evaluations((0.5, 2.0, 0.4, 9), (0.7, 1.0, 0.8, 0))
    control = evaluations((0.6, 3.0, 0.1, 9), (0.2, 1.0, 0.0, 0))
    rows = selection({"source only": [record(control)], "DANN": [record(dann)], "train on target": [record(dann)]})
    assert rows == [
        ["picked by", "source only", "DANN", "any method"],
        ["nobody: the last", "0.2000", "0.7000", "-"],
        ["entropy", "0.6000", "0.5000", "0.6000"],
        ["oracle: target validation labels", "0.6000", "0.7000", "0.7000"],
        ["best of all evaluations", "0.6000", "0.7000", "0.7000"],
    ]


def test_the_share_of_the_gap_is_0_for_source_only_and_1_for_train_on_target():
    runs = {"source only": 0.5, "DANN": 0.8, "train on target": 0.9}
    rows = accuracies({name: [record(evaluations((last, 0, 0, 0)))] for name, last in runs.items()}, "mnist_mnistm")
    assert rows[1:4] == [
        ["mean", "0.5000", "0.8000", "0.9000"],
        ["share of the gap", "0.0%", "75.0%", "100.0%"],
        ["the paper's, other photographs", ".5225", ".7666", ".9596"],
    ]


def test_a_run_is_kept_whole_and_refused_under_other_settings(tmp_path):
    path = tmp_path / "pair" / "dann_seed0.json"
    assert kept(path, {"steps": 10}) is None
    keep(path, record([]))
    assert [found.name for found in path.parent.iterdir()] == ["dann_seed0.json"]
    assert kept(path, {"steps": 10}) == record([])
    with pytest.raises(SystemExit, match=r"was made with \{'steps': 10\}, not \{'steps': 20\}"):
        kept(path, {"steps": 20})
