"""The report's section on disentanglement: scores beside those of a perfect code, and what each latent codes."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shared.html import Figures, Record, Runs, gallery, number, per_run, picture, section, table
from ..shared.loggers import figure_png, png
from ..shared.sections import Column, Section, Value, add_section
from .latents_figure import information_shares, kl_figure, reconstruction_grid, traversals_figure
from .metrics.information import BINS

SMALLEST = 0.05  # share of a factor's entropy that a latent must hold to be said to code it
DSPRITES = [3, 6, 40, 32, 32]  # numbers of values of its factors
TITLES = {
    "beta_vae": "BetaVAE score",
    "factor_vae": "FactorVAE score",
    "factor_vae_active": "Active latents of the FactorVAE score",
    "mig": "MIG",
    "modularity": "Modularity",
    "explicitness": "Explicitness (AUROC)",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness (accuracy)",
    "dci_informativeness_train": "DCI informativeness, training",
    "sap": "SAP",
    "sap_continuous": "SAP, factors as numbers",
    "irs": "IRS",
    "total_correlation": "Total correlation of a normal distribution, nats",
    "wasserstein": "Wasserstein correlation",
    "wasserstein_normalised": "Wasserstein correlation / variance",
    "code_mutual_information": "Information between latents, nats",
}
# Scores of five latents that are one factor each, in even steps, and of ten latents of noise; computed on factors of
# dSprites with 10,000 samples and official settings. Those of 1 hold for factors of other sizes too.
PERFECT = dict.fromkeys(("beta_vae", "factor_vae", "mig_corrected", "modularity", "modularity_corrected"), 1.0)
PERFECT |= dict.fromkeys(("dci_disentanglement", "dci_completeness", "irs_corrected"), 1.0)
PERFECT_DSPRITES = PERFECT | {"sap": 0.245, "irs": 0.986}
NOISE_DSPRITES = {"beta_vae": 0.17, "factor_vae": 0.21, "mig": 0.0, "modularity": 0.67, "sap": 0.002, "irs": 0.357}
NOTE = (
    "Scores of the posterior means and of samples of the posteriors, official settings (Locatello et al. 2019) unless "
    "“corrected”. Larger is better, except for correlation of and information between latents. A perfect code, whose "
    "latents are the factors in even steps, does not score 1 everywhere, and noise not 0"
)
NOTE_DSPRITES = (
    ": on dSprites MIG ends at 0.90, because 20 bins cannot tell 40 or 32 values apart, and SAP at 0.245, because a "
    "linear classifier on one latent cannot single out a value between others. Modularity is to be read beside other "
    "metrics only: noise has 0.67."
)

CAPTIONS = {
    "traversals": "Traversals: a row for each latent, the most informative first; the others stay as in the image",
    "reconstructions": "Images above, reconstructions below",
}


def latent_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of `LatentPictures` with PNG files in place of the arrays, for the record."""
    kept = {name: results[name] for name in ("samples", "kl", "std", "active", "order")}
    return kept | {
        "traversals": figure_png(traversals_figure(results)),
        "reconstructions": png(reconstruction_grid(results)),
    }


def disentanglement_section(runs: Runs, draw: Figures) -> str:
    """For each run what its latents code in words, the scores, and the figures."""

    def content(record: Record) -> str:
        scored, latents = record.get("disentanglement") or {}, record.get("latents") or {}
        items = "\n".join(f"<li>{escape(sentence)}</li>" for sentence in sentences(scored, latents))
        words = f'<ul class="verdict">\n{items}\n</ul>' if items else ""
        parts = [words, _scores(scored), _information(scored, latents)]
        if latents.get("kl"):
            parts.append(gallery([draw(kl_figure(latents), "KL of each latent", "KL of each latent")]))
        for name, caption in CAPTIONS.items():
            if latents.get(name):
                parts.append(picture(latents[name], caption, escape(caption), "wide"))
        return "\n".join(part for part in parts if part)

    sizes = [record["disentanglement"]["factor_sizes"] for record in runs.values() if record.get("disentanglement")]
    note = NOTE + (NOTE_DSPRITES if DSPRITES in sizes else ".")
    return section("Disentanglement", note if sizes else "", per_run(runs, content))


def mig_ceiling(sizes: list[int]) -> float:
    """MIG of a perfect code in even steps, with 20 bins and without the bias of a finite sample: .902 on dSprites."""
    shares = []
    for size in sizes:
        counts, _ = np.histogram(np.arange(size), BINS)
        chances = counts[counts > 0] / size
        shares.append(-(chances * np.log(chances)).sum() / math.log(size))
    return float(np.mean(shares))


