"""OOD detection under shift: how far a set named ``target/…`` is detected, and detection with it as in-distribution."""

import csv
import json

import pytest
import torch
from evaluation_toys import QUIET, Data, Dump, ShiftedData, ToyClassifier, labelled, run_test
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from callbacks import OODEvaluation

TARGET = "target/moved"
OUTSIDE = ["near/shifted", "far/shifted"]


def evaluate(data=None, **arguments):
    callback = OODEvaluation(**{"odin_epsilon": 0.25, "resamples": 20, "knn_k": 3, **arguments})
    trainer = run_test([callback], None, data or ShiftedData())
    return callback.results, trainer


def test_the_target_is_one_more_set_told_from_the_source_and_in_no_mean():
    shifted, _ = evaluate()
    plain, _ = evaluate(Data())
    assert list(shifted["sets"]) == [TARGET, *OUTSIDE]
    assert shifted["sets"][TARGET]["samples"] == 6
    assert {name: shifted["sets"][name] for name in OUTSIDE} == plain["sets"]
    for key in ("id", "samples", "scores", "near_mean", "far_mean", "skipped"):
        assert shifted[key] == plain[key]
    assert set(shifted) == {*plain, "shifted"}
    assert json.loads(json.dumps(shifted, allow_nan=False)) == shifted


def test_how_far_the_shift_is_detected_is_what_any_ood_set_would_show():
    data = ShiftedData()
    found, _ = evaluate(data)
    data.test_sets = ("toy", "far/moved", *OUTSIDE)
    expected, _ = evaluate(data)
    assert found["sets"][TARGET] == expected["sets"]["far/moved"]


def test_with_the_target_as_in_distribution_the_metrics_are_those_of_a_run_with_it_in_the_first_place():
    found, _ = evaluate()
    data = ShiftedData()
    data.test_sets, data.tests = ("moved", *OUTSIDE), data.tests[1:]
    expected, _ = evaluate(data)  # the fitted scores see the same training data
    assert found["shifted"][TARGET] == {
        "id": TARGET,
        **{key: expected[key] for key in ("samples", "scores", "sets", "near_mean", "far_mean")},
    }
    assert found["shifted"][TARGET]["sets"]["far/shifted"]["knn"] != found["sets"]["far/shifted"]["knn"]


def test_targets_are_not_judged_against_one_another():
    data = ShiftedData()
    data.test_sets, data.tests = (*data.test_sets, "target/other"), [*data.tests, labelled(8, 51, shift=1)]
    results, _ = evaluate(data)
    assert {name: list(found["sets"]) for name, found in results["shifted"].items()} == {
        TARGET: OUTSIDE,
        "target/other": OUTSIDE,
    }


def test_a_target_alone_is_only_detected():
    results, _ = evaluate(ShiftedData(sizes=(11,)))
    assert list(results["sets"]) == [TARGET]
    assert results["near_mean"] == results["far_mean"] == {}
    assert "shifted" not in results


def test_every_metric_is_logged_and_only_means_pass_through_the_trainer(tmp_path):
    callback = OODEvaluation(resamples=20)
    trainer = Trainer(accelerator="cpu", **QUIET | {"logger": CSVLogger(tmp_path)}, callbacks=[callback])
    returned = trainer.test(ToyClassifier(), ShiftedData(), verbose=False)[0]
    files = {str(path.relative_to(tmp_path)).split("version_0/")[-1] for path in tmp_path.rglob("*.*")}
    for group in ("ood", f"ood/{TARGET}"):
        assert {f"images/{group}/auroc.png", f"tables/{group}/auroc_table.csv"} <= files
    rows = list(csv.DictReader(next(tmp_path.rglob("metrics.csv")).open()))
    results, known = callback.results, trainer.callback_metrics
    shifted = results["shifted"][TARGET]
    for score in results["scores"]:
        for name in OUTSIDE:
            key = f"ood/{TARGET}/{name}/{score}/auroc"
            assert [float(row[key]) for row in rows if row[key]] == [shifted["sets"][name][score]["auroc"]]
            assert key not in known  # all of them would fill the pipe between processes
        detected = known[f"ood/{TARGET}/{score}/auroc"].item()
        assert detected == pytest.approx(results["sets"][TARGET][score]["auroc"])
        mean = returned[f"ood/{TARGET}/near_mean/{score}/auroc"]
        assert mean == pytest.approx(shifted["near_mean"][score]["auroc"])
    assert len(returned) == 4 * len(results["scores"])


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.long), 3])
def test_several_processes_give_the_metrics_of_one(tmp_path, monkeypatch, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    torch.set_num_threads(1)
    written = {}
    for number in (1, devices):
        folder = tmp_path / str(number)
        folder.mkdir()
        callback = OODEvaluation(odin_epsilon=0.25, resamples=20, knn_k=3)
        strategy = {"strategy": "ddp_fork"} if number > 1 else {}
        run_test([callback, Dump(folder)], None, ShiftedData(size=7), devices=number, **strategy)
        written[number] = [(folder / f"{rank}.json").read_text() for rank in range(number)]
    assert json.loads(written[1][0])[0][0]["shifted"][TARGET]["samples"] == 7
    assert written[devices] == written[1] * devices
