"""What every module of the zoo passes; a new paper is covered by one file in ``conf/``.

The tests on precision and on several processes stand in the files beside this one.

Besides ``model`` and ``data``, in the command line's form, a file has ``contract:``, where special cases belong:

* ``noise`` (required): whether a training step draws random numbers of its own, which two processes must not share;
* ``batch_independent`` (true): whether the forward of an input in evaluation mode ignores the rest of its batch;
* ``strategy`` (ddp_fork): Lightning's name of the strategy for two processes;
* ``teacher`` (none): a module that is trained first and saved where ``model`` has its ``teacher``;
* ``joint_batch`` (required): ``equal`` if a step of two processes with batches of n is that of one with 2 n, otherwise
  why it is not; the module's docstring says either;
* ``of_batches`` (none): validation metrics that are means over batches, not over samples, so that they change with the
  number of processes;
* ``resembles`` (none): another configuration of the same method, which stands for this one in the slow tests;
  ``make test-long`` runs both;
* ``half_precision`` (0.05): how far a short run in bf16-mixed or 16-mixed may end from float32, as a share of the loss;
* ``lost_steps`` (0): the most steps that 16-mixed leaves out at the start, until the scale of the loss has come down.

Data that offer ``num_classes`` are images in [-1, 1] with classes, those that offer ``num_features`` rows of a table;
those with neither are images in [-1, 1] whose labels no module may look at.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from contract_runs import QUIET, build, build_from_command_line, differences, fit, fitted
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

import train
from callbacks import (
    CalibrationEvaluation,
    DisentanglementEvaluation,
    LatentPictures,
    OODEvaluation,
    Randomness,
    RegressionCalibration,
    SampleGrid,
    SimilarityMatrices,
)
from zoo.command_line.trained import FROM_DATA


def inputs(data: Any, count: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if hasattr(data, "num_features"):
        return torch.randn(count, data.num_features, generator=generator)
    return torch.rand(count, *data.image_shape, generator=generator) * 2 - 1


class Gradients(Callback):
    """Which parameters received a gradient, with automatic and with manual optimisation."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.broken: set[str] = set()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        found = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        self.seen |= {name for name, gradient in found.items() if bool(gradient.abs().sum() > 0)}
        self.broken |= {name for name, gradient in found.items() if not gradient.isfinite().all()}

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.on_before_optimizer_step(trainer, pl_module, optimizer)


def test_four_training_steps_reach_every_parameter_and_log_a_loss(conf):
    model, data = build(conf)
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    gradients = Gradients()
    trainer = fit(model, data, [gradients])
    assert gradients.seen == set(before)
    assert not gradients.broken
    after = dict(model.named_parameters())
    assert all(after[name].isfinite().all() for name in before)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


class InferenceMode(Callback):
    def on_validation_batch_end(self, *_: Any) -> None:
        assert torch.is_inference_mode_enabled()

    def on_test_batch_end(self, *_: Any) -> None:
        assert torch.is_inference_mode_enabled()


def test_validate_and_test_work_in_inference_mode_with_every_evaluation_that_applies(conf):
    model, data = fitted(conf)
    classifies, regresses = hasattr(data, "num_classes"), hasattr(data, "num_features")
    calibration, ood, grid = CalibrationEvaluation(), OODEvaluation(resamples=10, knn_k=5), SampleGrid(number=4)
    applicable = [calibration, ood] if classifies else []
    applicable += [grid] if hasattr(model, "sample") else []
    regression = RegressionCalibration()
    applicable += [regression] if hasattr(model, "predictive") else []
    similarity = SimilarityMatrices(number=80)
    applicable += [similarity] if hasattr(model, "block_features") else []
    disentanglement = DisentanglementEvaluation(("mig", "sap"), num_train=100, num_test=100, batch_size=50)
    applicable += [disentanglement, LatentPictures(number=4)] if hasattr(model, "encode") else []
    trainer = Trainer(**QUIET, callbacks=[InferenceMode(), *applicable])
    validated = trainer.validate(model, datamodule=data, verbose=False)[0]
    assert validated["val/loss"] > 0
    trainer.test(model, datamodule=data, verbose=False)
    assert torch.isfinite(trainer.callback_metrics["test/loss"])
    if classifies:
        assert 0 <= calibration.results["before"]["ece"] <= 1
        assert 0 <= trainer.callback_metrics["test/acc"] <= 1
        own = model.ood_scores(inputs(data)) if hasattr(model, "ood_scores") else {}
        assert {"msp", *own} <= {score.lower() for score in ood.results["scores"]}
        assert set(ood.results["sets"]) == set(data.test_sets[1:])
    elif regresses:
        assert validated["val/rmse"] >= validated["val/mae"] > 0
        assert {"test/rmse", "test/mae"} <= set(trainer.callback_metrics)
    else:
        assert validated["val/elbo"] == pytest.approx(-validated["val/reconstruction"] - validated["val/kl"], rel=1e-5)
    if regression in applicable:
        assert {"calibration/crps", "calibration/nll"} <= set(trainer.callback_metrics)
        assert trainer.callback_metrics["calibration/crps"] > 0
    if grid in applicable:
        assert grid.grid is not None
    if similarity in applicable:
        assert len(similarity.results["blocks"]) == len(model.block_features(inputs(data)))
    if disentanglement in applicable:
        assert 0 <= trainer.callback_metrics["disentanglement/mean/mig"] <= 1
        assert trainer.callback_metrics["latents/active"] >= 0


