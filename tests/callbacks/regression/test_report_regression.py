"""The report of a regression run: its section, its sentences and its columns."""

import copy
import json
import math

import pytest
import torch
from evaluation_toys import QUIET
from lightning.pytorch import Trainer
from regression_toys import Regressor, Table, histogram, laplace, normal, run_test
from report_records import Page, run_record, undrawn

from callbacks import RegressionCalibration, Report
from callbacks.report import load_record, render
from callbacks.report.record import plain
from callbacks.report.summary import summary, text_table
from callbacks.report.words import verdict
from callbacks.shared.html import formatted


def regression_record(title, make, data=None):
    callback = RegressionCalibration()
    run_test([callback], Regressor(make), data or Table(300, 200))
    left_out = dict.fromkeys(("calibration", "ood", "samples"))
    return run_record(title) | left_out | {"regression": plain(callback.results)}


@pytest.fixture(scope="module")
def records():
    return [regression_record("Gauss", normal), regression_record("Laplace", laplace)]


@pytest.fixture(scope="module")
def html(records):
    return render(records)


def test_the_section_shows_every_metric_of_every_run(records, html):
    page = Page(html)
    text = " ".join(page.text)
    assert "Predictive distributions" in text
    assert len(page.ids) == len(set(page.ids))
    for record in records:
        results = record["regression"]
        for part in (results["before"], results["after"]):
            for name in ("rmse", "mae", "crps", "nll", "qce", "sharpness"):
                assert formatted(part[name], None) in text
            assert f"QCE {part['qce']:.4f}" in text, "the figure's own text"
            for coverage in part["intervals"]["coverage"]:
                assert f"{100 * coverage:.1f}%" in text
            for score in part["intervals"]["winkler"]:
                assert formatted(score, None) in text
    assert "recalibrated on 200 validation labels" in text
    assert "Brier" not in text  # nothing about classifiers


@undrawn()
def test_a_run_without_recalibration_or_with_an_infinite_nll_has_a_page(records):
    data = Table(60, 0)
    data.test.tensors[1][0] = 1e4
    record = regression_record("Histogram", histogram, data)
    assert record["regression"]["before"]["nll"] is None
    page = Page(render([record]))
    text = " ".join(page.text)
    assert "∞" in text
    assert "density 0 at 1" in text
    assert "1 label has a predicted density of zero" in text
    assert "after" not in text.split("Predictive distributions")[1].split("In the units")[0]
    assert "density_nll" not in summary(record)
    Page(render([record, records[0]]))
    text_table([record, records[0]])


@undrawn()
def test_classifiers_and_regressors_share_a_page(records):
    page = " ".join(Page(render([run_record("JEM"), records[0]])).text)
    assert "Brier" in page
    assert "Winkler" in page


def test_hostile_names_are_escaped(records):
    hostile = '"><script>alert(1)</script>'
    record = copy.deepcopy(records[0])
    record["regression"] |= {"law": hostile, "target": hostile}
    html = render([record])
    assert "<script" not in html
    assert "script" not in Page(html).tags


def test_the_sentences_judge_the_interval_and_name_the_better_run(records):
    sentences = " ".join(verdict(records[:1]))
    results = records[0]["regression"]
    coverage = results["before"]["intervals"]["coverage"][2]
    assert coverage < 0.8
    assert f"The 90% intervals hold {coverage:.1%} of the labels: they are too narrow" in sentences
    assert f"they hold {results['after']['intervals']['coverage'][2]:.1%}" in sentences
    assert f"RMSE {results['before']['rmse']:.3f} (±" in sentences

    worse = copy.deepcopy(records[0]) | {"title": "Other"}
    worse["regression"]["before"] |= {"rmse": 9.0, "mae": results["before"]["mae"] + 1e-6}
    sentences = " ".join(verdict([records[0], worse]))
    assert f"Gauss has the lower RMSE, {results['before']['rmse']:.3f} against 9.000 (Other)" in sentences
    assert "MAE: a tie" in sentences


def test_wide_and_honest_intervals_are_called_so(records):
    record = copy.deepcopy(records[0])
    for value, words in ((0.99, "too wide"), (0.91, "what a perfect forecaster would show")):
        record["regression"]["before"]["intervals"]["coverage"][2] = value
        assert any(words in sentence for sentence in verdict([record]))


def test_the_table_of_a_terminal_has_the_columns_that_some_run_has(records):
    lines = text_table(records).splitlines()
    assert lines[0].split()[:3] == ["RMSE", "MAE", "CRPS"]
    assert "Accuracy" not in lines[0]
    assert lines[1].split()[1] == formatted(records[0]["regression"]["before"]["rmse"], None)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.0, None, "0.000"),
        (1.23456, None, "1.235"),
        (123.456, None, "123.5"),
        (123456.7, None, "123457"),
        (0.0012345, None, "0.001234"),
        (-0.05, None, "-0.05000"),
        (1.5e-7, None, "1.500e-07"),
        (3.2e9, None, "3.200e+09"),
        (math.inf, None, "inf"),
        (0.5, 1, "0.5"),
    ],
)
def test_metrics_in_units_have_four_significant_digits(value, digits, text):
    assert formatted(value, digits) == text


@undrawn()
def test_the_report_of_a_real_run(tmp_path):
    class Fit(Regressor):
        def training_step(self, batch, batch_idx):
            loss = -self.predictive(batch[0]).log_prob(batch[1]).mean()
            self.log("train/loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 1e-2)

    callback = RegressionCalibration()
    options = QUIET | {"max_epochs": 2, "default_root_dir": tmp_path}
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=[Report(), callback], **options)
    module, data = Fit(), Table()
    trainer.fit(module, data)
    assert load_record(tmp_path)["regression"] is None
    trainer.test(module, data, verbose=False)
    record = load_record(tmp_path)
    assert record["regression"] == json.loads(json.dumps(callback.results))
    assert record["calibration"] is None
    assert not any(key.startswith("calibration/") for key in record["metrics"])
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    assert formatted(callback.results["after"]["crps"], None) in text
