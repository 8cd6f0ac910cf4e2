"""Local losses against back-propagation on MNIST, error and calibration: ``python -m benchmarks.local_error.mnist``.

The paper's fully connected network of three layers with 1024 units, trained on the same images from the same seeds by
each local loss and by back-propagation, with the settings of its ``paper_mnist.yaml`` but for the number of epochs and
the milestones, which keep their share of the run. The last weights are judged.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from ..shared.runs import calibration_table, print_table, run, spread
from ..shared.timing import print_machine

SETTINGS = Path(__file__).resolve().parents[2] / "zoo/local_error/configurations/paper_mnist.yaml"
RUNS = {
    "back-propagation": ["--model.training=global"],
    "pred": ["--model.loss=pred"],
    "sim": ["--model.loss=sim"],
    "predsim": ["--model.loss=predsim"],
    "predsim-bpf": ["--model.loss=predsim-bpf"],
}
PAPER = {"back-propagation": "0.75", "pred": "0.68", "sim": "0.80", "predsim": "0.62"}  # test error in %, 100 epochs


def main() -> None:
    """Train each variant over the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default=os.environ.get("ZOO_DATA", "data"), help="folder with MNIST/raw")
    parser.add_argument("--folder", type=Path, default=Path("runs/local_error_mnist"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("TQDM_MINITERS", "100")
    print_machine()
    milestones = [round(arguments.epochs * share) for share in (0.5, 0.75, 0.89, 0.94)]
    common = [
        f"--config={SETTINGS}",
        "--model.network=MLP",
        "--model.dropout=0.1",
        f"--model.milestones={milestones}",
        f"--data.data_dir={arguments.data_dir}",
        "--data.ood=[near/usps, near/rotated, far/uniform, far/photo_patches]",
        f"--trainer.max_epochs={arguments.epochs}",
    ]
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in RUNS}
    for seed in arguments.seeds:
        for name, flags in RUNS.items():
            folder = arguments.folder / f"{name}_seed{seed}"
            records[name].append(run("LocalErrorSignals", seed, folder, *common, *flags)[0])
    errors = {
        name: spread([100 * (1 - record["calibration"]["before"]["accuracy"]) for record in runs], 2)
        for name, runs in records.items()
    }
    print(f"\nseeds {arguments.seeds}, {arguments.epochs} epochs")
    rows = calibration_table(records)
    print_table(
        [
            rows[0],
            ["test error, %", *errors.values()],
            ["the paper's, 100 epochs", *(PAPER.get(name, "-") for name in RUNS)],
            *rows[2:],
        ]
    )


if __name__ == "__main__":
    main()
