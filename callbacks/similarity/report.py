"""The section on the similarity matrices of the blocks."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from ..shared.html import Record, Runs, gallery, number, per_run, section
from .figures import similarity_png

PNG = "data:image/png;base64,"


def similarity_pictures(results: Mapping[str, Any]) -> Record:
    """The results of `SimilarityMatrices` with pictures (PNG in base64) in place of the matrices, for the record."""
    blocks = {
        name: {"difference": block["difference"], "picture": _picture(block["matrix"])}
        for name, block in results["blocks"].items()
    }
    return dict(results) | {"target": _picture(results["target"]), "blocks": blocks}


def similarity_section(runs: Runs) -> str:
    """For each run the target's matrix and those of all blocks, with the differences."""
    note = (
        "Correlation between the features of test images, sorted by class. The target is 1 for two images of the "
        "same class and &minus;1/(K &minus; 1) for others. The number is the mean squared difference from the "
        "target; uncorrelated features would have the one in brackets."
    )
    return section("Similarity of the blocks' features", note, per_run(runs, _matrices))


def _matrices(record: Record) -> str:
    similarity = record.get("similarity")
    if not similarity:
        return ""
    blocks = similarity["blocks"].items()
    figures = [
        _figure("target", f"({number(similarity['uncorrelated'])})", similarity["target"]),
        *(_figure(name, number(block["difference"]), block["picture"]) for name, block in blocks),
    ]
    scale = _picture(np.linspace(-1, 1, 65)[None])
    legend = f'<p class="scale">&minus;1 <img alt="colours from -1 to 1" src="{PNG}{scale}"> 1</p>'
    return gallery(figures, "matrices") + "\n" + legend


def _figure(name: str, figure: str, picture: str) -> str:
    caption = f"<figcaption>{escape(name)} <small>{figure}</small></figcaption>"
    return f'<figure>{caption}<img alt="similarity matrix of {escape(name)}" src="{PNG}{escape(picture)}"></figure>'


def _picture(matrix: np.ndarray) -> str:
    return base64.b64encode(similarity_png(matrix)).decode()
