"""Teachers for students: a module trained for a moment, saved where the student's configuration looks for it."""

import json
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer

import train

ROOT = Path(__file__).resolve().parents[2]
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "limit_val_batches": 0,
    "accelerator": "cpu",
}


def save_teacher(path: str | Path, model: dict[str, Any], data: dict[str, Any], steps: int = 2) -> None:
    """Train a module on some data, both in the command line's form, and save it from the working directory on."""
    configuration = json.dumps({"model": model, "data": data, "trainer": QUIET})
    built = train.main([f"--config={configuration}"], run=False)
    trainer = Trainer(**QUIET, max_steps=steps)
    trainer.fit(built.model, datamodule=built.datamodule)
    trainer.save_checkpoint(path)


def save_teacher_of_recipe(recipe: Path, steps: int = 2) -> None:
    """The teacher that a recipe names, ``runs/<paper>/...``, from that paper's own recipe; none where it names none."""
    teacher = yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["init_args"].get("teacher")
    if teacher:
        own = yaml.safe_load((ROOT / "zoo" / Path(teacher).parts[1] / "recipe.yaml").read_text(encoding="utf-8"))
        save_teacher(teacher, own["model"], own["data"], steps)
