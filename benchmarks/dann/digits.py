"""Domain adaptation between digits, and what each validator would pick: ``python -m benchmarks.dann.digits``.

The paper's MNIST network and schedules, trained for the same number of steps on the source alone, by DANN, by DANN with
half of the domain loss (many implementations take the mean over both domains instead of the sum of two means), by
CDAN+E, and on the labelled target; arguments of ``zoo.DANN`` are at their defaults unless ``--model`` says otherwise. A
step has sixty-four images of each domain, without augmentation. Several times in a run, at equal distances, all
validators are computed, and, by this script and out of their sight, the accuracy on the target's test set. So no
checkpoint is written: a validator's pick is the evaluation at which it is largest (the first of equals), which is the
one that a ``ModelCheckpoint`` with ``monitor: validator/<name>`` would have kept.

Each run leaves one JSON file, and a run whose file exists is not made again: two shells may work on different seeds at
once, and ``--table`` prints what there is.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from callbacks import AdaptationEvaluation, CalibrationEvaluation
from datamodules import (
    AdaptationDataModule,
    DigitsDataModule,
    DigitsMDataModule,
    MNISTDataModule,
    MNISTMDataModule,
    USPSDataModule,
)
from datamodules.images.mnistm import BlendedDigitsDataModule
from zoo import DANN

from ..shared.runs import Record, keep, kept, print_table, quiet_trainer, silence_lightning, spread
from ..shared.timing import now, print_machine

PAIRS: dict[str, tuple[Any, Any, Record]] = {  # source, target, the shape to which both are brought
    "mnist_mnistm": (MNISTDataModule, MNISTMDataModule, {"channels": 3}),
    "mnist_usps": (MNISTDataModule, USPSDataModule, {"image_size": 28}),
    "usps_mnist": (USPSDataModule, MNISTDataModule, {"image_size": 28}),
    "digits_digitsm": (DigitsDataModule, DigitsMDataModule, {"channels": 3}),
}
METHODS: dict[str, Record] = {
    "source only": {"adaptation": "none"},
    "DANN": {"adaptation": "dann"},
    "DANN, half": {"adaptation": "dann", "domain_weight": 0.5},
    "CDAN+E": {"adaptation": "cdan_e"},
    "train on target": {"adaptation": "none"},
}
PAPER = {"source only": ".5225", "DANN": ".7666", "train on target": ".9596"}  # MNIST to MNIST-M, table 2
TEST = "target test accuracy"


def pair_data(pair: str, method: str, data_dir: str, photographs: str | None) -> AdaptationDataModule:
    """The two domains; for the upper bound the target is the labelled source too."""
    source, target, shape = PAIRS[pair]
    made = []
    for domain in (target if method == "train on target" else source, target):
        behind = {"photographs": photographs} if issubclass(domain, BlendedDigitsDataModule) else {}
        made.append(domain(data_dir=data_dir, batch_size=64, augment=False, **behind))
    return AdaptationDataModule(*made, **shape)


class History(L.Callback):
    """The validators' scores at each evaluation, beside the accuracy on the target's test set."""

    def __init__(self) -> None:
        self.evaluations: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep this evaluation's scores."""
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        accuracy = test_accuracy(pl_module, trainer.datamodule)  # type: ignore[attr-defined]  # Lightning sets it
        self.evaluations.append({"step": trainer.global_step, TEST: accuracy, **scores})


def test_accuracy(module: Any, data: AdaptationDataModule) -> float:
    """Accuracy on the target's test set, the second one; the module is in evaluation mode."""
    right = total = 0
    for batch in data.test_dataloader()[1]:
        batch = data.transfer_batch_to_device(batch, module.device, 1)
        x, y = data.on_after_batch_transfer(batch, 1)
        right += int((module(x).argmax(1) == y).sum())
        total += len(y)
    return right / total


