"""`DecisionRegions`: what a domain-adversarial network makes of a plane of inputs."""

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
    dots. The picture is sent to all loggers as ``adaptation/decision_regions``.

    Points are those of the first test set, the source, and of the one that is named ``target/<name>`` in the data
    module's ``test_sets``, without names of the second. Where the data module has an attribute ``tips``, a dict from a
    letter to a place ``(x, y)``, the point that is nearest to each is marked.

    The module needs ``forward(x) -> (B, K)`` logits, ``domain_logits(x) -> (B,)``, larger for the target, and
    ``domain_features(x) -> (B, D)`` or ``features(x)``. The target's labels are not looked at.

    Args:
        resolution: Points of the grid along each axis, at least 2.
        test_sets: Names of the test loaders; None for the data module's.

    Attributes:
        results: After a test run what `decision_regions_figure` draws as a row, in NumPy arrays: "source" (N, 2),
            "label" (N,), "target" (M, 2), "tips" (letters to rows of source and target together), "x" and "y" (R,),
            "classes" (R, R), "domain" (R, R) logits, "units" (D, R, R) and "components" (N + M, 2).

    Raises:
        ValueError: ``resolution`` is too small.
    """

    report_key = "decision_regions"

    def __init__(self, resolution: int = 200, test_sets: list[str] | None = None) -> None:
        if resolution < 2:
            raise ValueError(f"expected resolution >= 2, got {resolution}")
        self.resolution = resolution
        self.test_sets = test_sets
        self.results: dict[str, Any] = {}
        self._model = ""
        self._collectors: dict[int, Collector] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse other modules and other inputs.

        Raises:
            TypeError: The module has no forward, no features or no ``domain_logits``.
            ValueError: The data module's inputs have not two coordinates.
        """
        check_module(pl_module, NAME)
        self._model = type(pl_module).__name__
        if not callable(getattr(pl_module, "domain_logits", None)):
            raise TypeError(
                f"{NAME} needs a module with domain_logits(x) -> (B,), larger for the target; "
                f"{type(pl_module).__name__} has no method 'domain_logits'"
            )
        shape = getattr(data_module(trainer), "image_shape", (2,))
        if tuple(shape) != (2,):
            raise ValueError(f"{NAME} draws inputs of shape (2,), points of a plane; the data have {tuple(shape)}")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the loaders of source and target.

        Raises:
            ValueError: There are not two, or the names do not fit them.
        """
        self.results = {}
        domains = find_domains(trainer, "test_sets", self.test_sets, NAME)
        self._collectors = {
            place: Collector(trainer, domains.loaders[place], f"test set {name!r}")
            for place, name in zip((0, domains.target), domains.names, strict=True)
        }

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the points.

        Raises:
            ValueError: They have not two coordinates, or no labels.
        """
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
            found = decision_regions(pl_module, source["x"], source["label"], target["x"], tips, self.resolution)
        self.results = found

    def report_results(self) -> Figure | None:
        """Put the picture into the report."""
        return decision_regions_figure({self._model: self.results}) if self.results else None

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Send the picture to the loggers."""
        if self.results and trainer.loggers:
            log_figure(trainer, "adaptation/decision_regions", decision_regions_figure({self._model: self.results}))


@torch.no_grad()
def decision_regions(
    module: Any,
    source: Tensor,
    labels: Tensor,
    target: Tensor,
    tips: Mapping[str, Any] | None = None,
    resolution: int = 200,
) -> dict[str, Any]:
    """What a module makes of points of a plane, and of a grid around them; a row of `decision_regions_figure`.

    Args:
        module: In evaluation mode, with ``forward``, ``domain_logits`` and ``domain_features`` or ``features``.
        source: (N, 2).
        labels: (N,) of the source.
        target: (M, 2).
        tips: Places ``(x, y)`` by name; the nearest points are marked.
        resolution: Points of the grid along each axis.

    Returns:
        See `DecisionRegions`.

    Raises:
        ValueError: The module gives another shape.
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
        logits, domain = module(x), module.domain_logits(x)
        for method, values, ndim in (("forward", logits, 2), ("domain_logits", domain, 1)):
            if not isinstance(values, Tensor) or values.ndim != ndim or len(values) != len(x):
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                wanted = f"({len(x)}, K)" if ndim == 2 else f"({len(x)},)"
                raise ValueError(f"expected {name}.{method}(x) of shape {wanted}, got {shape}")
        found = {"logits": to_table(logits), "domain": to_table(domain), "features": domain_features(module, x)}
        parts.append(found)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def nearest(points: NDArray, places: Mapping[str, Any]) -> dict[str, int]:
    """By name the row of the point (N, 2) that is nearest to a place (x, y)."""
    return {
        name: int(np.square(points - np.asarray(place, points.dtype)).sum(1).argmin()) for name, place in places.items()
    }
