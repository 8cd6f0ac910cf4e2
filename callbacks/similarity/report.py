"""The section on the similarity matrices of the blocks."""

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from ..shared.html import Figures, Record, Runs, gallery, number, per_run, picture, section
from ..shared.sections import Section, add_section
from .figures import similarity_png


def similarity_pictures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results of `SimilarityMatrices` with PNG files in place of the matrices, for the record."""
    blocks = {
        name: {"difference": block["difference"], "picture": similarity_png(block["matrix"])}
        for name, block in results["blocks"].items()
    }
    return dict(results) | {"target": similarity_png(results["target"]), "blocks": blocks}


def similarity_section(runs: Runs, draw: Figures) -> str:
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
    scale = base64.b64encode(similarity_png(np.linspace(-1, 1, 65)[None])).decode()
    legend = f'<p class="scale">&minus;1 <img alt="colours from -1 to 1" src="data:image/png;base64,{scale}"> 1</p>'
    return gallery(figures, "matrices") + "\n" + legend


def _figure(name: str, difference: str, png: str) -> str:
    return picture(png, f"similarity matrix of {name}", f"{escape(name)} <small>{difference}</small>")


add_section(Section(60, ("similarity",), similarity_section))
