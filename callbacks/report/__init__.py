"""One self-contained HTML page and one machine-readable record per run; several runs side by side.

``python -m callbacks.report RUN_FOLDER [RUN_FOLDER ...] -o comparison.html`` compares finished runs.
"""

from .callback import Report
from .page import render
from .record import load_record

__all__ = ["Report", "load_record", "render"]
