"""`SimilarityMatrices`: how similar test images are to each block of a network, beside a perfect classifier."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from ..shared.batches import batch_logits, labelled_batch
from ..shared.checks import check_at_least, require_logits, require_method
from ..shared.collect import Collector, gather_rows, log_identical
from ..shared.loggers import log_figure
from ..shared.samplers import flatten_loaders
from .figures import similarity_figure
from .metrics import feature_rows, similarity_matrix, target_similarity
from .report import similarity_pictures

NAME = "SimilarityMatrices"
FEWEST = 8  # smallest number of images of a class: fewer have hardly any pairs of the same class
CHUNK = 32  # images in one forward pass, because the maps of all blocks are in memory at once


class SimilarityMatrices(Callback):
    """Shows the similarity matrix of every block's features beside the target's, in ``trainer.test``.

    Entry (i, j) of a matrix is Pearson's correlation between the features of image i and those of image j, where a map
    is represented by the standard deviation of each channel over its pixels (Nøkland and Eidnes 2019, similarity
    matching). The target is 1 for two images of the same class and -1 / (K - 1) for others, the correlation of their
    one-hot labels.

    Batches are ``(x, y)`` with integer labels. The module needs ``forward(x) -> (B, K)`` logits and
    ``block_features(x)``: a list with the output (B, …) of each block, in order. No gradient is taken. Features are
    compared as they are, whatever a local loss does to them before it compares.

    It logs the difference of each block from the target as ``similarity/block_<i>``: the mean squared difference over
    all pairs, in [0, 4]. The figure is sent to all loggers as ``similarity/matrices``, and `Report` shows it.

    The images are the first of each class in the first test set, sorted by class: ``number // K`` of each, but at
    least 8, so of 100 classes only the first 16 are shown. They are the same on any number of processes.

    Args:
        number: Largest number of images, at least 16.

    Attributes:
        results: After a test run: "samples" (n), "classes" (K), "uncorrelated" (the difference if no two images were
            correlated, to compare with), "target" (n, n) and "blocks": by name, each with its "difference" and
            "matrix" (n, n). Matrices are NumPy arrays with values in [-1, 1].
    """

    report_key = "similarity"

    def __init__(self, number: int = 128) -> None:
        check_at_least(2 * FEWEST, number=number)  # of two classes
        self.number = number
        self.results: dict[str, Any] = {}
        self._collector: Collector | None = None
        self._classes = 0
        self._room: dict[int, int] = {}
        self._images: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the module offers."""
        require_method(pl_module, "block_features(x) -> list of (B, ...), one for each block", NAME)
        require_logits(pl_module, NAME)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard an earlier test run."""
        self.results = {}
        self._collector = Collector(trainer, flatten_loaders(trainer.test_dataloaders)[0], "the test set")
        self._classes = 0
        self._images = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first images of each class."""
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
        """Compute the matrices, and log how far each is from the target. A collective."""
        table = self._collector.gather() if self._collector else {}
        images, self._images, self._collector = self._images, [], None
        classes = int(table["classes"][0]) if table else 2
        kept = {name: column[table["slot"] >= 0] for name, column in table.items()}
        chosen = [
            (kept["label"] == label).nonzero().flatten()[: self._of_each(classes)]
            for label in (kept["label"].unique().tolist() if table else ())
        ]
        if not chosen:
            rank_zero_warn(f"{NAME} found no labelled test image")
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
        log_identical(pl_module, {f"similarity/{name}": block["difference"] for name, block in blocks.items()})

    def report_results(self) -> dict[str, Any]:
        """Put the results into the report, matrices as pictures."""
        return similarity_pictures(self.results) if self.results else {}

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the figure to the loggers."""
        if self.results and trainer.loggers:
            log_figure(trainer, "similarity/matrices", similarity_figure(self.results))

    def _of_each(self, classes: int) -> int:
        return max(FEWEST, self.number // classes)


def _block_rows(trainer: Trainer, pl_module: Any, images: Tensor) -> list[Tensor]:
    """`feature_rows` of each block.

    Raises:
        ValueError: The module's ``block_features`` is not a list of tensors (B, …).
    """
    name = type(pl_module).__name__
    chunks: list[list[Tensor]] = []
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
        chunks.append([feature_rows(features) for features in blocks])
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]
