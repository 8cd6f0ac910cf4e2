"""Runs that go on where they were stopped, and the tables of their metrics."""

import json
import logging
import os
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from callbacks.report import load_record
from train import main as train

Record = dict[str, Any]
QUIET: Record = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
QUIET_FLAGS = [  # the same for `train.py`, whose recipes have callbacks and a validation
    *(f"--trainer.{name}=false" for name in QUIET),
    "--trainer.callbacks=null",
    "--trainer.log_every_n_steps=0",
    "--trainer.limit_val_batches=0",
]


def quiet_trainer(**arguments: Any) -> L.Trainer:
    """A trainer that writes no file and prints nothing, with further arguments of ``Trainer``."""
    return L.Trainer(**{**QUIET, **arguments})


def silence_lightning() -> None:
    """Let Lightning print errors only, in this process."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*(does not have many workers|treespec, LeafSpec|no `val_dataloader`).*")


def kept(path: Path, expected: Record) -> Record | None:
    """The record of a run that was made before, or None.

    Raises:
        SystemExit: It was made with other settings.
    """
    if not path.exists():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["settings"] != expected:
        raise SystemExit(f"{path} was made with {record['settings']}, not {expected}: give another --folder")
    return record


def keep(path: Path, record: Record) -> None:
    """Write a run's file in one go: whoever reads it meanwhile finds all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(record, indent=1), encoding="utf-8")
    unfinished.replace(path)


def run(model: str, seed: int, folder: Path, *overrides: str) -> tuple[Record, L.LightningModule]:
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
    """Mean of a metric over the seeds, with its standard deviation where there are several."""
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


def calibration_table(records: dict[str, list[Record]]) -> list[list[str]]:
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
