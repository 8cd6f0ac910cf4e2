"""Run records with real statistics of made-up models, and a parser of pages, for the tests of the report."""

import base64
from html.parser import HTMLParser
from unittest import mock

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

from callbacks.shared.loggers import png

SETS = {
    "near/interpolated": 1.3,
    "near/rotated": 0.8,
    "far/uniform": 3.0,
    "far/constant": -0.7,
    "far/photos": 2.2,
}


def calibration_results(seed=0, samples=300, skill=1.0, sharpness=1.0, bins=15):
    rng = np.random.default_rng(seed)
    confidence = 1 - 0.55 * rng.beta(0.6, 4 * skill, samples)
    correct = rng.random(samples) < confidence

    def part(scale):
        odds = (confidence / (1 - confidence + 1e-9)) ** scale
        shown = np.clip(odds / (1 + odds), 0.1, 1)
        edges = np.linspace(0, 1, bins + 1)
        index = np.clip(np.ceil(shown * bins).astype(int) - 1, 0, bins - 1)
        count = np.bincount(index, minlength=bins)
        mean = [np.bincount(index, weights=w, minlength=bins) / np.maximum(count, 1) for w in (correct, shown)]
        gaps = np.abs(mean[0] - mean[1])
        return {
            "accuracy": float(correct.mean()),
            "nll": float(-np.log(np.where(correct, shown, (1 - shown) / 9 + 1e-9)).mean()),
            "brier": float(((correct - shown) ** 2 + (1 - shown) ** 2 / 9).mean()),
            "ece": float((count * gaps).sum() / samples),
            "mce": float(gaps[count > 0].max()),
            "ace": float((count * gaps).sum() / samples * 0.9),
            "classwise_ece": float((count * gaps).sum() / samples / 5),
            "mean_confidence": float(shown.mean()),
            "diagram": {
                "edges": edges.tolist(),
                "count": count.tolist(),
                "accuracy": [float(a) if c else None for a, c in zip(mean[0], count, strict=True)],
                "confidence": [float(a) if c else None for a, c in zip(mean[1], count, strict=True)],
            },
        }

    return {
        "samples": samples,
        "classes": 10,
        "temperature": float(sharpness),
        "before": part(sharpness),
        "after": part(1.0),
    }


def ood_results(seed=0, scores=("msp", "energy"), samples=300, skill=1.0):
    rng = np.random.default_rng(seed)
    results = {
        "id": "digits",
        "samples": samples,
        "scores": list(scores),
        "skipped": {"vim": "needs features(x)"},
    }
    results |= {"sets": {name: {"samples": samples} for name in SETS}, "histograms": {}, "roc": {}}
    for score in scores:
        quality = skill * rng.uniform(0.6, 1.2)
        inside = rng.normal(size=samples)
        draws = {name: rng.normal(shift * quality, 1.2, samples) for name, shift in SETS.items()}
        edges = np.histogram_bin_edges(np.concatenate([inside, *draws.values()]), 40)
        counts = {name: np.histogram(s, edges)[0].tolist() for name, s in {"digits": inside, **draws}.items()}
        results["histograms"][score] = {"edges": edges.tolist(), "counts": counts}
        results["roc"][score] = {}
        for name, outside in draws.items():
            labels, values = np.repeat([0, 1], samples), np.concatenate([inside, outside])
            auroc = float(roc_auc_score(labels, values))
            fpr, tpr, _ = roc_curve(labels, values)
            keep = np.linspace(0, len(fpr) - 1, min(len(fpr), 200)).astype(int)
            results["roc"][score][name] = {"fpr": fpr[keep].tolist(), "tpr": tpr[keep].tolist()}
            results["sets"][name][score] = {
                "auroc": auroc,
                "auroc_low": max(0.0, auroc - 0.02),
                "auroc_high": min(1.0, auroc + 0.02),
                "ap_ood": auroc,
                "ap_id": auroc * 0.99,
                "fpr95_ood_positive": 1 - auroc,
                "fpr95_id_positive": 1 - auroc,
            }
    for kind in ("near", "far"):
        sets = [figures for name, figures in results["sets"].items() if name.startswith(kind)]
        figure_names = ("auroc", "ap_ood", "ap_id", "fpr95_ood_positive", "fpr95_id_positive")
        results[f"{kind}_mean"] = {
            score: {key: float(np.mean([figures[score][key] for figures in sets])) for key in figure_names}
            for score in scores
        }
    return results


def history(seed=0, epochs=30):
    rng = np.random.default_rng(seed)
    decay = np.exp(-np.arange(epochs) / 8)
    return [
        {
            "epoch": epoch,
            "step": 19 * (epoch + 1),
            "train/loss": 2.2 * decay[epoch] + 0.05 + 0.03 * rng.random(),
            "val/loss": 2.0 * decay[epoch] + 0.12 + 0.04 * rng.random(),
            "val/acc": 0.97 - 0.8 * decay[epoch] + 0.01 * rng.random(),
            "train/p_x": float(rng.normal()),
        }
        for epoch in range(epochs)
    ]


def run_record(title, seed=0, scores=("msp", "energy"), skill=1.0, sharpness=1.0):
    ramp = np.linspace(0, 255, 48 * 48 * 3).astype(np.uint8).reshape(48, 48, 3)
    return {
        "format": 1,
        "title": title,
        "model": title,
        "data": "DigitsDataModule",
        "arguments": {"model": {"lr": 1e-3, "width": 32}, "data": {"batch_size": 64}},
        "parameters": 123456,
        "seed": "0",
        "device": "cpu (x86_64), 1 threads",
        "processes": 1,
        "precision": "32-true",
        "versions": {"python": "3.11.7", "torch": "2.15.0"},
        "notes": {"recoveries": 1} if title == "JEM" else {},
        "written": "2026-01-02T03:04:05+00:00",
        "seconds": {"fit": 75.0, "test": 3.2},
        "history": history(seed),
        "metrics": {"test/acc": 0.97},
        "calibration": calibration_results(seed, skill=skill, sharpness=sharpness),
        "ood": ood_results(seed, scores, skill=skill),
        "samples": base64.b64encode(png(ramp)).decode(),
    }


VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects ids, references and visible text."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.references, self.tags, self.text = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "srcset"):
                self.references.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def undrawn():
    """Within it figures are made but not drawn as SVG, which takes three quarters of a page's time."""
    return mock.patch("callbacks.shared.html.inline_svg", lambda figure, label, prefix: f'<svg id="{prefix}"></svg>')
