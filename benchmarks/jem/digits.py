"""JEM against the plain classifier on scikit-learn's digits: ``python -m benchmarks.jem.digits`` (``make demo``).

Both are trained by their recipes and judged on the same test sets. The folder holds for each run the checkpoint,
``metrics.csv``, W&B's offline run and a report of its own, and on top ``report.html``, which compares the two.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from callbacks.report import load_record, render
from train import main as train

from ..shared.timing import print_machine

MODELS = ("JEM", "Classifier")


def run(model: str, seed: int, folder: Path, *overrides: str) -> tuple[dict[str, Any], L.LightningModule]:
    """Train one model by its recipe, test its last weights, and return the record of the run and the module.

    Args:
        model: Name of a class of the zoo.
        seed: Seed of everything.
        folder: Where all files of the run go.
        overrides: Further arguments of the command line.

    Returns:
        The content of the run's ``report.json``, and the trained module.
    """
    loggers = [
        {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "", "version": ""}},
        {
            "class_path": "WandbLogger",
            "init_args": {"save_dir": str(folder), "project": "zoo-digits", "name": folder.name, "offline": True},
        },
    ]
    command = ["fit", "--model", model, *overrides, f"--seed_everything={seed}"]
    print(f"\npython train.py {' '.join(command)}", flush=True)
    start = time.perf_counter()
    places = [f"--trainer.default_root_dir={folder}", f"--trainer.logger={json.dumps(loggers)}"]
    cli = train([*command, *places])
    trainer: L.Trainer = cli.trainer
    trained = time.perf_counter()
    trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path="last", verbose=False)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # else the next W&B logger of this process would go on with this run
    print(f"{model}: trained in {trained - start:.0f} s, judged in {time.perf_counter() - trained:.0f} s")
    return load_record(folder), cli.model


def spread(values: list[float | None], digits: int = 4) -> str:
    """Mean of a figure over the seeds, with its standard deviation where there are several."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def print_table(rows: list[list[str]]) -> None:
    """Print aligned columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        )


def figures(records: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Accuracy, NLL and ECE of each model, before and after temperature."""
    rows = [["", *records]]
    for title, stage, key in [
        ("accuracy", "before", "accuracy"),
        ("NLL", "before", "nll"),
        ("NLL after temperature", "after", "nll"),
        ("ECE (15 bins)", "before", "ece"),
        ("ECE after temperature", "after", "ece"),
    ]:
        rows.append([title, *(spread([r["calibration"][stage][key] for r in runs]) for runs in records.values())])
    return rows


def detection(records: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """AUROC of each model, score and out-of-distribution set."""
    ood = {model: [record["ood"] for record in runs] for model, runs in records.items()}
    sets = list(next(iter(ood.values()))[0]["sets"])
    rows = [["AUROC", "", *sets]]
    for score in dict.fromkeys(score for runs in ood.values() for score in runs[0]["scores"]):
        for model, runs in ood.items():
            if score in runs[0]["scores"]:
                cells = [spread([r["sets"][name][score]["auroc"] for r in runs], 3) for name in sets]
                rows.append([score, model, *cells])
    return rows


def main() -> None:
    """Train and judge both models over the seeds, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    os.environ.setdefault("WANDB_SILENT", "true")
    print_machine()
    records: dict[str, list[dict[str, Any]]] = {model: [] for model in MODELS}
    for seed in arguments.seeds:
        for model in MODELS:
            name = model.lower() if len(arguments.seeds) == 1 else f"{model.lower()}_seed{seed}"
            records[model].append(run(model, seed, arguments.folder / name)[0])
    report = arguments.folder / "report.html"
    report.write_text(render([runs[0] for runs in records.values()]), encoding="utf-8")
    print()
    print_table(detection(records))
    print()
    print_table(figures(records))
    print(f"\nreport: {report}")


if __name__ == "__main__":
    main()