def test_predict_gives_one_prediction_for_each_sample(conf):
    model, data = fitted(conf)
    predictions = torch.cat(Trainer(**QUIET).predict(model, datamodule=data))
    assert len(predictions) == len(data.predict_dataloader().dataset)
    assert predictions.isfinite().all()


class Losses(Callback):
    """What each training step returned."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"] if isinstance(outputs, dict) else outputs))


def losses_of_a_run(conf: dict[str, Any], steps: int, **arguments: Any) -> tuple[list[float], Any]:
    """After seeding, so that two runs differ in the arguments only."""
    seed_everything(0, verbose=False)
    model, data = build(conf)
    losses = Losses()
    fit(model, data, [losses], max_epochs=steps, max_steps=steps, **arguments)
    return losses.values, model


@pytest.mark.parametrize("origin", ["command line", "Python"])
def test_a_checkpoint_gives_the_same_module_back(conf, origin, tmp_path):
    model, data = build_from_command_line(conf) if origin == "command line" else build(conf)
    path = tmp_path / "saved.ckpt"
    fit(model, data, [], limit_train_batches=2).save_checkpoint(path)
    arguments = torch.load(path, weights_only=True)["hyper_parameters"]
    json.dumps(arguments)
    loaders = [type(model), LightningModule] if origin == "command line" else [type(model)]
    for loader in loaders:
        loaded = loader.load_from_checkpoint(path, weights_only=True)
        assert type(loaded) is type(model)
        x = inputs(data)
        with torch.no_grad():
            assert torch.equal(loaded.eval()(x), model.eval()(x))


def saved_state(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    return {key: value for key, value in checkpoint.items() if key not in ("loops", "callbacks")}


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(conf, tmp_path):
    def run(folder: Path, ckpt_path: Path | None = None) -> None:
        model, data = build(conf)
        torch.rand(7 if ckpt_path else 1)  # whatever else a process draws before it trains
        keep = ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
        arguments = {"max_epochs": 2, "limit_train_batches": 3, "enable_checkpointing": True, "ckpt_path": ckpt_path}
        fit(model, data, [Randomness(), keep], **arguments)

    run(tmp_path / "whole")
    run(tmp_path / "resumed", tmp_path / "whole" / "epoch=0.ckpt")
    whole, resumed = (saved_state(tmp_path / name / "epoch=1.ckpt") for name in ("whole", "resumed"))
    assert differences(whole, resumed) == []


def test_the_forward_of_an_input_ignores_the_rest_of_its_batch(conf):
    model, data = fitted(conf)
    model.eval()
    x = inputs(data)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(one) for one in x.split(1)])
    same = torch.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert same == conf["contract"].get("batch_independent", True)


class Spoiled(Callback):
    """Passes one bad batch to the training step."""

    def __init__(self, number: float | None, label: float | None) -> None:
        self.number, self.label = number, label
        self.before: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.before = copy.deepcopy(pl_module.state_dict())  # with the support, which comes from the labels

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        for part in batch.values() if isinstance(batch, dict) else [batch]:
            x, y = part if isinstance(part, list | tuple) else (part, None)
            if self.number is not None:
                x[(0,) * x.dim()] = self.number
            if self.label is not None and y is not None:
                y[0] = self.label


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("number", "label", "of_images", "of_rows"),
    [
        (NAN, None, "NaN or infinite pixels", "NaN or infinite features"),
        (INFINITY, None, "NaN or infinite pixels", "NaN or infinite features"),
        (None, (10, NAN), "labels from 0 to 10 arrived", "NaN or infinite labels in 1 of 16 rows of a batch: rows .0."),
        (None, (-1, INFINITY), r"labels from -1 to \d arrived", "NaN or infinite labels in 1 of 16 rows"),
    ],
)
def test_bad_inputs_and_labels_stop_the_training_before_the_state_changes(conf, number, label, of_images, of_rows):
    model, data = build(conf)
    before, images = copy.deepcopy(model.state_dict()), hasattr(data, "image_shape")
    spoiled = Spoiled(number, label and label[0 if images else 1])
    if images and not hasattr(data, "num_classes") and number is None:
        fit(model, data, [spoiled])
        untouched, data = build(conf)
        fit(untouched, data, [])
        assert differences(untouched.state_dict(), model.state_dict()) == [], "it learnt from the labels"
        return
    with pytest.raises(ValueError, match=of_images if images else of_rows):
        fit(model, data, [spoiled])
    assert differences(before if images else spoiled.before, model.state_dict()) == []


def test_the_command_line_knows_the_module_its_recipe_and_its_arguments(conf, capsys):
    name = conf["model"]["class_path"]
    with pytest.raises(SystemExit) as end:
        train.main(["fit", "--model", name, "--print_config"])
    assert end.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == name
    with pytest.raises(SystemExit) as end:
        train.main(["fit", f"--model.help={name}"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    _, data = build(conf)
    decided = [option for option in FROM_DATA if hasattr(data, option)]
    assert [option for option in decided if f"--model.{option}" not in shown] == []
