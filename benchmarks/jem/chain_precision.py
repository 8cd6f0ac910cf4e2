"""What a bfloat16 network in JEM's chains does to accuracy and samples: ``python -m benchmarks.jem.chain_precision``.

The recipe on digits, several seeds for each precision. Samples are compared with the real test images by the Fréchet
distance of the Gaussians fitted to their 64 pixels, in [0, 1]: 0 for equal means and covariances.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from ..shared.runs import print_table, run, spread
from ..shared.timing import print_machine


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` of two sets of vectors ``(n, D)``, in float64."""
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The eigenvalues of a product of two covariances are real and not negative; rounding aside.
    root = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    return float(mean + cov_a.trace() + cov_b.trace() - 2 * root)


def main() -> None:
    """Train the recipe in both precisions over the seeds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/chain_precision"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    print_machine()
    real = torch.from_numpy(load_digits().images).float().flatten(1) / 16
    split = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    floor = frechet_distance(real[split[: len(real) // 2]], real[split[len(real) // 2 :]])
    columns: dict[str, list[str]] = {}
    for precision in ("float32", "bfloat16"):
        records: list[dict[str, Any]] = []
        distances: list[float | None] = []
        for seed in arguments.seeds:
            folder = arguments.folder / f"{precision}_seed{seed}"
            record, module = run("JEM", seed, folder, f"--model.chain_precision={precision}")
            records.append(record)
            samples: Any = module.sample  # of the replay memory, all of it
            distances.append(frechet_distance(samples(1000).flatten(1), real))
        before = [record["calibration"]["before"] for record in records]
        mass = [record["ood"]["far_mean"]["approximate_mass"]["auroc"] for record in records]
        columns[precision] = [
            *(spread([metrics[key] for metrics in before]) for key in ("accuracy", "nll", "ece")),
            spread(mass),
            spread(distances, 3),
            spread([record["notes"]["recoveries from divergence"] for record in records], 0),
        ]
    rows = ["accuracy", "NLL", "ECE (15 bins)", "far mean AUROC, approximate mass", "Fréchet distance", "recoveries"]
    print(f"\nseeds {arguments.seeds}; Fréchet distance between two halves of the real images: {floor:.3f}")
    print_table([["", *columns], *([row, *(c[i] for c in columns.values())] for i, row in enumerate(rows))])


if __name__ == "__main__":
    main()
