"""The inter-twinned moons over ten seeds, with the paper's Figure 2: ``python -m benchmarks.dann.moons``.

``zoo/dann/paper_moons.yaml`` as it is, 150,000 steps with one point of each domain, and its control, which differs in
one thing: the domain head hands no gradient back. Accuracies are those on the points trained on, as in the paper; the
target's labels serve nothing else. Each run leaves one JSON file, and a run whose file exists is not made again.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from callbacks.adaptation.decision_figure import decision_regions_figure
from callbacks.adaptation.decision_regions import decision_regions
from datamodules import MoonsDataModule
from train import main as train
from zoo import DANN

from ..shared.runs import QUIET_FLAGS, keep, print_table, silence_lightning, spread
from ..shared.timing import now, print_machine

SETTINGS = Path(__file__).resolve().parents[2] / "zoo" / "dann" / "paper_moons.yaml"
METHODS = {"NN, the control": "none", "DANN": "dann"}
DOMAINS = ("source", "target")
BOUNDS = (
    ("source accuracy of both at least .99", lambda control, dann: min(control["source"], dann["source"]) >= 0.99),
    ("target accuracy of DANN at least .83", lambda control, dann: dann["target"] >= 0.83),
    ("and .05 above the control's", lambda control, dann: dann["target"] >= control["target"] + 0.05),
)


def run(adaptation: str, seed: int, points: int, epochs: int) -> dict[str, Any]:
    """Train once, and keep the accuracies and the weights."""
    start = now()
    cli = train(
        [
            f"--config={SETTINGS}",
            f"--seed_everything={seed}",
            f"--model.adaptation={adaptation}",
            f"--data.points={points}",
            f"--trainer.max_epochs={epochs}",
            *QUIET_FLAGS,
        ],
        run=False,
    )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    domains: Any = dict(zip(DOMAINS, (cli.datamodule.source_points(), cli.datamodule.target_points()), strict=True))
    accuracy = {name: (cli.model(x).argmax(1) == y).float().mean().item() for name, (x, y) in domains.items()}
    weights = {name: value.tolist() for name, value in cli.model.state_dict().items()}
    return {**accuracy, "steps": cli.trainer.global_step, "seconds": now() - start, "weights": weights}


def trained(record: dict[str, Any], adaptation: Any) -> DANN:
    """The module of a run."""
    module = DANN(2, (2,), "Shallow", adaptation=adaptation)
    module.load_state_dict({name: torch.tensor(value) for name, value in record["weights"].items()})
    return module.eval()


def main() -> None:
    """Make the runs that are missing, print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--points", type=int, default=300, help="of each domain; the authors' code draws 150")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("runs/moons"))
    parser.add_argument("--figure", type=Path, help="file for the figure, of the first seed")
    arguments = parser.parse_args()
    silence_lightning()
    print_machine()
    records: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for seed in arguments.seeds:
        for method, adaptation in METHODS.items():
            name = f"{arguments.points}_points_{arguments.epochs}_epochs"
            path = arguments.folder / name / f"{adaptation}_seed{seed}.json"
            if not path.exists():
                keep(path, run(adaptation, seed, arguments.points, arguments.epochs))
            record = json.loads(path.read_text(encoding="utf-8"))
            records[method].append(record)
            print(f"{method}, seed {seed}: target {record['target']:.3f}, {record['seconds']:.0f} s", flush=True)
    rows = [["accuracy", *(f"{method}: {domain}" for method in METHODS for domain in DOMAINS)]]
    for place, seed in enumerate(arguments.seeds):
        rows.append([f"seed {seed}", *(f"{records[m][place][domain]:.3f}" for m in METHODS for domain in DOMAINS)])
    rows.append(["mean ± standard deviation"])
    rows[-1] += [spread([record[domain] for record in records[m]], 3) for m in METHODS for domain in DOMAINS]
    print()
    print_table(rows)
    means = [{d: statistics.mean(record[d] for record in runs) for d in DOMAINS} for runs in records.values()]
    for bound, holds in BOUNDS:
        seeds = sum(map(holds, *records.values()))
        print(f"{bound}: {'yes' if holds(*means) else 'NO'} for the means, in {seeds} of {len(arguments.seeds)} runs")
    if arguments.figure:
        data = MoonsDataModule(points=arguments.points)
        points = *data.source_points(), data.target_points()[0], data.tips
        figure = decision_regions_figure(
            {
                method: decision_regions(trained(records[method][0], adaptation), *points)
                for method, adaptation in METHODS.items()
            }
        )
        arguments.figure.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(arguments.figure, dpi=100)


if __name__ == "__main__":
    main()
