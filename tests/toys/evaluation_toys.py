"""A classifier and data for tests of the evaluation callbacks."""

import json

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
CLASSES, INPUTS, WIDTH = 3, 6, 8


def integers(low, high, size, seed):
    return torch.randint(low, high, size, generator=torch.Generator().manual_seed(seed)).float()


class Foreign(LightningModule):
    """What a stranger brings: forward and test_step. With few binary digits its arithmetic has no rounding."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(INPUTS, WIDTH), nn.Linear(WIDTH, CLASSES)
        for number, parameter in enumerate(self.parameters()):
            parameter.data = integers(-2, 3, parameter.shape, number) / 8
        self.forwards = 0

    def forward(self, x):
        self.forwards += 1
        return self.head(self.body(x).relu())

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self(batch[0])


class ToyClassifier(Foreign):
    """With all capabilities."""

    def features(self, x):
        return self.body(x).relu()

    def ood_scores(self, x):
        return {"log_density": -self.forward(x).logsumexp(1), "distance": x.square().sum(1)}

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return {"logits": self(batch[0])}


class Blocks(Foreign):
    """Two blocks: the inputs, and what `Foreign` makes of them."""

    def block_features(self, x):
        return [x, self.body(x).relu()]


def labelled(samples, seed, shift=0):
    """Integer inputs as bytes, and labels that are mostly what `Foreign` predicts."""
    x = integers(0, 7, (samples, INPUTS), seed)
    with torch.no_grad():
        y = Foreign()(x - 3).argmax(1)
    y[::4] = (y[::4] + 1) % CLASSES
    return TensorDataset((x + shift).to(torch.uint8), y)


class Data(LightningDataModule):
    """Bytes that become numbers around 0 after the transfer to the device, augmented (badly) in training."""

    def __init__(self, sizes=(11, 7, 5), batch_size=4, validation=9, train=40, **loader):
        super().__init__()
        names = ("toy", "near/shifted", "far/shifted", "near/more")[: len(sizes)]
        self.test_sets = names
        self.batch_size, self.loader = batch_size, loader
        self.train, self.validation = labelled(train, 100), labelled(validation, 200)
        self.tests = [labelled(size, number, shift=number) for number, size in enumerate(sizes)]
        for ood in self.tests[1:]:
            ood.tensors = (ood.tensors[0], torch.full((len(ood),), -1))

    def train_dataloader(self):
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.validation, self.batch_size)

    def test_dataloader(self):
        return [DataLoader(test, self.batch_size, **self.loader) for test in self.tests]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x.float() - 3 + 1000 * self.trainer.training, y


class ShiftedData(Data):
    """With a labelled ``target/moved`` after the first test set; its seed is that of no other set."""

    def __init__(self, size=6, **arguments):
        super().__init__(**arguments)
        self.test_sets = (self.test_sets[0], "target/moved", *self.test_sets[1:])
        self.tests.insert(1, labelled(size, 50, shift=1))


class Dump(Callback):
    """Writes the results and metrics of each process, for tests that run in several."""

    def __init__(self, folder):
        self.folder = folder

    def on_test_end(self, trainer, pl_module):
        results = [callback.results for callback in trainer.callbacks if hasattr(callback, "results")]
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps([results, metrics], sort_keys=True))


def trainer_of(*callbacks, **options):
    return Trainer(accelerator="cpu", **{"devices": 1, **QUIET, **options}, callbacks=list(callbacks))


def run_test(callbacks, module=None, data=None, **options):
    trainer = Trainer(accelerator="cpu", **{"devices": 1, **QUIET, **options}, callbacks=callbacks)
    trainer.test(module or ToyClassifier(), data or Data(), verbose=False)
    return trainer
