"""Calibration under shift: test sets named ``target/…`` are judged with the temperature of the source."""

import json

import pytest
import torch
from evaluation_toys import QUIET, Data, Dump, Foreign, ShiftedData, ToyClassifier, labelled, run_test
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from callbacks import CalibrationEvaluation
from callbacks.calibration import metrics
from callbacks.calibration.callback import METRICS

TARGET = "target/moved"


def evaluate(module=None, data=None, callback=None, **options):
    callback = callback or CalibrationEvaluation()
    trainer = run_test([callback], module, data or ShiftedData(), **options)
    return callback.results, trainer


def table(dataset, module):
    with torch.no_grad():
        return module(dataset.tensors[0].float() - 3), dataset.tensors[1]


def test_the_target_is_judged_before_and_after_the_temperature_of_the_source():
    data, module = ShiftedData(size=9), ToyClassifier()
    results, _ = evaluate(module, data)
    logits, labels = table(data.tests[1], module)
    temperature = metrics.fit_temperature(*table(data.validation, module)).value
    found = results["shifted"][TARGET]
    assert results["temperature"] == temperature != 1.0
    assert found["samples"] == 9
    assert found["before"]["ece"] != results["before"]["ece"]
    for part, z in (("before", logits), ("after", logits.double() / temperature)):
        p = metrics.softmax(z)
        bins = metrics.reliability(*metrics.top_label(p, labels.numpy()))
        assert set(found[part]) == {*METRICS, "diagram"}
        assert found[part]["accuracy"] == metrics.accuracy(p, labels.numpy())
        assert found[part]["nll"] == pytest.approx(metrics.nll(z, labels), rel=1e-12)
        assert found[part]["ece"] == pytest.approx(metrics.ece(bins), rel=1e-12)
        assert found[part]["diagram"]["count"] == bins.count.tolist()
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_the_source_is_judged_as_without_a_target():
    shifted, one = evaluate()
    plain, other = evaluate(data=Data())
    assert {key: value for key, value in shifted.items() if key != "shifted"} == plain
    added = {f"calibration/{TARGET}/{name}{end}" for name in METRICS for end in ("", "_after")}
    assert set(one.callback_metrics) == set(other.callback_metrics) | added


def test_every_metric_of_the_target_is_logged_once():
    results, trainer = evaluate()
    for part, end in (("before", ""), ("after", "_after")):
        for name in METRICS:
            logged = trainer.callback_metrics[f"calibration/{TARGET}/{name}{end}"].item()
            assert logged == pytest.approx(results["shifted"][TARGET][part][name], rel=1e-6)


def test_without_a_target_the_other_test_sets_are_not_run_through_the_module():
    counts = []
    for callbacks in ([], [CalibrationEvaluation()]):
        module = Foreign()
        run_test(callbacks, module, Data(sizes=(8, 8, 8), batch_size=4, validation=4))
        counts.append(module.forwards)
    assert counts == [6, 6 + 2 + 1]  # the step returns no logits: the first set once more, and the validation data


def test_names_can_be_given_for_plain_loaders():
    def loader(seed):
        dataset = labelled(10, seed)
        return DataLoader(TensorDataset(dataset.tensors[0].float(), dataset.tensors[1]), batch_size=3)

    callback = CalibrationEvaluation(test_sets=["mine", "far/noise", "target/one", "target/two"])
    with pytest.warns(UserWarning, match="no validation data"):
        Trainer(accelerator="cpu", **QUIET, callbacks=[callback]).test(Foreign(), [loader(n) for n in range(4)])
    assert {name: found["after"] for name, found in callback.results["shifted"].items()} == {
        "target/one": None,
        "target/two": None,
    }


def test_a_strangers_attribute_of_the_same_name_is_left_alone():
    data = Data()
    data.test_sets = 3
    assert "shifted" not in evaluate(data=data)[0]