def _scores(scored: Mapping[str, Any]) -> str:
    """A row for each metric: the representations, a perfect code and, where that was computed, noise."""
    if not scored:
        return ""
    on_dsprites = scored["factor_sizes"] == DSPRITES
    perfect = (PERFECT_DSPRITES if on_dsprites else PERFECT) | {"mig": mig_ceiling(scored["factor_sizes"])}
    columns = {"a perfect code": perfect} | ({"noise": NOISE_DSPRITES} if on_dsprites else {})
    representations = scored["scores"]
    rows = []
    for name in dict.fromkeys(name for scores in representations.values() for name in scores):
        plain = name.removesuffix("_corrected")
        title = TITLES.get(plain, plain.replace("_", " ")) + (", corrected" if plain != name else "")
        cells = [number(scores.get(name)) for scores in (*representations.values(), *columns.values())]
        rows.append(f"<th>{escape(title)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells))
    return table(["", *representations, *columns], rows)


def shares_of(scored: Mapping[str, Any]) -> NDArray | None:
    """Shares (L, K) of each factor's entropy that the mean of a latent holds, where they were computed."""
    matrix = ((scored.get("matrices") or {}).get("mean") or {}).get("mutual_information")
    return None if matrix is None else information_shares(matrix, scored["factor_sizes"])


def _information(scored: Mapping[str, Any], latents: Mapping[str, Any]) -> str:
    shares = shares_of(scored)
    if shares is None:
        return ""
    rows = []
    for latent in latents.get("order") or range(len(shares)):
        cells = [
            f'<td style="background:rgb(var(--good) / {0.6 * value:.2f})">{number(value, 2)}</td>'
            for value in shares[latent]
        ]
        rows.append(f"<th>z{latent}</th>{''.join(cells)}")
    title = "Mutual information of each latent's mean with each factor, as a share of the factor's entropy"
    return f"<h4>{title}</h4>\n{table(['', *scored['factor_names']], rows, 'heat')}"


def sentences(scored: Mapping[str, Any], latents: Mapping[str, Any]) -> list[str]:
    """How many latents are active, and which latent codes which factor.

    Args:
        scored: ``results`` of `DisentanglementEvaluation`, or empty.
        latents: Result of `latent_pictures`, or empty.
    """
    lines = []
    if latents:
        active = latents["active"]
        text = f"{sum(active)} of {len(active)} latents are active: the variance of their mean over "
        text += f"{latents['samples']:,} images is above 0.01"
        kl = latents["kl"]
        lines.append(f"{text}; KL from the prior {sum(kl):.3g} nats in all." if kl else f"{text}.")
    shares = shares_of(scored)
    if shares is None:
        return lines
    for name, column in zip(scored["factor_names"], shares.T, strict=True):
        first, *others = np.argsort(-column, kind="stable").tolist()
        if column[first] < SMALLEST:
            lines.append(f"{name}: no latent codes it; the most that one holds is {column[first]:.0%} of its entropy.")
            continue
        text = f"{name}: z{first} holds {column[first]:.0%} of its entropy"
        lines.append(f"{text}, next z{others[0]} with {column[others[0]]:.0%}." if others else f"{text}.")
    main = shares.argmax(0).tolist()
    coded = [latent for latent, share in zip(main, shares.max(0), strict=True) if share >= SMALLEST]
    if shared := sorted({latent for latent in coded if coded.count(latent) > 1}):
        names = ", ".join(f"z{latent}" for latent in shared)
        lines.append(f"Entangled: {names} {'is' if len(shared) == 1 else 'are'} the first latent of several factors.")
    return lines


def disentanglement_values(results: Mapping[str, Any]) -> dict[str, Value]:
    """The columns of the summary table: scores of the posterior means."""
    scores = (results.get("scores") or {}).get("mean") or {}
    return {key: Value(scores[key]) for key in COLUMNS if scores.get(key) is not None}


NOTE_ON_COLUMNS = "MIG, DCI, FactorVAE score and SAP are those of the posterior means, official settings."
COLUMNS = {
    "mig": Column("MIG", True, wins="has the larger MIG (no interval)", note=NOTE_ON_COLUMNS),
    "dci_disentanglement": Column(
        "DCI disentanglement", True, wins="has the larger DCI disentanglement (no interval)", note=NOTE_ON_COLUMNS
    ),
    "factor_vae": Column("FactorVAE score", True, note=NOTE_ON_COLUMNS),
    "sap": Column("SAP", True, note=NOTE_ON_COLUMNS),
}
add_section(Section(40, ("disentanglement", "latents"), disentanglement_section, COLUMNS, disentanglement_values))
