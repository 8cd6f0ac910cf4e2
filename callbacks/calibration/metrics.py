"""Calibration metrics of a classifier: pure functions, computed in float64 whatever comes in.

Bins are ``[lo, hi)`` with the last one closed, ``[lo, 1]``: a confidence of exactly 1, common for saturated
networks, belongs to the last bin. ``right_closed=True`` gives ``(lo, hi]``, the convention of Guo et al. (On
Calibration of Modern Neural Networks, 2017), in which 0 is in no bin. The gap of a bin is taken to its mean
confidence, not to its centre. Empty bins count for nothing.

What has no metric is a ``ValueError``: no sample or bin, labels that are not integers in [0, K), probabilities or
confidences that are NaN or outside [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Bins:
    """A reliability diagram: M bins and what fell into them.

    Attributes:
        edges: (M + 1,), from 0 to 1.
        count: (M,), samples in the bin.
        accuracy: (M,), share of correct ones; NaN where the bin is empty.
        confidence: (M,), mean confidence; NaN where the bin is empty.
        total: All samples, those that are in no bin included.
    """

    edges: Floats
    count: Integers
    accuracy: Floats
    confidence: Floats
    total: int

    @property
    def gap(self) -> Floats:
        """(M',) absolute difference of accuracy and confidence of the bins that are not empty."""
        return np.abs(self.accuracy - self.confidence)[self.count > 0]

    @property
    def weight(self) -> Floats:
        """(M',) share of all samples in each bin that is not empty."""
        return self.count[self.count > 0] / self.total


def _check_labels(labels: Tensor | NDArray, samples: int, classes: int) -> None:
    """Raise a ``ValueError`` unless there is an integer label in [0, K) for each of at least one sample.

    A negative label would count classes from the end, and PyTorch leaves a label of -100 out of a cross-entropy.
    """
    whole = np.asarray(labels[:0].cpu() if isinstance(labels, Tensor) else labels).dtype.kind in "iu"
    if tuple(labels.shape) != (samples,) or not samples or not whole:
        raise ValueError(
            f"expected an integer label for each of at least one sample, ({samples},), "
            f"got shape {tuple(labels.shape)} of {labels.dtype}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {low} to {high}")


def _checked(probabilities: Floats, labels: Integers) -> tuple[Floats, Integers]:
    """Probabilities (N, K) in float64 and labels (N,)."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if p.ndim != 2:
        raise ValueError(f"expected probabilities of shape (N, K), got {p.shape}")
    _check_labels(y, *p.shape)
    _refuse_outside(p, "probabilities")
    return p, y.astype(np.int64)


def _checked_confidence(confidence: Floats, correct: NDArray, bins: int = 1) -> tuple[Floats, Floats]:
    """Both (N,) in float64."""
    if bins < 1:
        raise ValueError(f"expected at least one bin, got bins={bins}")
    p, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if p.ndim != 1 or p.shape != hits.shape or not len(p):
        raise ValueError(f"expected confidences and hits of shape (N,), N >= 1, got {p.shape} and {hits.shape}")
    _refuse_outside(p, "confidences")
    return p, hits


def _refuse_outside(values: Floats, what: str) -> None:
    if broken := int((~((values >= 0) & (values <= 1 + 1e-9))).sum()):  # 1 may be rounded up
        raise ValueError(f"expected {what} in [0, 1], got {broken} of {values.size} that are NaN or outside")


def softmax(logits: Tensor) -> Floats:
    """(N, K) logits to (N, K) probabilities in float64."""
    return torch.softmax(logits.double(), dim=1).numpy()


def accuracy(probabilities: Floats, labels: Integers) -> float:
    """Share of samples whose most probable class (the first of equals) is the label, in [0, 1]."""
    probabilities, labels = _checked(probabilities, labels)
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood in nats, from the log-softmax of (N, K) logits: finite for finite logits.

    NaN logits make it NaN; a logit of -inf is a class of probability 0.
    """
    _check_labels(labels, *logits.shape)
    return float(torch.nn.functional.cross_entropy(logits.double(), labels.long()))


def brier(probabilities: Floats, labels: Integers) -> float:
    """Mean over samples of the squared error summed over classes, in [0, 2] (Brier 1950)."""
    probabilities, labels = _checked(probabilities, labels)
    target = np.zeros_like(probabilities)
    target[np.arange(len(labels)), labels] = 1.0
    return float(np.mean(np.sum((probabilities - target) ** 2, axis=1)))


def reliability(confidence: Floats, correct: NDArray, bins: int = 15, right_closed: bool = False) -> Bins:
    """Sort confidences (N,), each correct (bool, or 0 and 1) or not, into bins of equal width, closed as said above."""
    confidence, correct = _checked_confidence(confidence, correct, bins)
    edges = np.arange(bins + 1) / bins  # k / M correctly rounded, so that 0.6 lies on the edge 3 / 5
    index = np.minimum(np.searchsorted(edges, confidence, "left" if right_closed else "right") - 1, bins - 1)
    # sorted first: sums of floats depend on the order, and no metric may depend on the order of the samples
    order = np.lexsort((confidence, index))
    order = order[index[order] >= 0]
    count = np.bincount(index[order], minlength=bins)
    sums = np.bincount(index[order], weights=confidence[order], minlength=bins)
    hits = np.bincount(index[order], weights=correct[order], minlength=bins)
    divisor = np.where(count > 0, count, np.nan)  # an empty bin has neither mean
    return Bins(edges, count, hits / divisor, sums / divisor, len(confidence))


def top_label(probabilities: Floats, labels: Integers) -> tuple[Floats, NDArray[np.bool_]]:
    """Confidence (N,) of the most probable class and whether it is the label (N,)."""
    probabilities, labels = _checked(probabilities, labels)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def ece(bins: Bins) -> float:
    """Expected calibration error: gaps weighted by the share of samples (Naeini et al. 2015)."""
    return float(bins.gap @ bins.weight)


def mce(bins: Bins) -> float:
    """Largest gap of a bin that is not empty, 0 without any; read it together with the counts."""
    return float(bins.gap.max(initial=0.0))


def rmsce(bins: Bins) -> float:
    """Root of the weighted mean of squared gaps."""
    return float(np.sqrt(bins.gap**2 @ bins.weight))


def adaptive_ece(confidence: Floats, correct: NDArray, bins: int = 15) -> float:
    """Top-label calibration error with bins of equal counts (the first ones get the remainder).

    Where confidences tie across the border of two bins, each sample counts with the accuracy of its tie group: a
    constant confidence of 0.5 that is right half of the time has an error of 0.
    """
    confidence, correct = _checked_confidence(confidence, correct, bins)
    ordered, count, share = _tie_groups(confidence, correct)
    hits, sure = np.repeat(share, count), np.repeat(ordered, count)
    parts = [part for part in np.array_split(np.arange(len(sure)), bins) if len(part)]
    gaps = [abs(hits[part].mean() - sure[part].mean()) for part in parts]
    return float(np.array(gaps) @ np.array([len(part) / len(sure) for part in parts]))


def _tie_groups(values: Floats, correct: Floats) -> tuple[Floats, Integers, Floats]:
    """Distinct values ascending, how many samples have each, and the share of correct ones among these."""
    distinct, group, count = np.unique(values, return_inverse=True, return_counts=True)
    return distinct, count, np.bincount(group, weights=correct) / count


def classwise_ece(probabilities: Floats, labels: Integers, bins: int = 15, right_closed: bool = False) -> float:
    """Mean over classes k of the ECE of p_k against ``label == k`` (Kull et al. 2019); small for many classes."""
    probabilities, labels = _checked(probabilities, labels)
    columns = range(probabilities.shape[1])
    return float(np.mean([ece(reliability(probabilities[:, k], labels == k, bins, right_closed)) for k in columns]))


def aurc(confidence: Floats, correct: NDArray) -> float:
    """Area under the risk-coverage curve: mean over coverages of the error rate of the most confident samples.

    Where confidences tie, samples are kept in the expected, not in a lucky order: each gets the mean error of
    its tie group.
    """
    confidence, correct = _checked_confidence(confidence, correct)
    _, count, errors = _tie_groups(-confidence, 1.0 - correct)
    return float(np.mean(np.cumsum(np.repeat(errors, count)) / np.arange(1, len(confidence) + 1)))


@dataclass(frozen=True)
class Temperature:
    """The result of `fit_temperature`.

    Attributes:
        value: T, within the bounds.
        converged: The gradient vanishes at T, T is not at a bound, and the NLL is not 0: that has no smallest place.
        nll_before: Mean NLL in nats at T = 1.
        nll_after: At T.
    """

    value: float
    converged: bool
    nll_before: float
    nll_after: float


def fit_temperature(
    logits: Tensor, labels: Tensor, bounds: tuple[float, float] = (0.05, 20.0), max_iterations: int = 100
) -> Temperature:
    """Fit T of softmax(z / T) by minimising the NLL over log T with LBFGS and a strong Wolfe line search.

    The logarithm keeps T positive, float64 and the line search reach the optimum from far away, and the bounds
    hold it where data that are separable (or pure noise) would send it to 0 (or infinity). Works in inference
    mode too. Temperature scaling: Guo et al. 2017.

    Args:
        logits: (N, K), any floating-point type.
        labels: (N,) integers in [0, K).
        bounds: Smallest and largest T.
        max_iterations: Of LBFGS.

    Raises:
        ValueError: Logits that are not finite, or not an integer label in [0, K) for each of at least one sample.
    """
    _check_labels(labels, *logits.shape)
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise ValueError(f"NaN or infinite logits for {broken} of {len(logits)} samples")
    low, high = (float(np.log(bound)) for bound in bounds)
    with torch.inference_mode(False), torch.enable_grad():
        # clones: tensors made in inference mode may not be saved for a gradient
        z, y = logits.detach().double().clone(), labels.detach().long().clone()
        log_t = torch.zeros((), dtype=torch.float64, device=z.device, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [log_t],
            max_iter=max_iterations,
            tolerance_grad=1e-14,  # the usual tolerances stop at four digits of T
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            # finite far outside the bounds too; a clamp to them would be a flat place for the search to end in
            return torch.nn.functional.cross_entropy(z / log_t.clamp(-30, 30).exp(), y)

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        log_t.data.clamp_(low, high)
        after = closure()
    assert log_t.grad is not None
    # relative to the NLL: where the data are separable both vanish together, far from any optimum
    flat = abs(log_t.grad.item()) <= 1e-5 * after.item() and after.item() > 0
    inside = low < log_t.item() < high
    value = log_t.exp().item() if inside else bounds[log_t.item() >= high]
    return Temperature(value, flat and inside, nll(z, y), after.item())
