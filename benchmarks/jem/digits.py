"""JEM against the plain classifier on scikit-learn's digits: ``python -m benchmarks.jem.digits`` (``make demo``).

Both are trained by their recipes and judged on the same test sets. The folder holds for each run the checkpoint,
``metrics.csv``, W&B's offline run and a report of its own, and on top ``report.html``, which compares the two.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from callbacks.report import render

from ..shared.runs import calibration_table, print_table, run, spread
from ..shared.timing import print_machine

MODELS = ("JEM", "Classifier")


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
    print_table(calibration_table(records))
    print(f"\nreport: {report}")


if __name__ == "__main__":
    main()
