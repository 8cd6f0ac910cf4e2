"""Short command lines, the checkpoints that they leave, and what a refused one says."""

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer

import datamodules
import train
import zoo

ROOT = Path(__file__).resolve().parents[2]
CLASSIFIER = ["--model", "Classifier"]


QUICK = [
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_steps=2",
    "--trainer.limit_val_batches=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.num_sanity_val_steps=0",
]


BARE = ["--trainer.callbacks=null", "--trainer.logger=false"]

CLASSIFIER_QUICK = [*CLASSIFIER, "--data.ood=null", *QUICK, *BARE, "--trainer.limit_test_batches=1"]


def checkpoint_of_two_steps(folder: Path) -> Path:
    """A checkpoint of the command line."""
    train.main(["fit", *CLASSIFIER_QUICK, f"--trainer.default_root_dir={folder}"])
    (path,) = folder.glob("checkpoints/*.ckpt")
    return path


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def changed(good: Path, path: Path, *keys: str, value: Any) -> Path:
    """A copy of a checkpoint with one entry of its dictionaries changed."""
    whole = inside = copy.deepcopy(content(good))
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = value
    torch.save(whole, path)
    return path


def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a module into a folder that could be imported, and says so if it is: ``unseen``."""
    (folder / "unseen.py").write_text(
        "import os, datamodules, zoo\nos.mkdir('witness')\n"
        "class Evil(datamodules.DigitsDataModule): pass\nclass EvilModel(zoo.Classifier): pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    """The exit status and the one line of an error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train.main(list(args))
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith(("error: ", "Traceback", "  File"))
    ]
    assert len(lines) == 1, lines
    return int(str(end.value.code)), lines[0]


def line_of(capsys: pytest.CaptureFixture[str], *args: str, status: int = 1) -> str:
    """The one line of an error that ends with this status."""
    ended, line = refused(capsys, *args)
    assert ended == status, line
    return line


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train.main([*args, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def fitted(folder: Path, *args: str) -> str:
    """A checkpoint of two steps from the command line."""
    train.main(["fit", *CLASSIFIER, *QUICK, *BARE, f"--trainer.default_root_dir={folder}", *args])
    return str(next(folder.glob("checkpoints/*.ckpt")))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def python_checkpoint(path: Path, model: LightningModule) -> str:
    trainer = Trainer(
        max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.fit(model, datamodule=datamodules.DigitsDataModule(batch_size=50))
    trainer.save_checkpoint(path)
    return str(path)


def small_jem() -> zoo.JEM:
    return zoo.JEM(
        image_shape=(1, 8, 8), network="SmallConvNet", network_args={"width": 4}, sgld_steps=1, memory_size=100
    )


def python(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with the packages of this checkout."""
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
