"""Validation and test of classifiers and regressors: each sample counts once, and callbacks get what they need."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from zoo import Classifier, LocalErrorSignals
from zoo.shared.evaluation import SetMeans, class_probabilities, judge_classifier, judge_regressor

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    "logger": False,
}  # fmt: skip
SAMPLES, BATCH = 11, 4  # two processes have 6 samples each, one of which is a repetition


class Toy(LightningModule):
    """Its outputs are its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hparams.update(num_classes=3, num_features=3)
        self.image_shape = (3, 1, 1)
        self.means = SetMeans()
        self.steps: list[dict[str, Tensor]] = []

    def configure_optimizers(self) -> None:
        return None


class ToyClassifier(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        largest = {"largest": lambda logits: logits.amax(1)}
        self.steps.append(judge_classifier(self, "test", batch, batch_idx, dataloader_idx, **largest))
        return self.steps[-1]


class ToyRegressor(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)

    def evaluate(self, x: Tensor, y: Tensor, counted: slice) -> tuple[Tensor, dict[str, Tensor]]:
        prediction = self(x)
        return prediction, {"loss": functional.huber_loss(prediction[counted], y[counted])}

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        self.steps.append(judge_regressor(self, "test", batch, batch_idx, self.evaluate, dataloader_idx))
        return self.steps[-1]


def images(samples: int = SAMPLES) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 3, 1, 1, generator=generator)
    return TensorDataset(x, torch.randint(3, (samples,), generator=generator))


def rows() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(SAMPLES, 3, generator=generator), torch.randn(SAMPLES, generator=generator))


def expected_of(module: Toy) -> dict[str, float]:
    if isinstance(module, ToyClassifier):
        x, y = images().tensors
        logits = x.flatten(1).double()
        loss, right = functional.cross_entropy(logits, y), (logits.argmax(1) == y).double()
        return {"test/loss": float(loss), "test/acc": float(right.mean()), "test/largest": float(logits.amax(1).mean())}
    x, y = rows().tensors
    errors = (x.sum(1) - y).double()
    loss = functional.huber_loss(x.sum(1).double(), y.double())
    return {
        "test/loss": float(loss),
        "test/mae": float(errors.abs().mean()),
        "test/rmse": math.sqrt(errors.square().mean()),
    }


@pytest.mark.parametrize(("kind", "data"), [(ToyClassifier, images), (ToyRegressor, rows)])
def test_the_first_loader_gives_the_metrics_of_its_set_and_all_give_outputs_of_every_sample(kind, data):
    module, trainer = kind(), Trainer(**QUIET)
    first, other = (
        DataLoader(data(), BATCH),
        DataLoader(TensorDataset(data().tensors[0][:2] - 100), BATCH),
    )  # unlabelled
    (found, _) = trainer.test(module, [first, other], verbose=False)
    assert found == pytest.approx(expected_of(module), rel=1e-6)
    (key,) = module.steps[0]
    inputs = torch.cat([loader.dataset.tensors[0] for loader in (first, other)])
    torch.testing.assert_close(torch.cat([step[key] for step in module.steps]), module(inputs))


class WriteMetrics(Callback):
    """From a process that ``ddp_fork`` started, nothing else comes back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize(("kind", "data"), [(ToyClassifier, images), (ToyRegressor, rows)])
def test_two_processes_find_what_one_does_though_samples_are_repeated(kind, data, tmp_path):
    module = kind()
    trainer = Trainer(**QUIET, devices=2, strategy="ddp_fork", callbacks=[WriteMetrics(tmp_path)])
    trainer.test(module, DataLoader(data(), BATCH), verbose=False)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected_of(module), rel=1e-6)


def test_a_bad_batch_is_refused_in_the_first_loader_and_let_pass_in_the_others():
    x, y = images().tensors
    bad = DataLoader(TensorDataset(x, y - 3), BATCH)
    Trainer(**QUIET).test(ToyClassifier(), [DataLoader(images(), BATCH), bad], verbose=False)
    with pytest.raises(ValueError, match="labels from -2"):
        Trainer(**QUIET).test(ToyClassifier(), bad, verbose=False)


def test_a_prediction_has_the_probabilities_of_a_batch_with_labels_and_of_one_without():
    x, y = images().tensors
    for batch in (x, (x, y), [x, y]):
        torch.testing.assert_close(class_probabilities(ToyClassifier(), batch), x.flatten(1).softmax(1))


@pytest.mark.parametrize("module", [Classifier(), LocalErrorSignals()])
def test_a_training_batch_that_is_a_dictionary_is_refused_in_one_line(module):
    x, y = torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    loaders = {"labelled": DataLoader(TensorDataset(x, y), 4), "unlabelled": DataLoader(TensorDataset(x), 4)}
    with pytest.raises(ValueError, match=r"'labelled' arrived in the place of images; expected batches \(x, y\)"):
        Trainer(**QUIET, max_steps=1).fit(module, loaders)
