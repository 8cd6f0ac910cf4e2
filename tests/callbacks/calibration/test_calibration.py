import json
import warnings

import pytest
import torch
from evaluation_toys import CLASSES, QUIET, Data, Foreign, ToyClassifier, labelled, run_test
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from callbacks import CalibrationEvaluation
from callbacks.calibration import metrics
from callbacks.shared.batches import fingerprints

METRICS = ("accuracy", "nll", "brier", "ece", "rmsce", "mce", "ace", "classwise_ece", "aurc", "mean_confidence")


def evaluate(module=None, data=None, callback=None, **options):
    callback = callback or CalibrationEvaluation()
    trainer = run_test([callback], module, data, **options)
    return callback.results, trainer


def table(dataset, module):
    with torch.no_grad():
        return module(dataset.tensors[0].float() - 3), dataset.tensors[1]


class Returning(Foreign):
    """Whose forward is replaced, to bring bad input."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x))


def test_metrics_before_and_after_are_those_of_the_first_test_set():
    data, module = Data(), ToyClassifier()
    results, _ = evaluate(module, data)
    logits, labels = table(data.tests[0], module)
    fit = metrics.fit_temperature(*table(data.validation, module))
    assert results["temperature"] == fit.value != 1.0
    assert (results["samples"], results["classes"]) == (11, CLASSES)
    for part, z in (("before", logits), ("after", logits.double() / fit.value)):
        p = metrics.softmax(z)
        bins = metrics.reliability(*metrics.top_label(p, labels.numpy()))
        assert results[part]["accuracy"] == metrics.accuracy(p, labels.numpy())
        assert results[part]["nll"] == pytest.approx(metrics.nll(z, labels), rel=1e-12)
        assert results[part]["ece"] == pytest.approx(metrics.ece(bins), rel=1e-12)
        assert results[part]["rmsce"] == pytest.approx(metrics.rmsce(bins), rel=1e-12)
        assert results[part]["aurc"] == metrics.aurc(*metrics.top_label(p, labels.numpy()))
        assert results[part]["diagram"]["count"] == bins.count.tolist()


def test_results_are_plain_and_without_nan():
    results, _ = evaluate()
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    diagram = results["before"]["diagram"]
    assert [len(diagram[name]) for name in ("edges", "count", "accuracy", "confidence")] == [16, 15, 15, 15]
    assert all(
        (count == 0) == (value is None) for count, value in zip(diagram["count"], diagram["accuracy"], strict=True)
    )


def test_every_metric_is_logged_once_under_a_stable_key():
    results, trainer = evaluate()
    logged = trainer.callback_metrics
    for name in METRICS:
        assert logged[f"calibration/{name}"].item() == pytest.approx(results["before"][name], rel=1e-6)
        assert logged[f"calibration/{name}_after"].item() == pytest.approx(results["after"][name], rel=1e-6)
    assert logged["calibration/temperature"].item() == pytest.approx(results["temperature"])
    assert len(logged) == 2 * len(METRICS) + 1


def test_bins_and_convention_are_arguments():
    results, _ = evaluate(callback=CalibrationEvaluation(bins=4, right_closed=True))
    assert len(results["before"]["diagram"]["count"]) == 4
    with pytest.raises(ValueError, match="bins of at least 1, got 0"):
        CalibrationEvaluation(bins=0)


def test_logits_of_the_step_are_not_computed_again():
    module = ToyClassifier()
    evaluate(module, Data(sizes=(11,), batch_size=4, validation=8))
    assert module.forwards == 3 + 2  # test steps, validation batches


def test_a_foreign_module_and_plain_loaders_are_judged_without_temperature():
    callback = CalibrationEvaluation()
    dataset = labelled(10, 0)
    loader = DataLoader(TensorDataset(dataset.tensors[0].float(), dataset.tensors[1]), batch_size=3)
    with pytest.warns(UserWarning, match="no validation data"):
        Trainer(accelerator="cpu", **QUIET, callbacks=[callback]).test(Foreign(), loader, verbose=False)
    assert callback.results["samples"] == 10
    assert callback.results["after"] is callback.results["temperature"] is None


def test_a_loader_given_for_the_temperature_is_used_in_full():
    given = labelled(23, 300)
    given = TensorDataset(given.tensors[0], given.tensors[1])
    module = ToyClassifier()
    loader = DataLoader(given, batch_size=5, shuffle=True, drop_last=True)
    results, _ = evaluate(module, callback=CalibrationEvaluation(calibration_data=loader), limit_val_batches=1)
    expected = metrics.fit_temperature(*table(given, module))
    assert results["temperature"] == pytest.approx(expected.value, rel=1e-9)


def test_limits_leave_only_what_was_seen():
    with pytest.warns(UserWarning, match="no validation data"):
        results, _ = evaluate(data=Data(batch_size=3), limit_test_batches=2, limit_val_batches=0)
    assert results["samples"] == 6
    assert results["after"] is None


def test_the_split_of_a_fit_before_is_not_drawn_again():
    class Resplitting(Data):
        setups = 0

        def setup(self, stage):
            self.setups += stage == "fit"

    class Trained(ToyClassifier):
        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    data, module = Resplitting(), Trained()
    trainer = Trainer(accelerator="cpu", max_epochs=1, **QUIET, callbacks=[CalibrationEvaluation()])
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    assert data.setups == 1
    evaluate(module, data)
    assert data.setups == 2


def test_pictures_and_tables_reach_the_logger(tmp_path):
    evaluate(logger=CSVLogger(tmp_path))
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {"reliability.png", "figures.csv", "metrics.csv"} <= names


class Validating(Data):
    """With a validation loader from the test."""

    def __init__(self, validation_loader, tests=None):
        super().__init__()
        self.validation_loader = validation_loader
        self.tests = tests or self.tests

    def val_dataloader(self):
        return self.validation_loader


def test_the_test_set_as_calibration_data_is_refused():
    test = labelled(12, 0)
    with pytest.raises(ValueError, match="calibration data are the test set: 12"):
        evaluate(data=Validating(DataLoader(test), [test] * 3))


def test_parts_of_one_data_set_are_refused_only_where_they_overlap():
    whole = labelled(12, 0)
    test = Subset(Subset(whole, range(12)), range(8))
    evaluate(data=Validating(DataLoader(Subset(whole, [8, 9, 10, 11])), [test] * 3))
    sampled = DataLoader(whole, sampler=SubsetRandomSampler([8, 9, 10]))
    evaluate(data=Validating(sampled, [test] * 3))
    with pytest.raises(ValueError, match="1 of its samples"):
        evaluate(data=Validating(DataLoader(Subset(whole, [7, 9, 10, 11])), [test] * 3))


def test_a_copy_of_the_test_set_is_refused_by_its_content():
    copy = TensorDataset(*(tensor.clone() for tensor in labelled(12, 0).tensors))
    with pytest.raises(ValueError, match="12 of 12 calibration inputs are also test inputs, more than 10%"):
        evaluate(data=Validating(DataLoader(copy, batch_size=5), [labelled(12, 0)] * 3))


def sharing(share, samples=40):
    """Validation data of which a share equals test inputs."""
    test, validation = labelled(samples, 0), labelled(samples, 300)
    common = round(share * samples)
    mixed = (torch.cat([a[:common], b[common:]]) for a, b in zip(test.tensors, validation.tensors, strict=True))
    return Validating(DataLoader(TensorDataset(*mixed), batch_size=7), [test] * 3)


@pytest.mark.parametrize(("share", "number"), [(0.025, 1), (0.05, 2), (0.1, 4)])
def test_a_few_duplicates_of_test_inputs_give_a_warning_with_their_number(share, number):
    with pytest.warns(UserWarning, match=f"^{number} of 40 calibration inputs are also test inputs"):
        results, _ = evaluate(data=sharing(share))
    assert results["after"] is not None


@pytest.mark.parametrize(("share", "number"), [(0.125, 5), (0.4, 16)])
def test_more_than_a_tenth_of_test_inputs_is_refused(share, number):
    with pytest.raises(ValueError, match=f"{number} of 40 calibration inputs are also test inputs"):
        evaluate(data=sharing(share))


def test_no_common_input_gives_no_warning():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*also test inputs.*")
        evaluate(data=sharing(0.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: z.softmax(1), "all rows of the test set are probabilities"),
        (
            lambda z: torch.where(z == z.max(), torch.nan, z),
            "NaN or infinite logits for . of 11 samples of the test set",
        ),
        (lambda z: z / 0.0, "NaN or infinite logits"),
        (lambda z: z[:, 0], r"expected logits of shape \(\d, classes\) from Returning, got a tensor of shape \(\d,\)"),
        (lambda z: z[:, :1], "at least two classes"),
    ],
)
def test_logits_that_are_none_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(Returning(change), limit_val_batches=0)


def test_labels_out_of_range_are_refused():
    data = Data()
    data.tests[0].tensors[1][3] = 7
    with pytest.raises(ValueError, match="out of range for 1 of 11 samples: expected 0 to 2, got 0 to 7"):
        evaluate(data=data)


def test_batches_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"expected a batch \(x, y\) with integer labels"):
        evaluate(data=Validating(None, [TensorDataset(torch.zeros(4, 6), torch.zeros(4))] * 3))


def test_a_module_without_forward_is_refused_by_name():
    class Silent(LightningModule):
        def test_step(self, batch, batch_idx):
            pass

    with pytest.raises(TypeError, match=r"CalibrationEvaluation needs forward.*Silent has none"):
        evaluate(Silent(), Data(sizes=(5,)))


def test_one_sample_is_enough():
    results, _ = evaluate(data=Data(sizes=(1,), validation=1))
    assert results["samples"] == 1
    assert results["before"]["accuracy"] in (0.0, 1.0)


def test_fingerprints_tell_inputs_apart_whatever_the_batch():
    x = torch.randn(40, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    whole = fingerprints(x)
    assert torch.equal(torch.cat([fingerprints(part) for part in x.split(7)]), whole)
    assert len(whole.unique()) == 40
    assert torch.equal(fingerprints(x.double()), whole)
    assert torch.equal(fingerprints(torch.tensor([-0.0])), fingerprints(torch.tensor([0.0])))


@pytest.mark.parametrize(("size", "used"), [(1, 1), (4, 4), (5, 3), (7, 4), (8, 4), (9, 3)])
def test_fingerprints_are_made_of_at_most_so_many_values(size, used):
    changed_in_one_value = torch.eye(size)
    assert (fingerprints(changed_in_one_value, values=4) != 0).sum() == used
