"""The study of disentanglement, reduced to what one computer does: ``python -m benchmarks.disentanglement.study``.

Six methods at the weakest, a middle and the strongest of the paper's six strengths, three seeds each, on sprites of
three sizes on 16x16 places that do not turn (3x3x16x16 = 2,304 images), all trained on the same number of batches of
64. Each is judged by all metrics, on means and on samples of its posteriors. Tables and page say how the metrics agree,
what of their variance the method explains and what its strength, and what could be chosen without labels; and they show
MIG during training, from the untrained network on. AnnealedVAE reaches its capacity after a third of the steps, as in
the paper.

Departures: the reduced grid, 600 steps instead of 300,000 with a larger learning rate (``--lr 1e-4`` is the paper's),
three strengths and seeds instead of six and fifty, a fifth of the samples for the metrics and a twentieth of the votes.

Each run leaves a JSON file and the codes that UDR compares, and a run whose file exists is not made again: stop it and
go on as you like, or let two shells work on different seeds at once. ``--table`` trains nothing and shows what there
is. The page is ``report.html`` in the folder.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

import zoo
from callbacks import DisentanglementEvaluation, LatentPictures
from callbacks.disentanglement.metrics.information import mig
from callbacks.disentanglement.metrics.udr import udr
from callbacks.shared.html import duration
from datamodules import SpritesDataModule

from ..shared.runs import Record, keep, kept, print_table, quiet_trainer, silence_lightning
from ..shared.timing import print_machine
from .page import study_page
from .tables import (
    agreement_table,
    best_table,
    by_setting,
    measured,
    scores_table,
    selection_table,
    training_table,
    variance_table,
)

# class, what is swept, its values (the first, a middle one and the last of the paper's), and what else is set
METHODS: dict[str, tuple[str, str, tuple[float, ...], Record]] = {
    "beta-VAE": ("BetaVAE", "beta", (1, 4, 16), {}),
    "AnnealedVAE": ("AnnealedVAE", "max_capacity", (5, 25, 100), {}),
    "FactorVAE": ("FactorVAE", "gamma", (10, 30, 100), {}),
    "DIP-VAE-I": ("DIPVAE", "lambda_od", (1, 5, 50), {"variant": "I"}),
    "DIP-VAE-II": ("DIPVAE", "lambda_od", (1, 5, 50), {"variant": "II"}),
    "beta-TCVAE": ("BetaTCVAE", "beta", (1, 4, 10), {}),
}
DATA: Record = {"factor_steps": [1, 2, 40, 2, 2], "batch_size": 64, "test_images": 2048}
EVALUATION: Record = {"num_train": 2000, "num_test": 1000, "num_train_votes": 500, "num_test_votes": 250}
COMPARED = 1000  # images whose codes are kept for UDR
POINTS = 4  # of the curve of MIG, after the untrained network's
Job = tuple[str, float, int]  # method, strength, seed


def settings(arguments: argparse.Namespace) -> Record:
    """What all runs of a study have in common."""
    return {"steps": arguments.steps, "lr": arguments.lr, "precision": arguments.precision, **DATA, **EVALUATION}


def build(method: str, strength: float, common: Record, image_shape: Sequence[int]) -> L.LightningModule:
    """The module of a run."""
    name, argument, _, fixed = METHODS[method]
    own: Record = {
        "AnnealedVAE": {"annealing_steps": max(1, common["steps"] // 3)},
        "FactorVAE": {"discriminator_lr": common["lr"]},
    }.get(name, {})
    values = {argument: strength, "lr": common["lr"], "image_shape": tuple(image_shape), **fixed, **own}
    return getattr(zoo, name)(**values)


class MIGCurve(L.Callback):
    """MIG of all images' posterior means, before the training and at `POINTS` moments of it."""

    def __init__(self, steps: int) -> None:
        self.moments = {steps * point // POINTS for point in range(POINTS + 1)}
        self.points: list[tuple[int, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw all images, and judge the untrained network by them."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it in fit
        factors = torch.cartesian_prod(*map(torch.arange, data.factor_sizes))
        self.factors, self.images = factors.numpy(), data.images_of(factors, torch.Generator().manual_seed(0))
        self._add(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Judge it when it is time."""
        self._add(trainer, pl_module)

    def _add(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step in self.moments:
            varying = [column for column in self.factors.T if column.any()]
            codes = encoded(pl_module, self.images)
            if np.isfinite(codes).all():  # not diverged
                self.points.append((trainer.global_step, mig(codes, np.stack(varying, 1))))
            pl_module.train()


def run(job: Job, common: Record) -> tuple[Record, np.ndarray]:
    """Train and judge once.

    Args:
        job: Method, strength and seed.
        common: Of `settings`.

    Returns:
        The record, whose "metrics" are empty if the training diverged, and the posterior means (1000, L) of images that
        are the same for all runs.
    """
    method, strength, seed = job
    start = time.perf_counter()
    L.seed_everything(seed, verbose=False)
    shared = {name: common[name] for name in DATA}
    data = SpritesDataModule(images_per_epoch=common["steps"] * common["batch_size"], val_images=0, **shared)
    module = build(method, strength, common, data.image_shape)
    pictures, curve = LatentPictures(), MIGCurve(common["steps"])
    evaluation = DisentanglementEvaluation(**{name: common[name] for name in EVALUATION})
    trainer = quiet_trainer(
        max_epochs=1,
        devices=1,
        precision=common["precision"],
        limit_val_batches=0,
        callbacks=[curve, evaluation, pictures],
        enable_progress_bar=sys.stderr.isatty(),
    )
    trainer.fit(module, datamodule=data)
    trained = time.perf_counter()
    metrics = {}
    if all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
        trainer.test(module, datamodule=data, verbose=False)
        metrics = {name.removeprefix("disentanglement/"): float(v) for name, v in trainer.callback_metrics.items()}
    record = {
        "method": method,
        "strength": strength,
        "argument": f"{METHODS[method][1]}={strength:g}",
        "seed": seed,
        "settings": common,
        "metrics": {name: value for name, value in metrics.items() if not name.startswith("train/")},
        "mig_during_training": curve.points,
        "kl": pictures.results["kl"].tolist() if metrics else [],
        "device": torch.cuda.get_device_name() if module.device.type == "cuda" else "CPU",
        "seconds": {"training": trained - start, "test": time.perf_counter() - trained},
    }
    return record, codes_of(module, data)


def codes_of(module: Any, data: SpritesDataModule) -> np.ndarray:
    """Posterior means (1000, L) of images that follow from nothing but the data."""
    generator = torch.Generator().manual_seed(0)
    return encoded(module, data.images_of(data.sample_factors(COMPARED, generator), generator))


@torch.no_grad()
def encoded(module: Any, images: torch.Tensor) -> np.ndarray:
    """Posterior means (n, L) of images, a few at a time."""
    module.eval()
    return np.concatenate([module.encode(part.to(module.device)).cpu().numpy() for part in images.split(128)])


def path_of(job: Job, folder: Path) -> Path:
    """The file of a run."""
    method, strength, seed = job
    return folder / method.lower().replace("-", "_") / f"{METHODS[method][1]}{strength:g}_seed{seed}.json"


def keep_codes(path: Path, codes: np.ndarray) -> None:
    """Write the codes beside a run's file, in one go, before it: a run that is there has its codes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    np.save(content, codes.astype(np.float32))
    unfinished = path.with_suffix(f".npy.{os.getpid()}")
    unfinished.write_bytes(content.getvalue())
    unfinished.replace(path.with_suffix(".npy"))


def add_udr(records: Sequence[Record]) -> None:
    """Put "udr" among a run's metrics: how alike its latents are to those of the other seeds of its setting.

    Args:
        records: The runs with their "codes" (1000, L). A setting with one seed has no UDR.
    """
    for runs in by_setting(records).values():
        sound = [each for each in runs if each["metrics"]]
        if len(sound) > 1:
            scores = udr([each["codes"] for each in sound], [each["kl"] for each in sound]).scores
            for each, score in zip(sound, scores.tolist(), strict=True):
                each["metrics"]["udr"] = score


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """All runs, seed by seed: a study that is stopped early has all methods."""
    return [
        (method, strength, seed)
        for seed in arguments.seeds
        for method in arguments.methods
        for strength in METHODS[method][2]
    ]


def make(jobs: Sequence[Job], folder: Path, common: Record) -> None:
    """Make the runs that are missing, one after another, and say how long the rest will take."""
    missing = [job for job in jobs if kept(path_of(job, folder), common) is None]
    print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are there", flush=True)
    start = time.perf_counter()
    for number, job in enumerate(missing, 1):
        record, codes = run(job, common)
        keep_codes(path_of(job, folder), codes)
        keep(path_of(job, folder), record)
        seconds, metrics = record["seconds"], record["metrics"]
        left = (time.perf_counter() - start) / number * (len(missing) - number)
        shown = ", ".join(f"{title} {metrics[key]:.3f}" for title, key in measured([record]).items()) or "diverged"
        print(
            f"{number}/{len(missing)} {job[0]}, {record['argument']}, seed {job[2]}: {shown}; trained in "
            f"{duration(seconds['training'])}, judged in {duration(seconds['test'])}, {duration(left)} left",
            flush=True,
        )


def load(jobs: Sequence[Job], folder: Path, common: Record) -> list[Record]:
    """The runs that are there, with their UDR, method by method."""
    paths = [path_of(job, folder) for job in jobs]
    records = [
        record | {"codes": np.load(path.with_suffix(".npy"))} for path in paths if (record := kept(path, common))
    ]
    order = list(METHODS)
    records.sort(key=lambda each: (order.index(each["method"]), each["strength"], each["seed"]))
    add_udr(records)
    return records


def main() -> None:
    """Make the runs that are missing, print the tables and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="batches of each run")
    parser.add_argument("--lr", type=float, default=1e-3, help="Adam's learning rate")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true", help="of the training")
    parser.add_argument("--folder", type=Path, default=Path("runs/disentanglement_study"))
    parser.add_argument("--table", action="store_true", help="train nothing, show what there is")
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error(f"--steps {arguments.steps}: expected 1 at least")
    silence_lightning()
    print_machine()
    common, jobs = settings(arguments), jobs_of(arguments)
    if not arguments.table:
        make(jobs, arguments.folder, common)
    records = load(jobs, arguments.folder, common)
    if not records:
        raise SystemExit(f"no run in {arguments.folder}")
    keys = measured(records)
    for rows in (
        scores_table(records, keys),
        training_table(records),
        variance_table(records, keys),
        agreement_table(records, keys),
        selection_table(records, keys),
        best_table(records, keys),
    ):
        print()
        print_table(rows)
    page = arguments.folder / "report.html"
    page.write_text(study_page(records, about(records, common)), encoding="utf-8")
    print(f"\nreport: {page}")


def about(records: Sequence[Record], common: Record) -> list[str]:
    """What the page says below its title."""
    training = sum(record["seconds"]["training"] for record in records)
    test = sum(record["seconds"]["test"] for record in records)
    devices = " and ".join(sorted({record["device"] for record in records}))
    sizes = "x".join(map(str, SpritesDataModule(factor_steps=common["factor_steps"]).factor_sizes))
    names = ", ".join(SpritesDataModule.factor_names)
    return [
        f"{len(records)} runs on sprites with {sizes} values of {names}",
        f"{common['steps']:,} batches of {common['batch_size']}, Adam with learning rate {common['lr']:g}, "
        f"{common['precision']}",
        f"{duration(training)} of training and {duration(test)} of tests, {devices}",
    ]


if __name__ == "__main__":
    main()
