"""``python -m callbacks.report RUN_FOLDER [RUN_FOLDER ...] -o report.html``: finished runs side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .page import render
from .record import load_record
from .summary import text_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the comparison and print its tables; return 2 and print one line if a record is missing."""
    parser = argparse.ArgumentParser(prog="python -m callbacks.report", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="RUN_FOLDER", help="holds a report.json")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="the page to write")
    options = parser.parse_args(arguments)
    try:
        records = [load_record(folder) for folder in options.folders]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(render(records), encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{text_table(records)}\n\n{options.output.resolve()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
