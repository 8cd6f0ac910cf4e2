"""Which test images the blocks of a network hold for similar, beside what a perfect classifier would."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from ..shared.batches import batch_logits, labelled_batch
from ..shared.collect import Collector, gather_rows, log_identical
from ..shared.loggers import log_figure
from ..shared.rows import within_one
from ..shared.samplers import flatten_loaders
from .figures import similarity_figure
from .report import similarity_pictures

FEWEST = 8  # images of a class: with one or two there would be next to no pairs of the same class to see
CHUNK = 32  # images in one forward pass, because the maps of all blocks are held at once


class SimilarityMatrices(Callback):
    """Shows the similarity matrix of every block's features beside the target's, in ``trainer.test``.

    Two images are similar as far as their features correlate: entry (i, j) of a matrix is Pearson's correlation
    between the features of image i and those of image j, where a map counts by the standard deviation of each channel
    over its pixels (Nøkland and Eidnes 2019, similarity matching). The target is 1 for two images of the same class
    and -1 / (K - 1) for others, the correlation of their one-hot labels. How far a block is from it is logged as
    ``similarity/block_<i>``: the mean squared difference over all pairs, in [0, 4]. The picture is sent to all loggers
    as ``similarity/matrices``, and `Report` shows it.

    The images are the first of each class in the first test set, sorted by class: ``number // K`` of each, but at
    least 8, so of 100 classes only the first 16 are shown. They are the same on any number of processes.

    The module needs ``forward(x) -> (B, K)`` logits and ``block_features(x)``: a list with the output (B, …) of each
    block, in order. No gradient is taken. The numbers are for the features themselves, whatever a local loss does to
    them before it compares.

    Args:
        number: Images at most; at least 16.

    Attributes:
        results: After a test run: "samples" (n), "classes" (K), "uncorrelated" (the difference if no two images
            correlated, to compare with), "target" (n, n) and "blocks": by name, each with its "difference" and
            "matrix" (n, n). Matrices are NumPy arrays with values in [-1, 1].

    Raises:
        ValueError: ``number`` is too small.
    """

    report_key = "similarity"

    def __init__(self, number: int = 128) -> None:
        if number < 2 * FEWEST:
            raise ValueError(f"expected number >= {2 * FEWEST}, {FEWEST} images of two classes, got {number}")
        self.number = number
        self.results: dict[str, Any] = {}
        self._collector: Collector | None = None
        self._classes = 0
        self._room: dict[int, int] = {}
        self._images: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a module that does not show its blocks.

        Raises:
            TypeError: It has no ``block_features`` or no ``forward``.
        """
        name = type(pl_module).__name__
        if not callable(getattr(pl_module, "block_features", None)):
            raise TypeError(
                "SimilarityMatrices needs a module with block_features(x) -> list of (B, ...), one for each block; "
                f"{name} has no method 'block_features'"
            )
        if not is_overridden("forward", pl_module):
            raise TypeError(f"SimilarityMatrices needs forward(x) -> (B, K) logits: {name} has none")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget an earlier test run.

        Raises:
            ValueError: On several processes, where the test loader's order cannot be known.
        """
        self.results = {}
        self._collector = Collector(trainer, flatten_loaders(trainer.test_dataloaders)[0], "the test set")
        self._classes = 0
        self._images = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images of each class.

        Raises:
            ValueError: A batch of the first test set is not ``(x, y)`` with integer labels.
        """
        if dataloader_idx or self._collector is None:
            return
        x, y = labelled_batch(batch)
        if not self._classes:
            self._classes = batch_logits(trainer, pl_module, outputs, x).shape[1]
            of_each = self._of_each(self._classes)
            self._room = dict.fromkeys(range(min(self._classes, self.number // of_each)), of_each)
        labels = y.cpu().long()
        slots = torch.full_like(labels, -1)
        for label, room in self._room.items():
            rows = (labels == label).nonzero().flatten()[:room]
            if len(rows):
                slots[rows] = len(self._images) + torch.arange(len(rows))
                self._images += x.detach()[rows.to(x.device)].cpu()
                self._room[label] -= len(rows)
        rank, classes = (torch.full_like(labels, value) for value in (trainer.global_rank, self._classes))
        self._collector.add(batch_idx, {"label": labels, "slot": slots, "rank": rank, "classes": classes})

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compute the matrices, and log how far each is from the target. A collective.

        Raises:
            ValueError: The module's ``block_features`` gave something else than a list of (B, …).
        """
        table = self._collector.gather() if self._collector else {}
        images, self._images, self._collector = self._images, [], None
        classes = int(table["classes"][0]) if table else 2
        kept = {name: column[table["slot"] >= 0] for name, column in table.items()}
        chosen = [
            (kept["label"] == label).nonzero().flatten()[: self._of_each(classes)]
            for label in (kept["label"].unique().tolist() if table else ())
        ]
        if not chosen:
            rank_zero_warn("SimilarityMatrices found no labelled test image")
            return
        rows = torch.cat(chosen)
        labels = kept["label"][rows]
        mine = (kept["rank"][rows] == trainer.global_rank).nonzero().flatten()
        held = [images[slot] for slot in kept["slot"][rows[mine]].tolist()]
        # every process goes through the blocks with all images, because a module's forward may be collective
        shared = gather_rows(trainer, {"key": mine, "x": torch.stack(held)} if held else {})["x"]
        target = target_similarity(labels, classes)
        blocks: dict[str, dict[str, Any]] = {}
        for index, rows in enumerate(_block_rows(trainer, pl_module, shared)):
            matrix = similarity_matrix(rows)
            difference = (matrix - target).square().mean().item()
            blocks[f"block_{index}"] = {"difference": difference, "matrix": matrix.numpy()}
        self.results = {
            "samples": len(labels),
            "classes": classes,
            "uncorrelated": (torch.eye(len(labels)) - target).square().mean().item(),
            "target": target.numpy(),
            "blocks": blocks,
        }
        figures = {f"similarity/{name}": block["difference"] for name, block in blocks.items()}
        log_identical(pl_module, figures)

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report, matrices as pictures."""
        return similarity_pictures(self.results) if self.results else {}

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the picture to the loggers."""
        if self.results and trainer.loggers:
            log_figure(trainer, "similarity/matrices", similarity_figure(self.results))

    def _of_each(self, classes: int) -> int:
        return max(FEWEST, self.number // classes)


def feature_rows(features: Tensor) -> Tensor:
    """What is compared of a sample: the standard deviation of each channel over its map, or all features.

    Args:
        features: (n, …). Four dimensions (n, C, H, W) with C > 3 and H > 1 are maps; all else is flattened, so that
            raw pictures are.

    Returns:
        (n, C) or (n, d), at least float32, on the CPU.
    """
    features = features.detach().to(torch.promote_types(features.dtype, torch.float32))
    is_map = features.ndim == 4 and features.shape[1] > 3 and features.shape[2] > 1
    return (features.flatten(2).std(2) if is_map else features.flatten(1)).cpu()


def similarity_matrix(rows: Tensor) -> Tensor:
    """Pearson's correlation between the samples of a batch, over their features.

    A sample whose features are all equal up to rounding correlates with none, itself included.

    Args:
        rows: (n, d), from `feature_rows`.

    Returns:
        (n, n) float64, in [-1, 1].
    """
    rows = within_one(rows)
    centred = rows - rows.mean(1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    # rounding in float32 leaves about 1e-7 of a constant row, which must not be blown up to the norm 1
    unit = torch.where(norms <= 1e-6 * rows.norm(dim=1, keepdim=True), 0, centred / norms)
    return (unit @ unit.T).clamp(-1, 1)


def target_similarity(labels: Tensor, classes: int) -> Tensor:
    """The correlation between one-hot labels: 1 for the same class, -1 / (K - 1) for another.

    Args:
        labels: (n,), integers.
        classes: K, at least 2.

    Returns:
        (n, n) float64.

    Raises:
        ValueError: Fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"expected at least two classes, got {classes}")
    same = (labels[:, None] == labels[None, :]).double()
    return same - (1 - same) / (classes - 1)  # `torch.where` of two numbers would round to float32


def _block_rows(trainer: Trainer, pl_module: Any, images: Tensor) -> list[Tensor]:
    """`feature_rows` of each block."""
    name = type(pl_module).__name__
    found: list[list[Tensor]] = []
    for chunk in images.split(CHUNK):
        with trainer.precision_plugin.forward_context():
            blocks = pl_module.block_features(chunk.to(trainer.strategy.root_device))
        if not isinstance(blocks, Sequence) or not blocks:
            raise ValueError(f"expected a list of features from {name}.block_features(x), got {type(blocks).__name__}")
        for index, features in enumerate(blocks):
            if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(chunk):
                shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
                raise ValueError(
                    f"expected {name}.block_features(x)[{index}] of shape ({len(chunk)}, ...), got {shape}"
                )
        found.append([feature_rows(features) for features in blocks])
    return [torch.cat(parts) for parts in zip(*found, strict=True)]
