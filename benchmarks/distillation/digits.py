"""A small student with and without its teacher on scikit-learn's digits: ``python -m benchmarks.distillation.digits``.

The teacher is the classifier's recipe, trained once. Each student is trained by the recipe of knowledge distillation,
and once more on the labels alone (``alpha=0``), from the same seeds, and judged on the same test set.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from ..shared.runs import calibration_table, print_table, run
from ..shared.timing import print_machine


def main() -> None:
    """Train the teacher and the students, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/distillation_digits"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    os.environ.setdefault("WANDB_SILENT", "true")
    print_machine()
    teacher = arguments.folder / "teacher"
    records: dict[str, list[dict[str, Any]]] = {"teacher": [run("Classifier", 0, teacher)[0]]}
    variants = {
        "student alone": ["--model.alpha=0"],
        "student of the teacher": [f"--model.teacher={teacher / 'checkpoints' / 'last.ckpt'}"],
    }
    for seed in arguments.seeds:
        for name, flags in variants.items():
            folder = arguments.folder / f"{name.replace(' ', '_')}_seed{seed}"
            records.setdefault(name, []).append(run("KnowledgeDistillation", seed, folder, *flags)[0])
    print(f"\nteacher: seed 0; students: seeds {arguments.seeds}")
    print_table(calibration_table(records))


if __name__ == "__main__":
    main()