def test_pictures_and_tables_of_the_target_reach_the_logger(tmp_path):
    evaluate(logger=CSVLogger(tmp_path))
    files = {str(path.relative_to(tmp_path)).split("version_0/")[-1] for path in tmp_path.rglob("*.*")}
    for group in ("calibration", f"calibration/{TARGET}"):
        assert {f"images/{group}/reliability.png", f"tables/{group}/figures.csv"} <= files


@pytest.mark.parametrize(("label", "got"), [(-1, "-1 to"), (7, "0 to 7")])
def test_target_labels_out_of_range_are_refused_by_the_name_of_the_set(label, got):
    data = ShiftedData()
    data.tests[1].tensors[1][2] = label
    message = f"labels of test set '{TARGET}' out of range for 1 of 6 samples: expected 0 to 2, got {got}"
    with pytest.raises(ValueError, match=message):
        evaluate(data=data)


def test_a_target_without_labels_is_refused_by_the_name_of_the_set():
    class Unlabelled(ShiftedData):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            x, y = super().on_after_batch_transfer(batch, dataloader_idx)
            return x if dataloader_idx == 1 and self.trainer.testing else (x, y)

    class Reading(ToyClassifier):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            return {"logits": self(batch if dataloader_idx == 1 else batch[0])}

    with pytest.raises(ValueError, match=f"test set '{TARGET}' has no labels: expected batches"):
        evaluate(Reading(), Unlabelled())


def test_nan_logits_of_the_target_are_refused_by_the_name_of_the_set():
    class Sensitive(ToyClassifier):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            logits = self(batch[0])
            return {"logits": logits * torch.nan if dataloader_idx == 1 else logits}

    with pytest.raises(ValueError, match=f"NaN or infinite logits for 6 of 6 samples of test set '{TARGET}'"):
        evaluate(Sensitive())


class Validating(ShiftedData):
    """With validation data from the test."""

    def __init__(self, validation, target):
        super().__init__()
        self.validation, self.tests[1] = validation, target


def test_the_target_as_calibration_data_is_refused():
    target = labelled(12, 60)
    with pytest.raises(ValueError, match=f"the calibration data are test set '{TARGET}': 12 of its samples"):
        evaluate(data=Validating(target, target))


def test_a_copy_of_the_target_is_refused_by_its_content():
    copy = TensorDataset(*(tensor.clone() for tensor in labelled(12, 60).tensors))
    message = f"12 of 12 calibration inputs are also inputs of test set '{TARGET}', more than 10%"
    with pytest.raises(ValueError, match=message):
        evaluate(data=Validating(copy, labelled(12, 60)))


def test_names_must_fit_the_loaders_and_be_distinct():
    with pytest.raises(ValueError, match="2 names for 4 loaders"):
        evaluate(callback=CalibrationEvaluation(test_sets=["toy", TARGET]))
    for names in ([], ["toy", "toy"]):
        with pytest.raises(ValueError, match="each once"):
            CalibrationEvaluation(test_sets=names)
    data = ShiftedData()
    data.test_sets = ("toy", TARGET, TARGET, "far/shifted")
    with pytest.raises(ValueError, match="distinct names"):
        evaluate(data=data)


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.long), 3])
def test_several_processes_count_each_sample_of_the_target_once(tmp_path, monkeypatch, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    torch.set_num_threads(1)
    for number in (1, devices):
        folder = tmp_path / str(number)
        folder.mkdir()
        strategy = {"strategy": "ddp_fork"} if number > 1 else {}
        run_test([CalibrationEvaluation(), Dump(folder)], None, ShiftedData(size=7), devices=number, **strategy)
    alone, *together = (
        (tmp_path / str(number) / f"{rank}.json").read_text()
        for number, rank in [(1, 0), *((devices, rank) for rank in range(devices))]
    )
    assert json.loads(alone)[0][0]["shifted"][TARGET]["samples"] == 7  # divided by neither 2 nor 3
    assert together == [alone] * devices
