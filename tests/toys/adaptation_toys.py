"""A classifier of two domains and data for tests of the callbacks of domain adaptation."""

import torch
from evaluation_toys import ToyClassifier, labelled, trainer_of
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

NAMES = {
    "validator/source_accuracy",
    "validator/accuracy_and_information",
    "validator/information_maximisation",
    "validator/entropy",
    "validator/diversity",
    "validator/snd",
    "validator/dev",
    "validator/dev_max_weight",
}
ORACLE = {"oracle/val_acc", "oracle/val_nll"}


class Restless(Dataset):
    """Draws from the global generator for every sample, as augmentation does."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + torch.rand(()) * 0, y


class Stream(IterableDataset):
    """Remembers how far it was read."""

    def __init__(self, data):
        self.data = data
        self.position = 0

    def __iter__(self):
        for _ in range(len(self.data)):
            yield self.data[self.position % len(self.data)]
            self.position += 1


class Pair(LightningDataModule):
    """Source and target as bytes that become numbers around 0 after the transfer to the device."""

    val_sets = ("a", "target/b")
    test_sets = ("a", "target/b", "near/c")

    def __init__(self, size=21, batch_size=4):
        super().__init__()
        self.batch_size = batch_size
        self.source = [labelled(2 * size, 1), labelled(size, 2), labelled(size, 3)]
        self.target = [labelled(size, 4, shift=1), labelled(size - 4, 5, shift=1), labelled(size - 4, 6, shift=1)]
        self.other = labelled(5, 7, shift=2)

    def train_dataloader(self):
        source, target = Restless(self.source[0]), TensorDataset(self.target[0].tensors[0])
        return {
            "source": DataLoader(source, self.batch_size, shuffle=True, drop_last=True),
            "target": DataLoader(target, self.batch_size, shuffle=True, drop_last=True),
        }

    def val_dataloader(self):
        return [DataLoader(part[1], self.batch_size) for part in (self.source, self.target)]

    def test_dataloader(self):
        return [DataLoader(part, self.batch_size) for part in (self.source[2], self.target[2], self.other)]

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if isinstance(batch, dict):
            (x, y), (target,) = batch["source"], batch["target"]
            return {"source": (x.float() - 3, y), "target": target.float() - 3}
        assert not self.trainer.training, "this would be augmented"
        return batch[0].float() - 3, *batch[1:]


class Adapting(ToyClassifier):
    """Trains on the source with dropout. Before the first step its arithmetic has no rounding."""

    def __init__(self, lr=0.01):
        super().__init__()
        self.dropout, self.lr = nn.Dropout(0.5), lr
        self.seen = []

    def domain_features(self, x):
        self.seen.append(x)
        torch.rand(())  # from the global generator, as a layer that samples does
        return self.dropout(self.body(x).relu())

    def domain_logits(self, x):
        return self.domain_features(x).sum(1) - 3

    def forward(self, x):
        return self.head(self.dropout(self.body(x).relu()))

    def training_step(self, batch, batch_idx):
        x, y = batch["source"]
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"logits": self(batch[0])}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def fit(callbacks, module=None, data=None, ckpt_path=None, **options):
    trainer = trainer_of(*callbacks, **{"max_epochs": 1, **options})
    trainer.fit(module or Adapting(), data or Pair(), ckpt_path=ckpt_path)
    return trainer


def numbers(trainer, prefixes=("validator/", "oracle/")):
    return {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith(prefixes)}


def points(samples, seed, shift=0.0):
    """Points of a plane with two classes."""
    x = torch.randn(samples, 2, generator=torch.Generator().manual_seed(seed)) + shift
    return TensorDataset(x, (x[:, 0] > shift).long())
