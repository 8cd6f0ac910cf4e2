"""Hyper-parameters of domain adaptation without target labels: ``python -m benchmarks.dann.reverse_validation``.

    ... --config zoo/dann/recipe_digits.yaml --sweep model.max_coefficient=0.1,0.3,1.0
    python -m benchmarks.dann.reverse_validation --config FILE --sweep model.lr=0.01,0.1 --sweep seed_everything=0,1

Reverse validation (Ganin et al. 2016, section 5.1, after Zhong et al. 2010): a classifier eta is trained on the
labelled source S' and the unlabelled target T', the training sets of the data module. It labels T'. A second one,
eta_r, starts from eta's weights and is trained the other way round, on T' with these labels as its source and S'
without labels as its target. Its error on the source's validation set S_V is the reverse risk: the smaller the better.
No label of the target is used.

Every combination of the ``--sweep`` values is judged: one configuration in the form of ``train.py``, two trainings
each, the last weights. (The paper stops either training early: the first by S_V, the second by a part of the target
that is held out, with eta's labels.) The recipe's callbacks and loggers are left out. All other options go to
``train.py``.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.images.image_set import ImageSet, UnlabelledSet
from datamodules.shared.collate import as_is
from train import main as train

from ..shared.runs import QUIET_FLAGS, print_table, silence_lightning

Setting = dict[str, Any]
FLAGS = [*QUIET_FLAGS, "--trainer.devices=1"]


class ReversedDataModule(L.LightningDataModule):
    """Training batches with source and target exchanged; the target is labelled by someone.

    Args:
        data: A data module with batches ``{"source": (x, y), "target": x}``.
        labels: (N,) int64, for the target's N training samples, in their order.
    """

    def __init__(self, data: L.LightningDataModule, labels: Tensor) -> None:
        super().__init__()
        self.data, self.labels = data, labels

    def train_dataloader(self) -> dict[str, DataLoader]:
        """The same samples, batch sizes and remainders as forwards; both shuffled."""
        loaders = domain_loaders(self.data)
        sets = {
            "source": ImageSet(loaders["target"].dataset.images, self.labels),
            "target": UnlabelledSet(loaders["source"].dataset.images),
        }
        of = {"source": loaders["target"], "target": loaders["source"]}
        return {
            domain: DataLoader(
                samples, of[domain].batch_size, shuffle=True, drop_last=of[domain].drop_last, collate_fn=as_is
            )
            for domain, samples in sets.items()
        }

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """The transforms of the data module, each domain's own."""
        self.data.trainer = self.trainer
        (x, labels), unlabelled = batch["source"], batch["target"]
        forwards = self.data.on_after_batch_transfer({"source": (unlabelled, labels), "target": x}, dataloader_idx)
        return {"source": (forwards["target"], labels), "target": forwards["source"][0]}


def domain_loaders(data: Any) -> dict[str, Any]:
    """The training loaders of source and target.

    Raises:
        SystemExit: The data module has others.
    """
    loaders = data.train_dataloader()
    if not isinstance(loaders, dict) or set(loaders) != {"source", "target"}:
        raise SystemExit(f"expected data with the two training loaders source and target, got {type(data).__name__}")
    return loaders


@torch.no_grad()
def labels_of(module: L.LightningModule, data: L.LightningDataModule, loader: DataLoader) -> tuple[Tensor, Tensor]:
    """The most probable classes (N,) of a loader's samples and the labels (N,) that come with them."""
    module.eval()
    predicted, given = [], []
    for batch in loader:
        x, y = data.on_after_batch_transfer(data.transfer_batch_to_device(batch, module.device, 0), 0)
        predicted.append(module(x).argmax(1).cpu())
        given.append(y.cpu())
    return torch.cat(predicted), torch.cat(given)


def error(module: L.LightningModule, data: Any) -> float:
    """Share of the source's validation samples that are misclassified."""
    predicted, given = labels_of(module, data, data.val_dataloader()[0])
    return (predicted != given).double().mean().item()


def reverse_risk(arguments: list[str]) -> dict[str, float]:
    """Train forwards and backwards.

    Args:
        arguments: Of ``train.py``, without a subcommand.

    Returns:
        ``reverse_risk`` and ``source_risk``, errors of eta_r and of eta on the source's validation set.
    """
    forwards = train([*arguments, *FLAGS], run=False)
    module, data, device = forwards.model, forwards.datamodule, forwards.trainer.strategy.root_device
    data.prepare_data()
    data.setup("fit")
    domain_loaders(data)  # early, before a training of other data
    forwards.trainer.fit(module, datamodule=data)
    module.to(device)
    images = domain_loaders(data)["target"].dataset.images
    nothing = ImageSet(images, torch.zeros(len(images), dtype=torch.long))
    labels, _ = labels_of(module, data, DataLoader(nothing, 256, collate_fn=as_is))
    source_risk = error(module, data)

    backwards = train([*arguments, *FLAGS], run=False)
    backwards.model.load_state_dict(module.state_dict())
    backwards.trainer.fit(backwards.model, datamodule=ReversedDataModule(data, labels))
    return {"reverse_risk": error(backwards.model.to(device), data), "source_risk": source_risk}


def combinations(sweeps: list[str]) -> list[Setting]:
    """Every combination of the values of ``key=value,value``; values are YAML.

    Raises:
        ValueError: A sweep has another form.
    """
    keys, values = [], []
    for sweep in sweeps:
        key, equals, listed = sweep.partition("=")
        swept = yaml.safe_load(f"[{listed}]")
        if not equals or not key or not swept:
            raise ValueError(f"expected key=value,value,... such as model.lr=0.01,0.1, got {sweep!r}")
        keys.append(key)
        values.append(swept)
    return [dict(zip(keys, chosen, strict=True)) for chosen in itertools.product(*values)]


def main(arguments: list[str] | None = None) -> list[Setting]:
    """Judge every combination, print the table, smallest risk first, and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="a recipe of domain adaptation, in the form of train.py")
    parser.add_argument("--sweep", action="append", required=True, help="key=value,value,...; may be repeated")
    parser.add_argument("--output", type=Path, default=Path("runs/reverse_validation.json"))
    known, others = parser.parse_known_args(arguments)
    try:
        settings = combinations(known.sweep)
    except ValueError as problem:
        parser.error(f"--sweep: {problem}")
    silence_lightning()
    known.output.parent.mkdir(parents=True, exist_ok=True)
    judged: list[Setting] = []
    for setting in settings:
        flags = [f"--{key}={json.dumps(value)}" for key, value in setting.items()]
        judged.append({"setting": setting, **reverse_risk([f"--config={known.config}", *others, *flags])})
        print(f"{' '.join(flags)}: reverse risk {judged[-1]['reverse_risk']:.4f}", flush=True)
        known.output.write_text(json.dumps(judged, indent=1), encoding="utf-8")
    judged.sort(key=lambda record: record["reverse_risk"])
    rows = [["reverse risk", "source risk", *judged[0]["setting"]]]
    for record in judged:
        risks = [f"{record[name]:.4f}" for name in ("reverse_risk", "source_risk")]
        rows.append([*risks, *map(str, record["setting"].values())])
    print()
    print_table(rows)
    known.output.write_text(json.dumps(judged, indent=1), encoding="utf-8")
    return judged


if __name__ == "__main__":
    main()
