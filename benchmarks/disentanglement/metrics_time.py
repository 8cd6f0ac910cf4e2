"""Time of the metrics of disentanglement on given codes: ``python -m benchmarks.disentanglement.metrics_time``.

The codes are those of dSprites' factors in ten latents: five follow a factor each, all carry a little of every factor
and noise. First every metric of ``DisentanglementEvaluation`` at the study's sample sizes, what is drawn for it
included; images are neither drawn nor encoded. Then ours and scikit-learn's boosted trees in turn, and the DCI, MIG and
SAP of disent 0.8 on the same codes, where it is installed (``pip install -e '.[peers]'``).
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from callbacks.disentanglement.callback import DEFAULT
from callbacks.disentanglement.metrics.dci import dci, dci_exact
from callbacks.disentanglement.metrics.information import mig
from callbacks.disentanglement.metrics.pairs import pair_differences, vote_variances
from callbacks.disentanglement.metrics.sap import sap
from callbacks.disentanglement.metrics.scores import SCORES, Material, Split
from datamodules.factors.draws import draw_factors
from datamodules.factors.render import FACTOR_SIZES

from ..shared.timing import alternate, now, print_machine, print_ratios

LATENTS = 10
NOISE = 0.1  # standard deviation


def make_codes() -> Callable[[np.ndarray, torch.Generator], np.ndarray]:
    """The same ten mixtures in each run: codes (n, 10) of factors (n, 5)."""
    mixing = 0.2 * np.random.default_rng(0).standard_normal((len(FACTOR_SIZES), LATENTS))
    mixing[:, : len(FACTOR_SIZES)] += np.eye(len(FACTOR_SIZES))
    sizes = np.array(FACTOR_SIZES)

    def codes_of(factors: np.ndarray, generator: torch.Generator) -> np.ndarray:
        standard = (factors - (sizes - 1) / 2) / np.sqrt((sizes**2 - 1) / 12)
        noise = torch.randn(len(factors), LATENTS, generator=generator, dtype=torch.float64).numpy()
        return (standard @ mixing + NOISE * noise).astype(np.float32)

    return codes_of


def sample(number: int, generator: torch.Generator) -> np.ndarray:
    """Factors (n, 5)."""
    return draw_factors(FACTOR_SIZES, number, generator).numpy()


def make_split(train: int, test: int) -> Split:
    """Two samples, the same in each run."""
    generator, codes_of = torch.Generator().manual_seed(0), make_codes()
    factors, test_factors = sample(train, generator), sample(test, generator)
    return Split(codes_of(factors, generator), factors, codes_of(test_factors, generator), test_factors)


def score_all(metrics: list[str], train: int, test: int, votes: int, test_votes: int) -> dict[str, float]:
    """CPU seconds of each metric, printed as they are there.

    Args:
        metrics: Names of ``SCORES``, without downstream tasks.
        train: Samples for all metrics but the two of pairs and votes.
        test: Samples for accuracies.
        votes: Points and votes of 64 images.
        test_votes: Those for accuracies.
    """
    split, codes_of = make_split(train, test), make_codes()
    seconds = {}
    for metric in metrics:
        start = now()
        generator = torch.Generator().manual_seed(1)
        draw = {"beta_vae": pair_differences, "factor_vae": vote_variances}.get(metric)
        points: tuple[Any, ...] = ()
        if draw is not None:
            points = tuple(draw(sample, codes_of, FACTOR_SIZES, number, generator) for number in (votes, test_votes))
        material = Material(split, points, points, {})
        scores, _ = SCORES[metric](material)
        seconds[metric] = now() - start
        shown = ", ".join(f"{name} {score:.3f}" for name, score in scores.items())
        print(f"{metric:13}{seconds[metric]:9.2f} s  {shown}", flush=True)
    print(f"{'all':13}{sum(seconds.values()):9.2f} s", flush=True)
    return seconds


def compare(number: int, rounds: int) -> None:
    """DCI, MIG and SAP of so many codes, and half as many for accuracies: ours and disent's in turn."""
    split = make_split(number, number // 2)
    peers = disent_metrics(split)
    metrics: dict[str, dict[str, Callable[[], Any]]] = {
        "DCI": {"scikit-learn's trees": lambda: dci_exact(*split), "ours": lambda: dci(*split)},
        "MIG": {"ours": lambda: mig(*split[:2])},
        "SAP": {"ours": lambda: sap(*split)},
    }
    for metric, ours in metrics.items():
        contestants = {f"{name}, {metric} of {number}": score for name, score in ours.items()}
        if metric in peers:
            contestants = {f"disent, {metric} of {number}": peers[metric], **contestants}
        results: dict[str, Any] = {}

        def keep(name: str, score: Callable[[], Any], results: dict[str, Any] = results) -> Callable[[], None]:
            return lambda: results.update({name: score()})

        steps = {name: keep(name, score) for name, score in contestants.items()}
        print_ratios(alternate(steps, rounds, warmup=0 if metric == "DCI" else 1))
        for name, scores in results.items():
            print(f"  {name}: {brief(scores)}", flush=True)


def disent_metrics(split: Split) -> dict[str, Callable[[], Any]]:
    """Those of disent 0.8 on the same codes, without its drawing and encoding; none where it is not installed."""
    try:
        from disent.metrics import _dci, _mig, _sap
    except ImportError as error:
        print(f"without disent: {error}")
        return {}
    transposed = [each.T for each in split]  # (L, n) and (K, n)
    return {
        "DCI": lambda: _dci._compute_dci(*transposed),
        "MIG": lambda: _mig._compute_mig(*transposed[:2]),
        "SAP": lambda: _sap._compute_sap(*transposed, continuous_factors=False),
    }


def brief(scores: Any) -> str:
    """Their numbers without matrices."""
    named = (
        scores if isinstance(scores, dict) else scores._asdict() if hasattr(scores, "_asdict") else {"score": scores}
    )
    return ", ".join(f"{name} {value:.4f}" for name, value in named.items() if np.ndim(value) == 0)


def main() -> None:
    """Read the command line and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choices = [name for name in SCORES if name != "downstream"]
    parser.add_argument("--metrics", choices=choices, nargs="*", default=list(DEFAULT))
    parser.add_argument("--samples", type=int, nargs=2, default=[10_000, 5_000], help="for training and test")
    parser.add_argument("--votes", type=int, nargs=2, default=[10_000, 5_000], help="for training and test")
    parser.add_argument("--compared", type=int, nargs="*", default=[500], help="samples of the comparison with peers")
    parser.add_argument("--rounds", type=int, default=3, help="timed turns of the comparison")
    arguments = parser.parse_args()
    print_machine()
    score_all(arguments.metrics, *arguments.samples, *arguments.votes)
    for number in arguments.compared:
        compare(number, arguments.rounds)


if __name__ == "__main__":
    main()
