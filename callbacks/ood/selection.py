"""Which scores can be computed for a module, and computing them from the gathered logits and features.

Scores that need the input (ODIN, the module's own) are taken batch by batch. All others are computed at the end,
from whole tables in blocks of fixed size, so that batches and processes cannot change a digit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..shared.batches import check_logits
from ..shared.collect import Table
from .feature_scores import (
    HEAD_SCORES,
    Score,
    find_head,
    fit_knn,
    fit_mahalanobis,
    fit_react,
    fit_relative_mahalanobis,
    fit_vim,
)
from .results import Scores
from .scores import LOGIT_SCORES

FITTED = ("knn", "mahalanobis", "relative_mahalanobis", "vim", "react")
NEED_HEAD = (*HEAD_SCORES, "vim", "react")
NEED_FEATURES = (*HEAD_SCORES, *FITTED)
BUILT_IN = (*LOGIT_SCORES, "odin", *FITTED, *HEAD_SCORES)
COLUMN = "score:"  # prefix of the columns of scores taken batch by batch
BLOCK = 512  # rows; with 50,000 training samples k-nearest-neighbours takes 200 MB


@dataclass
class ScoreSelection:
    """The scores asked for (None: all that can be computed), and by name why a built-in one was left out."""

    requested: list[str] | None
    skipped: dict[str, str] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Whether a score will be computed."""
        return name not in self.skipped and (self.requested is None or name in self.requested)

    def wants_any(self, names: Iterable[str]) -> bool:
        """Whether one of the scores will be computed."""
        return any(self.wants(name) for name in names)

    def reasons(self) -> dict[str, list[str]]:
        """The scores that were left out by reason."""
        return {why: [name for name in self.skipped if self.skipped[name] == why] for why in self.skipped.values()}

    def skip(self, names: Iterable[str], reason: str) -> None:
        """Leave scores out; a ``ValueError`` if one of them was asked for by name."""
        for name in names:
            if self.requested is not None and name in self.requested:
                raise ValueError(f"score {name!r} was asked for, but {reason}")
            if self.wants(name):
                self.skipped[name] = reason


def select_scores(requested: list[str] | None, module: LightningModule) -> ScoreSelection:
    """Match the scores asked for with what a module offers; a ``ValueError`` where one cannot be computed."""
    selection = ScoreSelection(requested)
    name = type(module).__name__
    own = callable(getattr(module, "ood_scores", None))
    unknown = [score for score in requested or () if score not in BUILT_IN]
    if unknown and not own:
        raise ValueError(f"unknown scores {unknown}: {name} has no ood_scores(x), and built in are {list(BUILT_IN)}")
    if not callable(getattr(module, "features", None)):
        selection.skip(NEED_FEATURES, f"{name} has no features(x) -> (B, D)")
    return selection


def score_tables(
    tables: dict[str, Table],
    id_name: str,
    selection: ScoreSelection,
    module: nn.Module,
    fit: Table,
    knn_k: int,
    head_tolerance: float,
    device: torch.device,
) -> Scores:
    """All scores of all sets.

    Args:
        tables: For each set "logits", where needed "features", and a column for each score taken batch by batch.
        id_name: The in-distribution set.
        selection: What to compute; scores that turn out impossible are added to what it skips.
        module: Whose last layer is looked for.
        fit: "features" and "label" of training samples; empty where no fitted score is wanted.
        knn_k: Neighbour of k-nearest-neighbours.
        head_tolerance: The tolerance of `find_head`.
        device: Where scores of logits and features are computed, in float64.

    Raises:
        ValueError: Logits, features or the module's own scores are not finite, a set is empty, logits are
            probabilities, or a score was asked for by name and cannot be computed.
    """
    for name, table in tables.items():
        if not table:
            raise ValueError(f"no samples in test set {name!r}")
        check_logits(table["logits"], f"test set {name!r}")
        if "features" in table:
            _check_features(table["features"], f"test set {name!r}")
    functions = {name: ("logits", score) for name, score in LOGIT_SCORES.items()}
    if "features" in tables[id_name]:
        of_features = _feature_functions(tables[id_name], selection, module, fit, knn_k, head_tolerance, device)
        functions |= {name: ("features", score) for name, score in of_features.items()}
    scores: Scores = {}
    own = [column.removeprefix(COLUMN) for column in tables[id_name] if column.startswith(COLUMN)]
    for name in [*BUILT_IN, *(name for name in own if name not in BUILT_IN)]:
        if name in own:
            values = {of: table[COLUMN + name].double().numpy() for of, table in tables.items()}
        elif name in functions and selection.wants(name):
            column, score = functions[name]
            values = {of: _in_blocks(score, table[column], device) for of, table in tables.items()}
        else:
            continue
        broken = {of: int((~np.isfinite(of_set)).sum()) for of, of_set in values.items()}
        reason = ", ".join(f"{number} samples of {of!r}" for of, number in broken.items() if number)
        if not reason:
            scores[name] = values
        elif name in BUILT_IN:
            selection.skip([name], f"it is NaN or infinite for {reason}")
        else:
            raise ValueError(f"score {name!r} of {type(module).__name__} is NaN or infinite for {reason}")
    return scores


def _in_blocks(score: Score, rows: Tensor, device: torch.device) -> np.ndarray:
    return torch.cat([score(block.to(device)).cpu() for block in rows.split(BLOCK)]).numpy()


def _check_features(features: Tensor, of: str) -> None:
    if broken := int((~features.isfinite().all(dim=1)).sum()):
        raise ValueError(f"NaN or infinite features for {broken} of {len(features)} samples of {of}")


def _feature_functions(
    inside: Table,
    selection: ScoreSelection,
    module: nn.Module,
    fit: Table,
    knn_k: int,
    head_tolerance: float,
    device: torch.device,
) -> dict[str, Score]:
    """The scores as functions of features, for those wanted and possible."""
    functions: dict[str, Score] = {}
    head = None
    if selection.wants_any(NEED_HEAD):
        features, logits = inside["features"][:BLOCK].to(device), inside["logits"][:BLOCK].to(device)
        head = find_head(module, features, logits, head_tolerance)
        if head is None:
            name = type(module).__name__
            selection.skip(NEED_HEAD, f"{name} has no linear layer that turns its features into its logits")
        else:
            functions = {name: partial(HEAD_SCORES[name], head=head) for name in filter(selection.wants, HEAD_SCORES)}
    if selection.wants_any(FITTED):
        _check_features(fit["features"], "the training data")
        bank, labels = fit["features"].to(device), fit["label"].to(device)
        labelled = (bank[labels >= 0], labels[labels >= 0])
        fits: dict[str, Callable[[], Score]] = {
            "knn": partial(fit_knn, bank, knn_k),
            "mahalanobis": partial(fit_mahalanobis, *labelled),
            "relative_mahalanobis": partial(fit_relative_mahalanobis, *labelled),
        }
        if head is not None:
            fits |= {"vim": partial(fit_vim, bank, head), "react": partial(fit_react, bank, head)}
        for name in filter(selection.wants, fits):
            try:
                functions[name] = fits[name]()
            except (ValueError, torch.linalg.LinAlgError) as error:
                selection.skip([name], f"its fit failed: {error}")
    return functions
