"""`DecisionRegions`: predictions of a domain-adversarial network over a plane of inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from ..shared.batches import data_module, labelled_batch, to_table
from ..shared.checks import check_at_least, check_shape, require_method
from ..shared.collect import Collector
from ..shared.loggers import log_figure
from .decision_figure import decision_regions_figure
from .domains import check_module, domain_features, find_domains
from .figures import principal_components

NAME = "DecisionRegions"
CHUNK = 4096  # points of the grid in one forward pass


class DecisionRegions(Callback):
    """Draws the four plots of Ganin et al. 2016, Figure 2, in ``trainer.test``, for inputs with two coordinates.

    From left to right: the plane's predicted classes; the first two principal components of the domain features of
    source and target together; the plane's predicted domains; and for each domain feature (hidden unit) the line where
    it is 1/2, which for a sigmoid is its hyperplane. Source points have the sign of their class, target points are
    dots. The figure is sent to all loggers as ``adaptation/decision_regions``; no metric is logged.

    The points are those of the first test set, the source, and of the one that is named ``target/<name>`` in the data
    module's ``test_sets``, without names of the second. Batches are ``(x, y)`` with x (B, 2). If the data module has an
    attribute ``tips``, a dict from a letter to a place ``(x, y)``, the point that is nearest to each is marked.

    The module needs ``forward(x) -> (B, K)`` logits, ``domain_logits(x) -> (B,)``, larger for the target, and
    ``domain_features(x) -> (B, D)`` or ``features(x)``. The target's labels are not used.

    Args:
        resolution: Number of points of the grid along each axis, at least 2.
        test_sets: Names of the test loaders; None for the data module's.

    Attributes:
        results: After a test run a row of `decision_regions_figure`, in NumPy arrays: "source" (N, 2),
            "label" (N,), "target" (M, 2), "tips" (letters to rows of source and target together), "x" and "y" (R,),
            "classes" (R, R), "domain" (R, R) logits, "units" (D, R, R) and "components" (N + M, 2).
    """

    report_key = "decision_regions"

    def __init__(self, resolution: int = 200, test_sets: list[str] | None = None) -> None:
        check_at_least(2, resolution=resolution)
        self.resolution = resolution
        self.test_sets = test_sets
        self.results: dict[str, Any] = {}
        self._model = ""
        self._collectors: dict[int, Collector] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what the module offers, and that inputs have two coordinates."""
        check_module(pl_module, NAME)
        self._model = type(pl_module).__name__
        require_method(pl_module, "domain_logits(x) -> (B,), larger for the target", NAME)
        shape = getattr(data_module(trainer), "image_shape", (2,))
        if tuple(shape) != (2,):
            raise ValueError(f"{NAME} draws inputs of shape (2,), points of a plane; the data have {tuple(shape)}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loaders of source and target."""
        self.results = {}
        domains = find_domains(trainer, "test_sets", self.test_sets, NAME)
        self._collectors = {
            place: Collector(trainer, domains.loaders[place], f"test set {name!r}")
            for place, name in zip((0, domains.target), domains.names, strict=True)
        }

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the points."""
        if (collector := self._collectors.get(dataloader_idx)) is not None:
            x, y = labelled_batch(batch)
            if x.shape[1:] != (2,):
                raise ValueError(f"{NAME} draws inputs of shape (B, 2), points of a plane, got {tuple(x.shape)}")
            collector.add(batch_idx, {"x": to_table(x), "label": y.cpu().long()})

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run a grid of points through the module. A collective."""
        if not self._collectors:
            return
        source, target = (collector.gather() for collector in self._collectors.values())
        self._collectors = {}
        tips = getattr(data_module(trainer), "tips", None)
        with trainer.precision_plugin.forward_context():
            self.results = decision_regions(pl_module, source["x"], source["label"], target["x"], tips, self.resolution)

    def report_results(self) -> Figure | None:
        """Put the figure into the report."""
        return decision_regions_figure({self._model: self.results}) if self.results else None

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the figure to the loggers."""
        if self.results and trainer.loggers:
            log_figure(trainer, "adaptation/decision_regions", decision_regions_figure({self._model: self.results}))


@torch.no_grad()
def decision_regions(
    module: Any, source: Tensor, labels: Tensor, target: Tensor, tips: Mapping[str, Any] | None, resolution: int = 200
) -> dict[str, Any]:
    """Run points of a plane and a grid around them through a module in evaluation mode.

    From points (N, 2) and labels (N,) of the source and points (M, 2) of the target to the ``results`` of
    `DecisionRegions`, which says what the module needs and what tips are.
    """
    points = torch.cat([source, target]).cpu()
    low, high = points.min(0).values, points.max(0).values
    margin = 0.08 * (high - low)
    x, y = (
        torch.linspace(float(start), float(end), resolution)
        for start, end in zip(low - margin, high + margin, strict=True)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    grid = _run(module, torch.stack([columns, rows], dim=-1).flatten(0, 1))
    components, _ = principal_components(_run(module, points)["features"], 2)
    plane = (resolution, resolution)
    return {
        "source": source.cpu().numpy(),
        "label": labels.cpu().numpy(),
        "target": target.cpu().numpy(),
        "tips": nearest(points.numpy(), tips or {}),
        "x": x.numpy(),
        "y": y.numpy(),
        "classes": grid["logits"].argmax(1).reshape(plane).numpy(),
        "domain": grid["domain"].reshape(plane).numpy(),
        "units": grid["features"].T.reshape(-1, *plane).numpy(),
        "components": np.pad(components.numpy(), ((0, 0), (0, 2 - components.shape[1]))),
    }


def _run(module: Any, points: Tensor) -> dict[str, Tensor]:
    """Logits (N, K), domain logits (N,) and features (N, D) on the CPU."""
    name, device = type(module).__name__, next(module.parameters()).device
    parts: list[dict[str, Tensor]] = []
    for chunk in points.split(CHUNK):
        x = chunk.to(device)
        logits = check_shape(module(x), (len(x), "K"), f"{name}.forward(x)")
        domain = check_shape(module.domain_logits(x), (len(x),), f"{name}.domain_logits(x)")
        parts.append({"logits": to_table(logits), "domain": to_table(domain), "features": domain_features(module, x)})
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def nearest(points: NDArray, places: Mapping[str, Any]) -> dict[str, int]:
    """By name the row of the point (N, 2) that is nearest to a place (x, y)."""
    return {
        name: int(((points - np.asarray(place, points.dtype)) ** 2).sum(1).argmin()) for name, place in places.items()
    }
