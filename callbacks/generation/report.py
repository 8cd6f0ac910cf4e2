"""The section of samples."""

from html import escape

from ..shared.html import Figures, Runs, gallery, picture, section
from ..shared.sections import Section, add_section


def samples_section(runs: Runs, draw: Figures) -> str:
    """The last grid of each run."""
    grids = {name: record["samples"] for name, record in runs.items() if record.get("samples")}
    captions = {name: escape(name) if len(runs) > 1 else "" for name in grids}
    pictures = (picture(png, f"samples of {name}", captions[name]) for name, png in grids.items())
    return section("Samples", "Drawn by the model itself.", gallery(pictures))


add_section(Section(70, ("samples",), samples_section))