def run(pair: str, method: str, seed: int, arguments: argparse.Namespace) -> Record:
    """Train and test once."""
    start = time.perf_counter(), now()
    L.seed_everything(seed, verbose=False)
    data = pair_data(pair, method, arguments.data_dir, arguments.photographs)
    padding = 0 if data.image_shape[1] == 28 else 2  # 8x8 images are too small for the paper's network
    common: Record = {"image_shape": data.image_shape, "network_args": {"padding": padding}}
    module = DANN(**{**common, **arguments.model, **METHODS[method]})
    history = History()
    trainer = quiet_trainer(
        max_steps=arguments.steps,
        val_check_interval=arguments.steps // arguments.evaluations,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        devices=1,
        log_every_n_steps=max(1, arguments.steps // arguments.evaluations),
        callbacks=[AdaptationEvaluation(max_points=10), history, CalibrationEvaluation()],
    )
    trainer.fit(module, datamodule=data)
    trained = now()
    trainer.test(module, datamodule=data, verbose=False)
    return {
        "pair": pair,
        "method": method,
        "seed": seed,
        "settings": settings(arguments),
        "target": data.test_sets[1],
        "history": history.evaluations,
        "test": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "seconds": {"wall": time.perf_counter() - start[0], "training": trained - start[1], "test": now() - trained},
    }


def settings(arguments: argparse.Namespace) -> Record:
    """What all runs of a table have in common."""
    common: Record = {"steps": arguments.steps, "evaluations": arguments.evaluations}
    if arguments.photographs:
        common["photographs"] = Path(arguments.photographs).resolve().name
    return {**common, "model": arguments.model} if arguments.model else common


def path_of(pair: str, method: str, seed: int, folder: Path) -> Path:
    """The file of a run."""
    name = method.lower().replace(" ", "_").replace("+", "_")
    return folder / pair / f"{name}_seed{seed}.json"


def pick(evaluations: list[dict[str, float]], monitor: str) -> float:
    """Target test accuracy of the evaluation at which a score is largest, the first of equals; NaN is smallest."""
    values = [-math.inf if math.isnan(each[monitor]) else each[monitor] for each in evaluations]
    return evaluations[values.index(max(values))][TEST]


def accuracies(records: dict[str, list[Record]], pair: str) -> list[list[str]]:
    """Of the last weights, with the share of the gap between source only and train on target that is closed."""
    last = {method: [record["history"][-1][TEST] for record in runs] for method, runs in records.items()}
    mean = {method: sum(values) / len(values) for method, values in last.items()}
    rows = [["target test accuracy, last weights", *last], ["mean", *map(spread, last.values())]]
    low, high = mean.get("source only", 1.0), mean.get("train on target", 0.0)
    if low < high:
        rows.append(["share of the gap", *(f"{(value - low) / (high - low):.1%}" for value in mean.values())])
    if pair == "mnist_mnistm":
        rows.append(["the paper's, other photographs", *(PAPER.get(method, "-") for method in last)])
    distance = "adaptation/proxy_a_distance"
    distances = [[record["test"].get(distance) for record in runs] for runs in records.values()]
    return [*rows, ["proxy A-distance", *(spread(values, 3) for values in distances)]]


def selection(records: dict[str, list[Record]]) -> list[list[str]]:
    """Target test accuracy of the checkpoint that each validator picks, in a run and among the runs of all methods."""
    histories = {method: [r["history"] for r in runs] for method, runs in records.items()}
    histories.pop("train on target", None)  # picks with labels of the target are its own affair
    columns = dict(histories)
    if len({len(runs) for runs in histories.values()}) == 1:  # every method has every seed
        of_a_seed = zip(*histories.values(), strict=True)
        columns["any method"] = [[each for history in runs for each in history] for runs in of_a_seed]
    first: dict[str, float] = next(iter(histories.values()), [[{}]])[0][0]
    monitors = [name for name in first if name.startswith("validator/") and not name.endswith("max_weight")]
    monitors += ["oracle/val_acc", TEST]
    titles = {"oracle/val_acc": "oracle: target validation labels", TEST: "best of all evaluations"}
    rows = [["picked by", *columns]]
    rows.append(["nobody: the last", *(spread([h[-1][TEST] for h in runs]) for runs in histories.values())])
    rows[-1] += ["-"] * (len(columns) - len(histories))
    for monitor in monitors:
        cells = [spread([pick(history, monitor) for history in runs]) for runs in columns.values()]
        rows.append([titles.get(monitor, monitor.removeprefix("validator/")), *cells])
    return rows


def calibration(records: dict[str, list[Record]]) -> list[list[str]]:
    """ECE and NLL of the last weights on both domains, before and after the temperature of the source."""
    rows = [["calibration, last weights", *records]]
    target = next(iter(records.values()))[0]["target"]
    for domain, place in (("source", ""), ("target", f"{target}/")):
        for title, metric in (("ECE", "ece"), ("NLL", "nll")):
            for when, suffix in (("", ""), (", after temperature", "_after")):
                key = f"calibration/{place}{metric}{suffix}"
                cells = [spread([record["test"].get(key) for record in runs], 3) for runs in records.values()]
                rows.append([f"{title} on the {domain}{when}", *cells])
    return rows


def main() -> None:
    """Make the runs that are missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=PAIRS, default="digits_digitsm")
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps of each run")
    parser.add_argument("--evaluations", type=int, default=10, help="in a run; must divide --steps")
    parser.add_argument("--model", type=yaml.safe_load, default={}, help="arguments of zoo.DANN, such as '{lr: 0.03}'")
    parser.add_argument("--data-dir", default=os.environ.get("ZOO_DATA", "data"), help="folder with MNIST and USPS")
    parser.add_argument("--photographs", help="folder for MNIST-M and digits-M; by default scikit-learn's two")
    parser.add_argument("--folder", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--table", action="store_true", help="train nothing, print what there is")
    arguments = parser.parse_args()
    if arguments.evaluations < 1 or arguments.steps < 1 or arguments.steps % arguments.evaluations:
        parser.error(f"--evaluations {arguments.evaluations} must divide --steps {arguments.steps}")
    silence_lightning()
    print_machine()
    records: dict[str, list[Record]] = {method: [] for method in arguments.methods}
    for seed in arguments.seeds:
        for method in arguments.methods:
            path = path_of(arguments.pair, method, seed, arguments.folder)
            record = kept(path, settings(arguments))
            if record is None and not arguments.table:
                record = run(arguments.pair, method, seed, arguments)
                keep(path, record)
                accuracy, seconds = record["history"][-1][TEST], record["seconds"]["wall"]
                print(f"{method}, seed {seed}: {accuracy:.4f}, {seconds:.0f} s", flush=True)
            if record is not None:
                records[method].append(record)
    records = {method: runs for method, runs in records.items() if runs}
    if not records:
        raise SystemExit(f"no run of {arguments.pair} in {arguments.folder}")
    counts = {len(runs) for runs in records.values()}
    print(f"\n{arguments.pair}: {arguments.steps} steps, up to {max(counts)} seeds, mean ± standard deviation")
    for table in (accuracies(records, arguments.pair), selection(records), calibration(records)):
        print()
        print_table(table)


if __name__ == "__main__":
    main()
