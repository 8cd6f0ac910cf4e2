"""A user's own callback in the report: `report_key` and `report_results()` are all that it needs."""

import base64

import numpy as np
import pytest
import torch
from evaluation_toys import QUIET, Data, ToyClassifier, labelled
from lightning.pytorch import Callback, Trainer
from matplotlib.figure import Figure
from report_records import Page, run_record, undrawn

from callbacks import CalibrationEvaluation, Report
from callbacks.report import load_record, render
from callbacks.report.__main__ import main
from callbacks.shared.loggers import png


class ClassBalance(Callback):
    """Reports everything that a callback can: numbers, texts, pictures, nested, and nothing before its test."""

    report_key = "class_balance"

    def __init__(self):
        self.results = {}

    def on_test_end(self, trainer, pl_module):
        figure = Figure()
        figure.subplots().bar(range(3), [0.2, 0.3, 0.5])
        self.results = {
            "entropy": torch.tensor(1.02965),
            "classes": 3,
            "rarest": "<class & 0>",
            "unknown": float("nan"),
            "shares": {"first": 0.2, "last": np.float32(0.5)},
            "figure": figure,
            "file": png(np.zeros((2, 2, 3), np.uint8)),
        }

    def report_results(self):
        return self.results


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    callbacks = [Report(str(folder)), ClassBalance()]
    trainer = Trainer(accelerator="cpu", devices=1, **QUIET, callbacks=callbacks)
    trainer.test(ToyClassifier(), Data((8,)), verbose=False)
    trainer.callback_metrics["class_balance/entropy"] = torch.tensor(1.0)
    return folder


def test_the_record_holds_the_results_as_json_and_pictures_as_base64(folder):
    results = load_record(folder)["results"]["class_balance"]
    assert results["entropy"] == pytest.approx(1.02965)
    assert results["unknown"] is None
    assert results["shares"] == {"first": 0.2, "last": 0.5}
    for name in ("figure", "file"):
        assert base64.b64decode(results[name]).startswith(b"\x89PNG")


def test_the_page_shows_a_table_and_the_pictures(folder):
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.text)
    for expected in ("Class balance", "entropy", "1.030", "<class & 0>", "shares/last", "0.5000", "\N{EN DASH}"):
        assert expected in text
    pictures = [reference for reference in page.references if reference.startswith("data:image/png;base64,")]
    assert len(pictures) == 2


@undrawn()
def test_runs_with_and_without_it_are_compared_side_by_side(folder, tmp_path, capsys):
    (tmp_path / "report.json").write_text((folder / "report.json").read_text(encoding="utf-8"), encoding="utf-8")
    assert main([str(folder), str(tmp_path), "-o", str(tmp_path / "page.html")]) == 0
    text = " ".join(Page((tmp_path / "page.html").read_text(encoding="utf-8")).text)
    assert "figure (ToyClassifier (2))" in text
    assert "Class balance" in " ".join(Page(render([load_record(folder), run_record("Other") | {"history": []}])).text)
    capsys.readouterr()


def test_hostile_results_are_escaped():
    hostile = '"><script>alert(1)</script>'
    results = {hostile: {hostile: hostile, "picture": f"iVBORw0KGgo{hostile}"}}
    record = run_record("Run") | dict.fromkeys(("calibration", "ood", "history")) | {"results": results}
    assert "script" not in Page(render([record])).tags


def test_a_callback_with_nothing_to_report_has_no_section():
    class Silent(ClassBalance):
        def on_test_end(self, trainer, pl_module):
            self.results = {}

    trainer = Trainer(accelerator="cpu", devices=1, **QUIET, callbacks=[report := Report(), Silent()])
    assert report._collect(trainer, ToyClassifier())["results"] == {}


def test_a_subclass_of_ours_keeps_its_section(tmp_path):
    class Stricter(CalibrationEvaluation):
        def report_results(self):
            return super().report_results() | {"remark": "mine"}

    data = Data((8,), validation=8)
    data.validation = labelled(8, 300)
    trainer = Trainer(accelerator="cpu", devices=1, **QUIET, callbacks=[Report(str(tmp_path)), Stricter()])
    trainer.test(ToyClassifier(), data, verbose=False)
    record = load_record(tmp_path)
    assert record["results"] == {}
    assert record["calibration"]["remark"] == "mine"
    assert "reliability diagram" in (tmp_path / "report.html").read_text(encoding="utf-8")


class Taken(Callback):
    report_key = "calibration"

    def report_results(self):
        return {"a": 1.0}


def test_a_key_of_ours_is_refused_before_anything_runs(tmp_path):
    trainer = Trainer(**QUIET, callbacks=[Taken(), Report(str(tmp_path))])
    with pytest.raises(ValueError, match=r"Taken\.report_key is 'calibration', of a callback of the zoo"):
        trainer.test(ToyClassifier(), Data(), verbose=False)


class Failing(Callback):
    report_key = "mine"

    def report_results(self):
        raise KeyError("x")


def test_results_that_fail_are_named_and_the_rest_is_reported(tmp_path):
    trainer = Trainer(**QUIET, callbacks=[Failing(), CalibrationEvaluation(), Report(str(tmp_path))])
    with pytest.warns(UserWarning, match=r"Failing.report_results failed, so it is not in the report: KeyError\('x'\)"):
        trainer.test(ToyClassifier(), Data(), verbose=False)
    record = load_record(tmp_path / "report.json")
    assert record["results"] == {}
    assert record["calibration"]
