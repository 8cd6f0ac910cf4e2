"""The golden curve of each paper: its recipe for 20 steps with seed 0 against ten stored losses.

After a change that is meant to move it: ``python tests/contract/test_golden.py`` writes it anew; the commit says why.
"""

import contextlib
import csv
import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"
RECIPES = {path.parent.name: path for path in sorted(ROOT.glob("zoo/*/recipe.yaml"))}


def losses(recipe: Path, folder: Path) -> list[float]:
    """``train/loss`` of every second of 20 steps."""
    from teachers import save_teacher_of_recipe

    import train

    logger = json.dumps(
        {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "log"), "name": "", "version": ""}}
    )
    arguments = [
        "fit", f"--config={recipe}", "--seed_everything=0", "--trainer.max_steps=20", "--trainer.accelerator=cpu",
        "--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false",
        "--trainer.enable_checkpointing=false", "--trainer.callbacks=null", f"--trainer.logger={logger}",
        f"--trainer.default_root_dir={folder}",
    ]  # fmt: skip
    with contextlib.chdir(folder):
        save_teacher_of_recipe(recipe, steps=20)
        train.main(arguments)
    with (folder / "log" / "metrics.csv").open(encoding="utf-8") as file:
        values = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(values) == 20
    return values[1::2]


@pytest.mark.parametrize("paper", RECIPES)
def test_the_recipe_follows_its_golden_curve(paper, tmp_path):
    expected = json.loads((GOLDEN / f"{paper}.json").read_text(encoding="utf-8"))
    # Rounding differs between processors and releases of torch, and a chain of 20 steps of SGLD amplifies it.
    assert losses(RECIPES[paper], tmp_path) == pytest.approx(expected, rel=1e-3, abs=1e-3)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "toys")]
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    for name, path in RECIPES.items():
        with tempfile.TemporaryDirectory() as scratch:
            curve = [round(value, 6) for value in losses(path, Path(scratch))]
        (GOLDEN / f"{name}.json").write_text(json.dumps(curve) + "\n", encoding="utf-8")
        print(name, curve)
