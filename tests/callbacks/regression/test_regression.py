import csv
import json
import math
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from regression_toys import QUIET, Regressor, Table, gumbel, histogram, laplace, mixture, normal, rows, run_test
from torch.distributions import Normal
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from callbacks import RegressionCalibration
from callbacks.regression import metrics
from callbacks.regression.figures import fan_figure, pit_figure, quantile_figure
from callbacks.regression.predictive import predictive_distribution, recalibrated

FAMILIES = {"normal": normal, "laplace": laplace, "mixture": mixture, "histogram": histogram, "gumbel": gumbel}
METRICS = ("rmse", "mae", "crps", "nll", "qce", "qce_squared", "sharpness")


def evaluate(module=None, data=None, callback=None, **options):
    callback = callback or RegressionCalibration()
    trainer = run_test([callback], module, data, **options)
    return callback.results, trainer


def predicted_and_labels(module, dataset):
    x, y = dataset.tensors
    with torch.no_grad():
        return predictive_distribution(module.predictive(x), len(x)), y.double()


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_before_and_after_are_those_of_the_whole_test_set(family):
    data, module = Table(), Regressor(FAMILIES[family])
    results, _ = evaluate(module, data)
    known, held_out = predicted_and_labels(module, data.validation)
    fit = metrics.fit_recalibration(known.cdf(held_out[:, None])[:, 0])
    predicted, y = predicted_and_labels(module, data.test)
    assert results["samples"] == len(y) == 43
    assert results["recalibration"]["samples"] == 60
    for part, judged in (("before", predicted), ("after", recalibrated(predicted, fit))):
        error, pit = judged.mean - y, judged.cdf(y[:, None])[:, 0]
        coverage = metrics.quantile_coverage(pit)
        low, high = judged.icdf(torch.tensor([0.05, 0.95], dtype=torch.float64)).T
        inside = (low <= y) & (y <= high)
        found = results[part]
        assert found["rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-5)
        assert found["mae"] == pytest.approx(error.abs().mean().item(), rel=1e-5)
        assert found["crps"] == pytest.approx(judged.crps(y).mean().item(), rel=1e-5)
        assert found["nll"] == pytest.approx(-judged.log_prob(y).mean().item(), rel=1e-5)
        assert found["sharpness"] == pytest.approx(judged.deviation.mean().item(), rel=1e-5)
        assert found["qce"] == pytest.approx(metrics.quantile_calibration_error(coverage)[0], abs=1e-9)
        assert found["intervals"]["coverage"][2] == inside.double().mean().item()
        assert found["intervals"]["width"][2] == pytest.approx((high - low).mean().item(), rel=1e-5)
        score = (high - low + 20 * ((low - y).clamp(min=0) + (y - high).clamp(min=0))).mean().item()
        assert found["intervals"]["winkler"][2] == pytest.approx(score, rel=1e-5)
        assert found["pit"] == metrics.pit_histogram(pit, 10)
        assert sum(found["pit"]) == 43


def test_recalibration_mends_intervals_that_are_too_narrow_and_lowers_the_crps():
    results, _ = evaluate(data=Table(400, 400, spread=3.0))
    before, after = results["before"], results["after"]
    assert before["intervals"]["coverage"][2] < 0.6
    assert after["intervals"]["coverage"][2] == pytest.approx(0.9, abs=0.05)
    assert after["qce"] < 0.04 < 0.1 < before["qce"]
    assert after["crps"] < before["crps"]
    assert after["nll"] < before["nll"]
    assert after["sharpness"] > 1.5 * before["sharpness"]
    assert after["intervals"]["winkler"][2] < before["intervals"]["winkler"][2]


def test_results_are_plain_and_without_nan():
    results, _ = evaluate()
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["levels"] == [0.5, 0.8, 0.9, 0.95]
    assert results["target"] == "toys"
    assert results["law"] == "Normal"
    for part in ("before", "after"):
        assert len(results[part]["curve"]) == 99
        fan = results[part]["fan"]
        assert fan["prediction"] == sorted(fan["prediction"])
        assert len(fan["label"]) == len(fan["low"][3]) == len(fan["high"][0]) == 43
        assert all(low < high for low, high in zip(fan["low"][0], fan["high"][0], strict=True))


def test_the_fan_shows_at_most_two_hundred_rows_evenly_spread():
    results, _ = evaluate(data=Table(1000, 20))
    fan = results["before"]["fan"]
    assert len(fan["prediction"]) == 200
    assert len(results["before"]["pit"]) == 20
    predicted, _ = predicted_and_labels(Regressor(), Table(1000, 20).test)
    assert fan["prediction"][100] == predicted.mean.sort().values[500].item()


def test_every_metric_is_logged_once_under_a_stable_key():
    results, trainer = evaluate(callback=RegressionCalibration(levels=(0.9, 0.5)))
    logged = trainer.callback_metrics
    for suffix, part in (("", "before"), ("_after", "after")):
        for name in METRICS:
            assert logged[f"calibration/{name}{suffix}"].item() == pytest.approx(results[part][name], rel=1e-6)
        for name in ("coverage", "width", "winkler"):
            for index, level in enumerate((50, 90)):
                found = logged[f"calibration/{name}_{level}{suffix}"].item()
                assert found == pytest.approx(results[part]["intervals"][name][index], rel=1e-6)
    assert len(logged) == 2 * (len(METRICS) + 2 * 3)


@pytest.mark.parametrize("levels", [(), (0.5, 1.0), (-0.1,), (90,)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match=r"levels of central intervals in \(0, 1\), got levels="):
        RegressionCalibration(levels=levels)


def test_a_foreign_module_and_plain_loaders_are_judged_without_recalibration():
    callback = RegressionCalibration()
    loader = DataLoader(rows(10, 0), batch_size=3)
    with pytest.warns(UserWarning, match="no validation data"):
        Trainer(accelerator="cpu", **QUIET, callbacks=[callback]).test(Regressor(), loader, verbose=False)
    assert callback.results["samples"] == 10
    assert callback.results["after"] is callback.results["recalibration"] is callback.results["target"] is None


def test_a_loader_given_for_the_recalibration_is_used_in_full():
    given = rows(23, 300)
    loader = DataLoader(given, batch_size=5, shuffle=True, drop_last=True)
    results, _ = evaluate(callback=RegressionCalibration(calibration_data=loader), limit_val_batches=1)
    assert results["recalibration"]["samples"] == 23


def test_limits_leave_only_what_was_seen():
    results, _ = evaluate(limit_test_batches=2, limit_val_batches=3)
    assert results["samples"] == 16
    assert results["recalibration"]["samples"] == 24
    with pytest.warns(UserWarning, match="no validation data"):
        results, _ = evaluate(limit_val_batches=0)
    assert results["after"] is None


def test_integer_labels_are_numbers_too():
    x, y = rows(30, 1).tensors
    data = Table()
    data.test = TensorDataset(x, y.round().long())
    results, _ = evaluate(data=data)
    assert results["samples"] == 30


def test_a_label_of_zero_density_makes_the_nll_infinite_and_is_counted():
    data = Table()
    data.test.tensors[1][5] = 500.0
    results, trainer = evaluate(Regressor(histogram), data)
    assert results["before"]["zero_density"] == 1
    assert results["before"]["nll"] == trainer.callback_metrics["calibration/nll"].item() == math.inf
    assert results["before"]["nll_error"] is None
    assert math.isfinite(results["before"]["crps"])


def test_one_row_is_enough():
    results, _ = evaluate(data=Table(1, 1))
    assert results["samples"] == results["recalibration"]["samples"] == 1
    assert results["before"]["rmse"] == results["before"]["mae"]
    assert results["before"]["rmse_error"] is None


def test_several_test_loaders_are_judged_by_the_first():
    class Several(Table):
        def test_dataloader(self):
            return [super().test_dataloader(), DataLoader(rows(9, 50), 4)]

    results, _ = evaluate(data=Several())
    assert results["before"] == evaluate()[0]["before"]


def test_predictions_may_be_made_under_bfloat16():
    class Rounding(Regressor):
        def predictive(self, x):
            layer = torch.nn.functional.linear(x, torch.eye(3))
            assert layer.dtype == torch.bfloat16
            return normal(layer.float())

    results, _ = evaluate(Rounding(), precision="bf16-mixed")
    assert results["before"]["rmse"] == pytest.approx(evaluate()[0]["before"]["rmse"], rel=0.02)


def test_pictures_and_tables_reach_the_logger(tmp_path):
    results, _ = evaluate(logger=CSVLogger(tmp_path))
    files = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    assert {"quantiles.png", "pit.png", "fan.png", "figures.csv", "metrics.csv"} <= set(files)
    table = {row[0]: row[1:] for row in csv.reader(files["figures.csv"].open())}
    assert float(table["crps"][1]) == results["after"]["crps"]
    assert float(table["winkler_95"][0]) == results["before"]["intervals"]["winkler"][3]


def test_pictures_draw_every_part():
    results, _ = evaluate()
    assert [line.get_label()[:6] for line in quantile_figure(results).axes[0].lines][1:] == ["before", "after,"]
    assert len(pit_figure(results).axes[0].patches) == 3  # the band of chance, before, after
    figure = fan_figure(results)
    assert ["(before)" in figure.axes[0].get_xlabel(), "(after)" in figure.axes[1].get_xlabel()] == [True, True]
    assert [len(axes.collections) for axes in figure.axes] == [3, 3]  # 95, 80 and 50 %
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == fan_figure(results, ["before"]).axes[0].get_ylim()
    assert figure.axes[0].get_ylabel() == "toys"
    assert len(fan_figure(results | {"after": None}).axes) == 1


def test_the_split_of_a_fit_before_is_not_drawn_again():
    class Resplitting(Table):
        setups = 0

        def setup(self, stage):
            self.setups += stage == "fit"

    class Trained(Regressor):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    data, module = Resplitting(), Trained()
    trainer = Trainer(accelerator="cpu", max_epochs=1, **QUIET, callbacks=[RegressionCalibration()])
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert data.setups == 1


def with_validation(validation, test=None):
    data = Table()
    data.validation, data.test = validation, test or data.test
    return data


def test_the_test_set_as_calibration_data_is_refused():
    same = rows(12, 0)
    with pytest.raises(ValueError, match=r"calibration data are the test set: 12 .* a recalibration must be fitted"):
        evaluate(data=with_validation(same, same))
    whole = rows(12, 0)
    with pytest.raises(ValueError, match="1 of its samples"):
        evaluate(data=with_validation(Subset(whole, [7, 9, 11]), Subset(whole, range(8))))
    evaluate(data=with_validation(Subset(whole, [8, 9, 11]), Subset(whole, range(8))))


def test_a_copy_of_the_test_set_is_refused_by_its_content():
    copy = TensorDataset(*(tensor.clone() for tensor in rows(12, 0).tensors))
    with pytest.raises(ValueError, match="12 of 12 calibration inputs are also test inputs, more than 10%"):
        evaluate(data=with_validation(copy, rows(12, 0)))


def test_a_few_equal_rows_give_a_warning_and_repeated_measurements_none():
    one = Subset(rows(12, 0), [3])
    with pytest.warns(UserWarning, match="^1 of 61 calibration inputs are also test inputs: a recalibration"):
        evaluate(data=with_validation(ConcatDataset([rows(60, 2), one]), rows(12, 0)))
    x, y = rows(12, 0).tensors
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*also test inputs.*")
        evaluate(data=with_validation(TensorDataset(x, y + 0.25), rows(12, 0)))


def test_labels_and_predictions_that_are_not_finite_are_refused():
    data = Table()
    data.test.tensors[1][[3, 8]] = torch.tensor([math.nan, math.inf])
    with pytest.raises(ValueError, match="NaN or infinite labels for 2 of 43 samples of the test set"):
        evaluate(data=data)
    data = Table()
    data.validation.tensors[1][0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite labels for 1 of 60 samples of the calibration data"):
        evaluate(data=data)
    broken = Table()
    broken.test.tensors[0][4] = math.nan
    wild = Regressor(lambda x: Normal(x[:, 0], torch.ones(len(x)), validate_args=False))
    with pytest.raises(ValueError, match="NaN or infinite predictions for 1 of 43 samples of the test set"):
        evaluate(wild, broken)


@pytest.mark.parametrize("family", ["histogram", "mixture", "gumbel"])
def test_predictions_of_nan_are_refused_for_every_family(family):
    broken = Table(5, 0, batch_size=1)
    broken.test.tensors[0][4] = math.nan

    def unchecked(x):
        torch.distributions.Distribution.set_default_validate_args(False)
        try:
            return FAMILIES[family](x)
        finally:
            torch.distributions.Distribution.set_default_validate_args(True)

    with pytest.raises(ValueError, match="NaN"):
        evaluate(Regressor(unchecked), broken, limit_val_batches=0)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.zeros(4, 3), torch.zeros(4, 1)), r"real numbers y of shape \(B,\), got .*\(4, 1\)"),
        (TensorDataset(torch.zeros(4, 3)), "real numbers y"),
        (TensorDataset(torch.zeros(4, 3), torch.ones(4, dtype=torch.bool)), "real numbers y"),
    ],
)
def test_batches_of_another_form_are_refused(dataset, message):
    data = Table(batch_size=4)
    data.test = dataset
    with pytest.raises(ValueError, match=message):
        evaluate(data=data)


def test_a_module_without_predictive_is_refused_by_name():
    class Silent(LightningModule):
        def test_step(self, batch, batch_idx):
            pass

    with pytest.raises(
        TypeError, match=r"RegressionCalibration needs a module with predictive\(x\).*; Silent has no method"
    ):
        evaluate(Silent())


def test_what_predictive_returns_is_checked_by_the_modules_name():
    with pytest.raises(ValueError, match=r"batch shape \(8,\).*of Regressor, got batch shape \(8, 3\)"):
        evaluate(Regressor(lambda x: Normal(x, 1.0)))


def test_an_empty_test_set_gives_no_results():
    data = Table()
    data.test = TensorDataset(torch.zeros(0, 3), torch.zeros(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results, _ = evaluate(data=data)
    assert results == {}  # Lightning runs no test loop over nothing
